"""A folder that `docker compose up` starts from: the compose file, settings, rules, boards, and keys nobody chose."""

import os
import re
import secrets
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.errors import SettingsError
from monitoring.alerting import alertmanager, rulefiles
from monitoring.alerting.prometheus import Targets, configuration
from monitoring.alerting.recording import duration
from monitoring.alerting.thresholds import Thresholds

CONTAINERS = Path(__file__).parents[1] / "containers"
BOARDS = Path(__file__).parents[2] / "dashboards" / "grafana"
DATASOURCE = "nbridge-prometheus"
SERVERS = ("server-a", "server-b")
_KEY_BYTES = 32


def files(models: tuple[str, str], settings: Thresholds, *, notes: list[str]) -> dict[str, str]:
    """Path in the folder → text of everything but the keys. `notes` head the gateway's settings."""
    names = served_names(models)
    texts = {name: (CONTAINERS / name).read_text(encoding="utf-8") for name in ("compose.yaml", "compose.gpu.yaml")}
    texts["gateway.toml"] = _gateway(names, notes)
    prometheus = _prometheus(settings)
    texts["prometheus/prometheus.yml"] = rulefiles.to_yaml(prometheus)
    for name, text in rulefiles.render(settings).items():
        texts[f"prometheus/rules/{name}"] = text
    document, secret_files = alertmanager.configuration(settings, Path("/etc/alertmanager/secrets"))
    if secret_files:
        raise SettingsError("Receivers with secrets do not go into a compose folder yet; add them there by hand.")
    texts["alertmanager/alertmanager.yml"] = rulefiles.to_yaml(document)
    texts["grafana/provisioning/datasources/prometheus.yml"] = rulefiles.to_yaml(
        {
            "apiVersion": 1,
            "datasources": [
                {
                    "name": "Prometheus",
                    "uid": DATASOURCE,
                    "type": "prometheus",
                    "url": "http://prometheus:9090",
                    "isDefault": True,
                    "jsonData": {"timeInterval": duration(settings.timing.scrape_interval_s)},
                }
            ],
        }
    )
    provider = {"name": "nbridge", "type": "file", "options": {"path": "/var/lib/grafana-boards"}}
    texts["grafana/provisioning/dashboards/boards.yml"] = rulefiles.to_yaml({"apiVersion": 1, "providers": [provider]})
    for board in sorted(BOARDS.glob("*.json")):
        texts[f"grafana/boards/{board.name}"] = board.read_text(encoding="utf-8")
    return texts


def environment(models: tuple[str, str], *, stall_s: int | None, memory_gib: int | None) -> dict[str, str]:
    """Path → text of what is made once: `.env`, and for each container the keys that it needs, newly made."""
    names = served_names(models)
    values = {
        "NBRIDGE_VERSION": metadata.version("neural-bridge"),
        "MODEL_A": models[0],
        "NAME_A": names[0],
        "MODEL_B": models[1],
        "NAME_B": names[1],
        **({"HEALTH_STALL_S": str(stall_s)} if stall_s is not None else {}),
        **({"SERVER_MEMORY": f"{memory_gib}g"} if memory_gib is not None else {}),
    }
    # Users send the first as a bearer token; the second only the gateway and the servers know.
    user_key, servers_key = secrets.token_hex(_KEY_BYTES), secrets.token_hex(_KEY_BYTES)
    found = {
        ".env": values,
        "keys/servers.env": {"NBRIDGE_API_KEY": servers_key},
        "keys/gateway.env": {"NBRIDGE_API_KEY": servers_key, "NBRIDGE_USER_KEYS": user_key},
        "keys/grafana.env": {"GF_SECURITY_ADMIN_PASSWORD": secrets.token_urlsafe(24)},
    }
    head = "# Made by `nbridge render compose`, for its owner only; never overwritten: rendering anew keeps it.\n"
    return {path: head + "".join(f"{name}={value}\n" for name, value in one.items()) for path, one in found.items()}


def served_names(models: tuple[str, str]) -> tuple[str, str]:
    """The names in the API: the models' last parts, told apart where they are the same."""
    a, b = (re.sub(r"[^A-Za-z0-9._-]", "-", one.rstrip("/").rpartition("/")[2]) for one in models)
    return (a, b) if a != b else (f"{a}-a", f"{b}-b")


def write(texts: Mapping[str, str], once: Mapping[str, str], out: Path) -> bool:
    """Write the folder; whether what is made once is new. Raises SettingsError when that cannot be done."""
    try:
        is_new = not any((out / name).exists() for name in once)
        for name, text in texts.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name, text in once.items() if is_new else ():
            (out / name).parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}.") from None
    return is_new


def _gateway(names: tuple[str, str], notes: list[str]) -> str:
    head = "".join(f"# {note}\n" for note in notes)
    servers = "".join(
        f'\n[[server]]\nname = "{host}"\nurl = "http://{host}:8000"\nmodel = "{name}"\n'
        'api_key_env = "NBRIDGE_API_KEY"\n'
        for host, name in zip(SERVERS, names, strict=True)
    )
    return f"""{head}[gateway]
host = "0.0.0.0"                  # of the container; the port is published on the loopback address
port = 8080
metrics_host = "0.0.0.0"
api_keys_env = "NBRIDGE_USER_KEYS"

[limits]
drain_s = 120

[health]
canary_deadline_s = 5             # a CPU's steps take long; 1.5 is for GPUs
{servers}
[policy]
default = "{names[0]}"
"""


def _prometheus(settings: Thresholds) -> dict[str, Any]:
    targets = Targets(
        servers=tuple(f"http://{name}:8000" for name in SERVERS),
        exporters=("http://gpu-exporter:9400",),
        gateways=("http://gateway:8405",),
    )
    document = configuration(
        settings, targets, rule_files=[], prometheus="localhost:9090", alertmanager="alertmanager:9093"
    )
    document["rule_files"] = ["/etc/prometheus/rules/*.yml"]
    for job in document["scrape_configs"]:
        if job["job_name"] == settings.jobs.gpus:
            # Found by name: without the profile gpu there is none, and nothing is down.
            job.pop("static_configs")
            job["dns_sd_configs"] = [{"names": ["gpu-exporter"], "type": "A", "port": 9400}]
    document["scrape_configs"] += [
        {"job_name": "node", "static_configs": [{"targets": ["node-exporter:9100"]}]},
    ]
    return document
