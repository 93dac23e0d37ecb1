"""Every alert against invented series, judged by promtool: silent before, fires with these words, resolves after."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from alert_case import Case
from gateway_alert_cases import GATEWAY_CASES
from gpu_alert_cases import GPU_CASES
from server_alert_cases import SERVER_CASES

from monitoring.alerting import rulefiles
from monitoring.alerting.alerts import WATCHDOG, section
from monitoring.alerting.thresholds import Thresholds, load

ROOT = Path(__file__).parents[2]
# Of the watching itself.
OWN_CASES = [
    Case(
        "RulesFailing",
        "self.yml",
        {
            'prometheus_rule_evaluation_failures_total{instance="p:9090",rule_group="x;nbridge-gpu"}': "0x10 3x80",
        },
        silent="45s",
        fires="60s",
        over="360s",
        severity="warning",
        labels={"instance": "p:9090", "rule_group": "x;nbridge-gpu"},
        summary="Prometheus could not evaluate rules of x;nbridge-gpu: its alerts may be silent",
    ),
    Case(
        "NotificationsFailing",
        "self.yml",
        {
            'alertmanager_notifications_failed_total{instance="p:9093",job="alertmanager",integration="webhook"}': (
                "0x10 2x80"
            ),
            'alertmanager_notifications_failed_total{instance="p:9093",job="alertmanager",integration="email"}': "0x90",
        },
        silent="45s",
        fires="300s",
        over="360s",
        labels={"instance": "p:9093", "integration": "webhook"},
        summary="Alertmanager could not deliver 2 notifications by webhook in 5m: alerts do not reach anybody there",
    ),
]
CASES = [*SERVER_CASES, *GPU_CASES, *GATEWAY_CASES, *OWN_CASES]


@pytest.fixture(scope="module")
def settings() -> Thresholds:
    """The defaults, and what only a measured run can set."""
    return load(derived={"load": {"in_flight_max": 4}, "derived": {"load.in_flight_max": "From run r: the knee."}})


@pytest.fixture(scope="module")
def rule_folder(settings: Thresholds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    rulefiles.write(settings, folder)
    return folder


def promtool_test(case: Case, rule_file: Path) -> dict[str, Any]:
    """The case as promtool reads it; what fires must be exactly the one expected alert, labels and words."""
    fired = {
        "exp_labels": {**case.labels, "severity": case.severity},
        "exp_annotations": {
            "summary": case.summary,
            "runbook_url": f"docs/runbooks.md#{section(case.alert)}",
            **case.annotations,
        },
    }
    moments = [(case.silent, []), (case.fires, [fired]), (case.over, [])]
    return {
        "rule_files": [str(rule_file)],
        "evaluation_interval": case.step,
        "tests": [
            {
                "interval": case.step,
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {"eval_time": moment, "alertname": case.alert, "exp_alerts": alerts} for moment, alerts in moments
                ],
            }
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_and_resolves(case: Case, rule_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.yml"
    path.write_text(rulefiles.to_yaml(promtool_test(case, rule_folder / case.file)), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_case(settings: Thresholds) -> None:
    rules = [rule for _, group in rulefiles.groups(settings).values() for rule in group if "alert" in rule]
    assert {rule["alert"] for rule in rules} == {case.alert for case in CASES} | {WATCHDOG}


def test_the_watchdog_fires_whatever_happens(settings: Thresholds) -> None:
    rules = [rule for _, group in rulefiles.groups(settings).values() for rule in group]
    (watchdog,) = [rule for rule in rules if rule.get("alert") == WATCHDOG]
    # Of no series, and at once: that it arrives is tested with the real programs.
    assert (watchdog["expr"], watchdog.get("for"), watchdog["labels"]) == ("vector(1)", None, {"severity": "none"})


def test_every_alert_has_its_runbook(settings: Thresholds) -> None:
    headings = {
        line.removeprefix("## ").strip()
        for line in (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("## ")
    }
    alerts = {rule["alert"] for _, rules in rulefiles.groups(settings).values() for rule in rules if "alert" in rule}
    # A heading's anchor is its text in lower case with dashes for blanks: "GPU hot" → gpu-hot.
    assert {section(alert) for alert in alerts} <= {heading.lower().replace(" ", "-") for heading in headings}
