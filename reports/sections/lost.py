"""Why requests were not answered, cause by cause. Pure."""

from typing import Any

from inputs.quantities import MISSING, count, seconds, share
from reports.measured.cells import Cell, Report
from reports.tables import Column, Entry, Table, table


def lost(report: Report) -> Table | None:
    """Why requests were not answered, by cause, the most frequent first in each cell; None when all were."""
    columns = [
        Column("Cell", numeric=False),
        Column("Cause", numeric=False),
        Column("In the server's words", numeric=False),
        Column("Requests"),
        Column("Share of all"),
        Column("Asked to wait"),
    ]
    rows: list[list[str | Entry]] = [
        [
            cell.id,
            _cause(cause),
            cause["error"] or MISSING,
            count(cause["requests"]),
            share(cause["share"]),
            "" if cause["retry_after_s"] is None else seconds(cause["retry_after_s"]),
        ]
        for cell in report.every
        for cause in _causes(cell)
    ]
    if not rows:
        return None
    note = "Numbers in a server's words are shown as #, so that one cause is one row."
    return table("cells-lost", "Requests that were not answered, by cause", columns, rows, (note,))


def _causes(cell: Cell) -> list[dict[str, Any]]:
    found = (cell.metrics or {}).get("causes") if cell.records else None
    return found if isinstance(found, list) else []


def _cause(cause: dict[str, Any]) -> str:
    outcome, kind = str(cause["outcome"]), cause["error_kind"]
    return outcome.replace("_", " ") + (f" ({kind.replace('_', ' ')})" if kind else "")
