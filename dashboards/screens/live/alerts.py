"""The alerts that fire now, as an Alertmanager, or a Prometheus by itself, tells them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from dashboards.errors import SourceError
from monitoring.scrape.address import reachable
from monitoring.scrape.http_exchange import certificates

LOCAL = "http://127.0.0.1:9093"  # where `nbridge stack` puts its Alertmanager


@dataclass(frozen=True)
class Firing:
    """One alert. `runbook` is a link that a browser opens, or None."""

    name: str
    severity: str
    summary: str
    since: str
    runbook: str | None
    about: str


def ask(alertmanager: str, *, timeout_s: float = 3.0) -> list[Firing]:
    """What the Alertmanager at this address tells people now: silenced and inhibited alerts are left out."""
    query = {"active": "true", "silenced": "false", "inhibited": "false"}
    found = _json(f"{reachable(alertmanager)}/api/v2/alerts", f"Alertmanager at {alertmanager}", query, timeout_s)
    if not isinstance(found, list):
        raise SourceError(f"Alertmanager at {alertmanager} answers, but not as an Alertmanager does.")
    return _sorted([_firing(one, "startsAt") for one in found if isinstance(one, dict)])


def ask_prometheus(prometheus: str, *, timeout_s: float = 3.0) -> list[Firing]:
    """What fires at this Prometheus, without anybody's silences."""
    found = _json(f"{reachable(prometheus)}/api/v1/alerts", f"Prometheus at {prometheus}", {}, timeout_s)
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("alerts"), list):
        raise SourceError(f"Prometheus at {prometheus} answers, but not as a Prometheus does.")
    alerts = [one for one in data["alerts"] if isinstance(one, dict) and one.get("state") == "firing"]
    return _sorted([_firing(one, "activeAt") for one in alerts])


def _json(url: str, who: str, query: Mapping[str, str], timeout_s: float) -> Any:
    try:
        answer = httpx.get(url, params=dict(query), timeout=timeout_s, trust_env=False, verify=certificates())
        answer.raise_for_status()
        return answer.json()
    except httpx.HTTPStatusError as error:
        raise SourceError(f"{who} answers HTTP {error.response.status_code}.") from error
    except httpx.HTTPError as error:
        raise SourceError(f"{who} does not answer ({type(error).__name__}).") from error
    except ValueError as error:
        raise SourceError(f"{who} answers, but not with JSON.") from error


def _firing(alert: Mapping[str, Any], since: str) -> Firing:
    labels, annotations = (_texts(alert.get(name)) for name in ("labels", "annotations"))
    link = annotations.get("runbook_url", "")
    return Firing(
        name=labels.get("alertname", "unnamed"),
        severity=labels.get("severity", "–"),
        summary=annotations.get("summary") or annotations.get("description") or "–",
        since=str(alert.get(since) or "")[:19].replace("T", " "),
        runbook=link if link.startswith(("http://", "https://")) else None,
        about=labels.get("instance") or labels.get("server") or labels.get("gpu") or "–",
    )


def _texts(found: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _sorted(found: list[Firing]) -> list[Firing]:
    order = {"critical": 0, "page": 0, "warning": 1}
    return sorted(found, key=lambda one: (order.get(one.severity, 2), one.since, one.name))
