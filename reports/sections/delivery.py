"""Whether open loads were delivered as they were configured: rates, the arrival process, lateness. Pure."""

from typing import Any

from inputs.quantities import MISSING, number, seconds, share
from reports.measured.cells import Report
from reports.tables import Column, Entry, Table, table

_OFF = ("CV of the gaps, off by", "lag-1 of the gaps, off by")


def delivery(report: Report) -> Table | None:
    """One row per open cell: what was offered and delivered, and of what kind the gaps were; None without any."""
    cells = [cell for cell in report.every if (cell.metrics or {}).get("delivery")]
    if not cells:
        return None
    columns = [
        Column("Cell", numeric=False),
        Column("Arrivals", numeric=False),
        Column("offered", "Requests/s"),
        Column("delivered", "Requests/s"),
        Column("Delivered"),
        *(Column(name, "CV of the gaps") for name in ("delivered", "expected")),
        *(Column(name, "lag-1 of the gaps") for name in ("delivered", "expected")),
        *(Column(name, "Left the client late by") for name in ("p50", "p90", "p99", "max")),
    ]
    rows: list[list[str | Entry]] = []
    for cell in cells:
        found = (cell.metrics or {})["delivery"]
        bad = {check["name"] for check in _checks(cell.document) if check.get("ok") is False}
        late_s = found.get("lateness_s") or {}
        rows.append(
            [
                cell.id,
                str(found.get("process") or MISSING),
                number(found.get("offered_rps")),
                number(found.get("delivered_rps")),
                share(found.get("delivered_share")),
                Entry(_two(found.get("cv")), "bad" if _OFF[0] in bad else ""),
                _within(found.get("cv_expected"), found.get("cv_limit")),
                Entry(_two(found.get("lag1")), "bad" if _OFF[1] in bad else ""),
                _within(found.get("lag1_expected"), found.get("lag1_limit")),
                *(seconds(late_s.get(name)) for name in ("p50", "p90", "p99", "max")),
            ]
        )
    return table(
        "delivery",
        "Open loads: what was delivered of what was offered",
        columns,
        rows,
        (
            "CV is the standard deviation of the gaps between requests ÷ their mean, lag-1 the correlation of each gap "
            "with the next: 1 and 0 where arrivals owe nothing to each other (Poisson). Both are of the instants at "
            "which requests left the client; where the rate changes, gaps are in units of the one expected then.",
        ),
    )


def _checks(document: dict[str, Any]) -> list[dict[str, Any]]:
    return list((document.get("validity") or {}).get("checks") or ())


def _two(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}".replace("-", "−")


def _within(value: float | None, limit: float | None) -> str:
    return MISSING if value is None or limit is None else f"{_two(value)} ± {limit:.2f}"
