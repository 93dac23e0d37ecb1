"""What a gateway's own page says: who answers behind it, by which model, and what clouds have cost. Pure."""

from typing import Any

from dashboards.screens.live.sources import GATEWAY as PREFIX
from inputs.quantities import MISSING, count, number, share
from monitoring.scrape.window import Scrape, Window

Rows = list[dict[str, Any]]


def _labels(page: Scrape, name: str) -> list[dict[str, str]]:
    return [dict(labels) for labels in page.series.get(f"{PREFIX}{name}", {})]


def backends(scrapes: tuple[Scrape, ...]) -> Rows:
    """One row per server behind the gateway; rates are over these scrapes."""
    window, page = Window(scrapes), scrapes[-1]
    rows = []
    for one in sorted(_labels(page, "server_up"), key=lambda labels: (labels["model"], labels["server"])):
        of = {"model": one["model"], "server": one["server"]}
        asked = window.increase(f"{PREFIX}requests_total", **of)
        failed = window.increase(f"{PREFIX}requests_total", **of, code="5xx")
        rate = window.rate(f"{PREFIX}requests_total", **of)
        rows.append(
            {
                "Server": one["server"],
                "Model": one["model"],
                "Kind": one.get("kind", MISSING),
                "State": "takes requests" if page.total(f"{PREFIX}server_up", **of) else "out",
                "Running": count(page.total(f"{PREFIX}requests_running", **of)),
                "Requests/s": number(rate),
                "HTTP 5xx": share((failed or 0.0) / asked) if asked else MISSING,
                "Ejections": count(page.total(f"{PREFIX}ejections_total", **of)),
            }
        )
    return rows


def routes(scrapes: tuple[Scrape, ...]) -> Rows:
    """One row per model that the gateway answers for."""
    window, page = Window(scrapes), scrapes[-1]
    rows = []
    for model in sorted({one["model"] for one in _labels(page, "servers_up")}):
        servers = [one for one in _labels(page, "server_up") if one["model"] == model]
        retried = window.increase(f"{PREFIX}retries_total", model=model)
        rows.append(
            {
                "Model": model,
                "Servers up": f"{count(page.total(f'{PREFIX}servers_up', model=model))} of {len(servers)}",
                "Requests/s": number(window.rate(f"{PREFIX}requests_total", model=model)),
                "Waiting": count(page.total(f"{PREFIX}requests_waiting", model=model)),
                "Sent to another": count(retried),
            }
        )
    return rows


def budgets(page: Scrape, warn_share: float) -> Rows:
    """One row per cloud and period: spent of its limit."""
    rows = []
    for one in sorted(_labels(page, "spent_usd"), key=lambda labels: sorted(labels.items())):
        spent = page.total(f"{PREFIX}spent_usd", **one)
        limit = page.total(f"{PREFIX}budget_usd", **one)
        used = spent / limit if spent is not None and limit else None
        state = "no limit" if used is None else "spent" if used >= 1 else "nearly spent" if used >= warn_share else "ok"
        rows.append(
            {
                "Cloud": one["cloud"],
                "Each": one["period"],
                "Spent": f"${number(spent)}",
                "Limit": f"${number(limit)}" if limit else MISSING,
                "Used": share(used),
                "State": state,
            }
        )
    return rows


def remark(scrapes: tuple[Scrape, ...]) -> str:
    """What is unusual about the gateway now, and what one's own servers saved."""
    page, said = scrapes[-1], []
    if page.total(f"{PREFIX}retries_allowed") == 0:
        said.append("Failed requests are not repeated now: too many fail.")
    reserved, saved = page.total(f"{PREFIX}reserved_usd"), page.total(f"{PREFIX}saved_usd_total")
    if reserved:
        said.append(f"Requests in work at clouds may still cost ${number(reserved)}.")
    if saved is not None:
        against = sorted({one["against"] for one in _labels(page, "saved_usd_total")})
        said.append(f"What one's own servers answered would have cost ${number(saved)} at {', '.join(against)}.")
    return " ".join(said)
