"""What went wrong: one entry for each cause, with the cells it struck. Pure."""

from dataclasses import dataclass

from inputs.quantities import plural
from reports.measured.cells import Cell, Report
from reports.names import listing
from reports.statements.verdict import outcome_of


@dataclass(frozen=True)
class Problem:
    """A cause: which cells it struck and what is known about it, in the engine's own words where it left some."""

    title: str
    cells: tuple[str, ...]
    paragraphs: tuple[str, ...]


def problems(report: Report) -> list[Problem]:
    """Every cell without a valid measurement, cells of one engine with the same outcome and reason taken together."""
    found: dict[tuple[str, str, tuple[str, ...]], list[Cell]] = {}
    for cell in report.every:
        if not cell.measured and cell.outcome != "dropped":  # of a contest, which has a section of its own
            found.setdefault((cell.engine, outcome_of(cell), _reasons(cell)), []).append(cell)
    return [
        Problem(
            f"{engine}: {outcome}",
            tuple(cell.id for cell in cells),
            (*reasons, *_kept(cells)),
        )
        for (engine, outcome, reasons), cells in found.items()
    ]


def _reasons(cell: Cell) -> tuple[str, ...]:
    said = [cell.records_error, cell.reason]
    if cell.valid is False:
        said += (cell.document.get("validity") or {}).get("reasons") or []
    unique = tuple(dict.fromkeys(text.strip() for text in said if isinstance(text, str) and text.strip()))
    if unique:
        return tuple(text for text in unique if not any(text != other and text in other for other in unique))
    if cell.outcome == "pending":
        return ("The run ended before this cell's turn. Go on with `nbridge bench --resume`.",)
    return ("No reason was recorded.",)


def _kept(cells: list[Cell]) -> list[str]:
    kept = [cell for cell in cells if cell.records and not cell.shown]
    if not kept:
        return []
    records = sum(cell.records or 0 for cell in kept)
    answered = sum((cell.metrics or {})["requests"]["ok"] for cell in kept if cell.metrics)
    return [
        f"{plural(records, 'request was', 'requests were')} recorded before the end, {answered:,} of them answered. "
        "No rates or latencies are given, because they would describe only the part that worked."
    ]


def affected(problem: Problem) -> str:
    """The cells that a problem struck, for a reader."""
    return listing(list(problem.cells), 12)
