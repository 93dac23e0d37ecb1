"""What `nbridge stack` writes for Prometheus and Alertmanager, and what it refuses before anything is started."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.studies.targets import Page, vllm_page
from monitoring.alerting import alertmanager, prometheus, rulefiles, stack
from monitoring.alerting.prometheus import Targets
from monitoring.alerting.thresholds import Thresholds, load
from monitoring.errors import MissingProgram, SettingsError

Nbridge = Callable[..., subprocess.CompletedProcess[str]]
RECEIVERS = """
[[receivers]]
kind = "webhook"
name = "pager"
url_env = "PAGER_URL"
token_env = "PAGER_TOKEN"
severities = ["critical"]
[[receivers]]
kind = "email"
name = "team"
to = "team@example.org"
sender = "alerts@example.org"
smarthost = "mail.example.org:587"
username = "alerts"
password_env = "MAIL_PASSWORD"
[[receivers]]
kind = "chat"
name = "channel"
url_env = "CHAT_URL"
channel = "#inference"
[[receivers]]
kind = "heartbeat"
name = "switch"
url_env = "SWITCH_URL"
"""
SECRETS = {
    "PAGER_URL": "https://pager.example.org/S1",
    "PAGER_TOKEN": "S2",
    "MAIL_PASSWORD": "S3",
    "CHAT_URL": "https://chat.example.org/S4",
    "SWITCH_URL": "https://switch.example.org/S5",
}


def settings_of(tmp_path: Path, text: str) -> Thresholds:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_receivers_satisfy_amtool_and_secrets_stand_in_files(tmp_path: Path) -> None:
    document, files = alertmanager.configuration(settings_of(tmp_path, RECEIVERS), tmp_path / "config", SECRETS)
    (tmp_path / "config").mkdir()
    for path, content in files.items():
        path.write_text(content)
    config = tmp_path / "alertmanager.yml"
    config.write_text(rulefiles.to_yaml(document), encoding="utf-8")
    done = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted((path.name, content) for path, content in files.items()) == [
        ("channel-url", "https://chat.example.org/S4"),
        ("pager-token", "S2"),
        ("team-password", "S3"),
    ]
    text = config.read_text(encoding="utf-8")
    # an address has no file to name
    assert [secret for secret in ("S1", "S2", "S3", "S4", "S5") if secret in text] == ["S1", "S5"]


def routed(config: Path, *labels: str) -> str:
    argv = ["amtool", "config", "routes", "test", f"--config.file={config}", *labels]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_a_receiver_is_told_of_its_severities_only(tmp_path: Path) -> None:
    document, _ = alertmanager.configuration(settings_of(tmp_path, RECEIVERS), tmp_path, SECRETS)
    config = tmp_path / "alertmanager.yml"
    config.write_text(rulefiles.to_yaml(document), encoding="utf-8")
    assert routed(config, "severity=critical") == "pager,team,channel"
    assert routed(config, "severity=warning") == "team,channel"
    assert routed(config, "severity=info") == "nowhere"
    assert routed(config, "severity=none", "alertname=Watchdog") == "switch"


def test_a_secret_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RECEIVERS)
    with pytest.raises(SettingsError, match="Receiver team: password_env = 'MAIL_PASSWORD', and that variable is not"):
        alertmanager.configuration(settings, tmp_path, {**SECRETS, "MAIL_PASSWORD": ""})


def test_inhibitions_name_alerts_that_exist() -> None:
    settings = load(derived={"load": {"in_flight_max": 4}})
    alerts = {rule.get("alert") for _, rules in rulefiles.groups(settings).values() for rule in rules}
    for cause, symptoms, _ in alertmanager.INHIBITIONS:
        assert {cause, *symptoms} <= alerts
        assert cause not in symptoms


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.0.0.5:8000", {"targets": ["10.0.0.5:8000"]}),
        ("10.0.0.5:8000", {"targets": ["10.0.0.5:8000"]}),
        ("https://llm.example.org", {"targets": ["llm.example.org:443"], "labels": {"__scheme__": "https"}}),
        ("http://h:1/a/", {"targets": ["h:1"], "labels": {"__metrics_path__": "/a/metrics"}}),
        ("http://[::1]:8000", {"targets": ["[::1]:8000"]}),
    ],
)
def test_a_servers_address_becomes_a_target(url: str, expected: dict[str, object]) -> None:
    assert prometheus.static(url) == expected


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.txt", "[]", "must end in .json, .yml or .yaml"),
        ("t.json", "[", "is not valid JSON"),
        ("t.yml", "{", "is not valid YML"),
        ("t.json", "{}", 'holds dict; expected a list such as [{"targets"'),
        ("t.json", '[{"target": ["h:1"]}]', 'entry 1: expected an object with "targets"'),
        ("t.json", '[{"targets": ["h:1"], "lables": {}}]', "unknown key 'lables'; did you mean labels?"),
        ("t.json", '[{"targets": ["http://h:1"]}]', "'http://h:1' is no target; expected host:port, without http://"),
        ("t.json", '[{"targets": ["h:1"], "labels": {"a": 1}}]', '"labels" must be an object of strings'),
        ("t.json", '[{"targets": ["h:1"], "labels": {"job": "x"}}]', "the label job is what the rules tell targets by"),
    ],
)
def test_a_target_file_is_read_before_prometheus_reads_it(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        prometheus.read_targets(path)
    assert told in str(error.value)


def test_a_target_files_servers_get_canaries(tmp_path: Path) -> None:
    path = tmp_path / "t.yml"
    path.write_text('- targets: ["a:1", "b:2"]\n  labels: {__scheme__: https, __metrics_path__: /x/metrics}\n')
    assert prometheus.read_targets(path) == ["https://a:1/x", "https://b:2/x"]
    plan = stack.Plan(load(), Targets(("http://c:3",), (path,)), tmp_path / "data", stack.Ports(1, 2, 3))
    programs = {
        name: shutil.which(name) or "alertmanager" for name in ("prometheus", "promtool", "amtool", "alertmanager")
    }
    exporter = next(part for part in stack.prepare(plan, programs) if part.name == "exporter")
    told = dict(zip(exporter.argv, exporter.argv[1:], strict=False))
    assert (told["--server"], told["--targets"]) == ("http://c:3", str(path))
    assert (told["--canary-interval"], told["--canary-deadline"]) == ("15", "5")


def test_a_gateway_has_two_pages_the_agents_and_haproxys() -> None:
    watched = Targets(gateways=("http://10.0.0.7:8405/metrics",))
    document = prometheus.configuration(load(), watched, rule_files=[], prometheus="p:1", alertmanager="a:2")
    pages = {
        job["job_name"]: job["static_configs"][0]
        for job in document["scrape_configs"]
        if job["job_name"].startswith("gateway")
    }
    assert pages == {
        "gateway": {"targets": ["10.0.0.7:8405"], "labels": {"__metrics_path__": "/nbridge/metrics"}},
        "gateway-haproxy": {"targets": ["10.0.0.7:8405"]},
    }
    none = prometheus.configuration(load(), Targets(), rule_files=[], prometheus="p:1", alertmanager="a:2")
    assert not [job for job in none["scrape_configs"] if job["job_name"].startswith("gateway")]


def test_a_threshold_must_be_a_bound_of_the_servers_own_histogram() -> None:
    lines = [line for line in vllm_page() if "e2e" not in line]
    lines += [f'vllm:e2e_request_latency_seconds_bucket{{le="{le}"}} 0' for le in ("1.0", "4.0", "8.0", "+Inf")]
    with (
        Page(*lines) as server,
        pytest.raises(
            SettingsError, match=r"slo.e2e.threshold_s = 5 is no bound .* the nearest bounds are 4 or 8 \(as"
        ),
    ):
        stack.check_servers(load(), [server.url])


def test_servers_that_are_not_there_yet_are_told_and_watched() -> None:
    with Page(*vllm_page()) as fine, Page("up 1") as other, Page() as page:
        page.html = "<html><body>Welcome</body></html>"
        told = stack.check_servers(load(), [fine.url, other.url, page.url])
    assert told == [
        f"{other.url}/metrics has no vLLM metrics; ServerWithoutMetrics will say so.",
        f"{page.url}/metrics: an HTML page instead of metrics; is it the server's own address?; "
        "it is watched all the same.",
    ]
    assert "it is watched all the same" in stack.check_servers(load(), [fine.url])[0]


def test_missing_programs_are_named_with_their_packages() -> None:
    with pytest.raises(MissingProgram) as error:
        stack.find_programs(lambda name: None if "alertmanager" in name or name == "amtool" else f"/usr/bin/{name}")
    assert "Not on PATH: alertmanager, amtool." in str(error.value)
    assert "apt-get install prometheus-alertmanager," in str(error.value)
    assert error.value.exit_code == 3


def test_rules_with_an_error_are_refused_with_promtools_words(tmp_path: Path, nbridge: Nbridge) -> None:
    rules = tmp_path / "mine.yml"
    rules.write_text("groups: [{name: mine, rules: [{alert: Mine, expr: 'sum(up'}]}]", encoding="utf-8")
    done = nbridge("stack", "--server", "127.0.0.1:1", "--rules", rules, "--data", tmp_path / "data", "--check")
    assert done.returncode == 2
    assert "promtool refuses Prometheus' configuration, and nothing was started. It says:" in done.stderr
    assert 'rule 1, "Mine": could not parse expression' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named_with_its_owner(tmp_path: Path, nbridge: Nbridge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = nbridge("stack", "--server", "127.0.0.1:1", "--data", tmp_path / "data", "--prometheus-port", port)
    assert done.returncode == 2
    assert f"Port {port} of 127.0.0.1, for prometheus, is taken by process " in done.stderr
    assert "--prometheus-port names another" in done.stderr


def test_check_writes_the_configuration_and_starts_nothing(tmp_path: Path, nbridge: Nbridge) -> None:
    ports = [word for name in ("prometheus", "alertmanager", "exporter") for word in (f"--{name}-port", 0)]
    done = nbridge("stack", "--server", "127.0.0.1:1", "--data", tmp_path / "data", "--check", "--json", *ports)
    assert done.returncode == 0, done.stderr
    config = Path(json.loads(done.stdout)["config"])
    assert sorted(path.name for path in config.iterdir()) == [
        "alertmanager.yml",
        "prometheus.yml",
        "rules",
        "settings.json",
    ]
    assert not (tmp_path / "data" / "prometheus").exists()
    assert nbridge("stack").returncode == 2


def test_a_folder_with_somebody_elses_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.toml").touch()
    with pytest.raises(SettingsError, match="has files in it that are not a stack's"), stack.locked(tmp_path):
        pass
    assert (tmp_path / "config" / "mine.toml").exists()
