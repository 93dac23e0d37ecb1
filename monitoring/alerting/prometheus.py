"""Prometheus' configuration: whom to scrape, which rules to evaluate, whom to tell."""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from inputs import files
from monitoring.alerting.recording import duration
from monitoring.alerting.thresholds import Thresholds
from monitoring.errors import SettingsError
from monitoring.scrape import http_exchange

# A page of one vLLM server has about a thousand series; a target with many more is not one, and is refused.
SAMPLES_PER_SCRAPE_MAX = 20_000
PAGE_BYTES_MAX = "16MB"
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True)
class Targets:
    """Who is watched: servers, exporters and gateways by URL, and files with targets as Prometheus reads them.

    A gateway's URL is that of its metrics, where HAProxy's page and the agent's are.
    """

    servers: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    exporters: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


def configuration(
    settings: Thresholds, targets: Targets, *, rule_files: Sequence[Path], prometheus: str, alertmanager: str
) -> dict[str, Any]:
    """Prometheus' configuration; `prometheus` and `alertmanager` are host:port of the two themselves.

    Raises SettingsError for a target that is no address.
    """
    timing = settings.timing
    # `…_created` is a constant per series: it would nearly double the series of a server and tells nothing.
    drop = [{"source_labels": ["__name__"], "regex": ".*_created", "action": "drop"}]
    limits = {"sample_limit": SAMPLES_PER_SCRAPE_MAX, "body_size_limit": PAGE_BYTES_MAX, "metric_relabel_configs": drop}
    files = [{"files": [str(path.absolute()) for path in targets.files], "refresh_interval": "5s"}]
    return {
        "global": {
            "scrape_interval": duration(timing.scrape_interval_s),
            "scrape_timeout": duration(timing.scrape_timeout_s),
            "evaluation_interval": duration(timing.evaluation_interval_s),
        },
        "rule_files": [str(path.absolute()) for path in rule_files],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": settings.jobs.servers,
                **limits,
                "static_configs": [static(url) for url in targets.servers],
                **({"file_sd_configs": files} if targets.files else {}),
            },
            {"job_name": settings.jobs.gpus, **limits, "static_configs": [static(url) for url in targets.exporters]},
            *_gateways(settings, targets, limits),
            {"job_name": "prometheus", "static_configs": [{"targets": [prometheus]}]},
            {"job_name": "alertmanager", "static_configs": [{"targets": [alertmanager]}]},
        ],
    }


def _gateways(settings: Thresholds, targets: Targets, limits: dict[str, Any]) -> list[dict[str, Any]]:
    if not targets.gateways:
        return []
    urls = [server_address(url) for url in targets.gateways]
    pages = ((settings.jobs.gateways, "/nbridge"), (f"{settings.jobs.gateways}-haproxy", ""))
    return [
        {"job_name": job, **limits, "static_configs": [static(f"{url}{path}") for url in urls]} for job, path in pages
    ]


def static(url: str) -> dict[str, Any]:
    """A target from a base URL: `<url>/metrics` is scraped. Raises SettingsError when it is no http(s) address."""
    parts = urlsplit(server_address(url))
    labels = {}
    if parts.scheme == "https":
        labels["__scheme__"] = "https"
    if parts.path:
        labels["__metrics_path__"] = f"{parts.path}/metrics"
    return {"targets": [parts.netloc], **({"labels": labels} if labels else {})}


def server_address(url: str) -> str:
    """A server's base URL with its port told, so that targets and canaries call it by the same name.

    Raises SettingsError when it is no http(s) address.
    """
    parts = urlsplit(http_exchange.address(url))
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{port}{parts.path.removesuffix('/metrics')}"


def read_targets(path: Path) -> list[str]:
    """The base URLs of all servers in a target file, as they are now. Prometheus reads the file again as it changes.

    Raises SettingsError naming the file and the entry that is not as Prometheus' file_sd wants it.
    """
    if path.suffix not in (".json", ".yml", ".yaml"):
        raise SettingsError(f"The target file {path} must end in .json, .yml or .yaml, or Prometheus does not read it.")
    try:
        text = files.read_text(path)
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"The target file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"The target file {path} is not valid {path.suffix[1:].upper()}: {reason}.") from None
    wanted = 'a list such as [{"targets": ["10.0.0.5:8000"], "labels": {"site": "north"}}]'
    if not isinstance(document, list):
        raise SettingsError(f"The target file {path} holds {type(document).__name__}; expected {wanted}.")
    return [url for number, entry in enumerate(document, start=1) for url in _entry(path, number, entry, wanted)]


def _entry(path: Path, number: int, entry: object, wanted: str) -> list[str]:
    where = f"The target file {path}, entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("targets"), list):
        raise SettingsError(f'{where}: expected an object with "targets": {wanted}.')
    for key in entry:
        if key not in ("targets", "labels"):
            near = difflib.get_close_matches(str(key), ["targets", "labels"], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; only targets and labels are known."
            raise SettingsError(f"{where}: unknown key {key!r}{hint}")
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise SettingsError(f'{where}: "labels" must be an object of strings.')
    if own := {"job", "instance"} & set(labels):
        raise SettingsError(f"{where}: the label {min(own)} is what the rules tell targets by; choose another name.")
    urls = []
    for target in entry["targets"]:
        if not isinstance(target, str) or not _HOST_AND_PORT.fullmatch(target):
            raise SettingsError(f"{where}: {target!r} is no target; expected host:port, without http://.")
        path = labels.get("__metrics_path__", "/metrics")
        urls.append(server_address(f"{labels.get('__scheme__', 'http')}://{target}{path}"))
    return urls
