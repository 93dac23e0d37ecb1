"""The page that alerts link to, and the link itself."""

from pathlib import Path

from monitoring.alerting.alerts import section
from monitoring.alerting.prometheus import Targets
from monitoring.alerting.stack import Plan, Ports, linked
from monitoring.alerting.thresholds import Runbooks, load
from monitoring.gpu.runbook_page import runbook_page


def plan(exporter: int | None, url: str | None = None) -> Plan:
    settings = load()
    if url:
        settings = settings.model_copy(update={"runbooks": Runbooks(url=url)})
    return Plan(settings=settings, targets=Targets((), (), ()), data=Path("x"), ports=Ports(9090, 9093, exporter))


def test_each_section_has_the_anchor_that_its_alert_links_to() -> None:
    page = (runbook_page() or b"").decode()
    for alert in ("GpuHot", "CanaryNeverAnswered", "LatencyP95High"):
        assert f'id="{section(alert)}"' in page


def test_alerts_link_to_a_page_that_opens() -> None:
    assert linked(plan(9401)).runbooks.url == "http://127.0.0.1:9401/runbooks"
    assert linked(plan(None)).runbooks.url.startswith("file:///")
    assert linked(plan(9401, "https://wiki.example.org/runbooks")).runbooks.url == "https://wiki.example.org/runbooks"
