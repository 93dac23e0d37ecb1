"""Alertmanager's configuration: who is told what, and which alerts keep silent because their cause is already told."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monitoring.alerting.alerts import WATCHDOG
from monitoring.alerting.receivers import Chat, Email, Heartbeat, Receiver, Webhook, secret
from monitoring.alerting.recording import duration
from monitoring.alerting.thresholds import Thresholds

_SYMPTOMS = ("LatencyP95High", "QueueTimeHigh", "RequestsWaiting", "KvCachePressure", "AdmissionRejections")
# cause → symptoms that it explains, and the labels in which both must agree. A GPU's fault does not silence its node's
# servers: a node may have several GPUs, and a lost one must not hide that a server on another one goes down.
INHIBITIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "ServerDown",
        ("EngineStalled", "CanaryFailing", "ServerWithoutMetrics", "ServerMemoryGrowing", "LoadPastKnee", *_SYMPTOMS),
        ("instance",),
    ),
    # A hung engine fails its canary first and is known to be stalled later; the other way round it would page twice.
    ("CanaryFailing", ("EngineStalled", "LoadPastKnee", *_SYMPTOMS), ("instance",)),
    ("EngineStalled", ("LoadPastKnee", *_SYMPTOMS), ("instance",)),
    ("EngineStalled", ("ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"), ("model_name",)),
    ("ErrorBudgetBurnFast", ("ErrorBudgetBurnSlow",), ("model_name", "slo")),
    ("ErrorBudgetBurnFast", ("LatencyP95High", "QueueTimeHigh"), ("model_name",)),
    ("KvCachePressure", ("RequestsWaiting", "QueueTimeHigh", "LatencyP95High"), ("instance",)),
    ("AdmissionRejections", ("RequestsWaiting", "QueueTimeHigh"), ("instance",)),
    ("RequestsWaiting", ("QueueTimeHigh", "LoadPastKnee"), ("instance",)),
    ("GpuXidFatal", ("GpuXid", "GpuEccUncorrected", "GpuRowRemapFailed"), ("instance", "uuid")),
    ("GpuXidFatal", ("GpuMissing",), ("instance",)),
    ("GpuThrottled", ("GpuHot",), ("instance", "uuid")),
    ("GatewayServersDown", ("GatewayEjections",), ("instance", "model")),
    ("GatewayBudgetSpent", ("GatewayBudgetNearlySpent",), ("instance", "cloud")),
    ("GpuMissing", ("GpuExporterStale",), ("instance",)),  # a driver that hangs loses its GPUs, too
)

_TITLE = "[{{ .Status | toUpper }}] {{ .CommonLabels.alertname }} ({{ .CommonLabels.severity }})"
_LINES = "{{ range .Alerts }}{{ .Annotations.summary }} (runbook: {{ .Annotations.runbook_url }})\n{{ end }}"


def configuration(
    settings: Thresholds, secrets_folder: Path, environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Alertmanager's configuration, and the secret files (path → content) that it refers to.

    A secret from a variable becomes a file in `secrets_folder`; one from a file is referred to where it is. A webhook's
    address has no such reference in Alertmanager 0.25, so a secret one stands in the configuration itself, which
    therefore must be readable by its owner only. Raises SettingsError for a secret that is missing.
    """
    files: dict[Path, str] = {}
    receivers: list[dict[str, Any]] = [{"name": "nowhere"}]
    routes = []
    for receiver in settings.receivers:
        receivers.append(_receiver(receiver, secrets_folder, environ, files))
        routes.append({"receiver": receiver.name, **_route(receiver), "continue": True})
    document = {
        "route": {
            "receiver": "nowhere",
            "group_by": ["alertname"],
            "group_wait": duration(settings.timing.group_wait_s),
            "group_interval": duration(settings.timing.group_interval_s),
            "repeat_interval": duration(settings.timing.repeat_interval_s),
            **({"routes": routes} if routes else {}),
        },
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{cause}"'],
                "target_matchers": [f'alertname=~"{"|".join(symptoms)}"'],
                "equal": list(equal),
            }
            for cause, symptoms, equal in INHIBITIONS
        ],
        "receivers": receivers,
    }
    return document, files


def _route(receiver: Receiver) -> dict[str, Any]:
    if not isinstance(receiver, Heartbeat):
        return {"matchers": [f'severity=~"{"|".join(receiver.severities)}"']}
    interval = duration(receiver.interval_s)
    # Told again at the first group interval after the repeat interval: half of it is surely over by then.
    often = {"group_wait": "0s", "group_interval": interval, "repeat_interval": duration(receiver.interval_s / 2)}
    return {"matchers": [f'alertname="{WATCHDOG}"'], **often}


def _receiver(receiver: Receiver, folder: Path, environ: Mapping[str, str], files: dict[Path, str]) -> dict[str, Any]:
    def file_of(what: str) -> str | None:
        """The absolute path of the file that holds a secret; one is made for a variable's."""
        value = secret(receiver, what, environ)
        named = getattr(receiver, f"{what}_file")
        if value is None or named is not None:
            return str(Path(named).expanduser().absolute()) if named is not None else None
        path = (folder / f"{receiver.name}-{what}").absolute()
        files[path] = value
        return str(path)

    told = {"send_resolved": not isinstance(receiver, Heartbeat) and receiver.send_resolved}
    match receiver:
        case Webhook() | Heartbeat():
            url = receiver.url or secret(receiver, "url", environ)
            token = file_of("token")
            http = {"http_config": {"authorization": {"credentials_file": token}}} if token else {}
            return {"name": receiver.name, "webhook_configs": [{"url": url, **told, **http}]}
        case Email():
            password = file_of("password")
            login = {"auth_username": receiver.username, "auth_password_file": password} if password else {}
            mail = {
                "to": receiver.to,
                "from": receiver.sender,
                "smarthost": receiver.smarthost,
                "require_tls": receiver.require_tls,
                "headers": {"Subject": _TITLE},
                "text": _LINES,
                "html": "",
            }
            return {"name": receiver.name, "email_configs": [{**mail, **login, **told}]}
        case Chat():
            channel = {"channel": receiver.channel} if receiver.channel else {}
            chat = {"api_url_file": file_of("url"), "title": _TITLE, "text": _LINES, **channel}
            return {"name": receiver.name, "slack_configs": [{**chat, **told}]}
