"""What a run established, for a terminal: a row per engine and load, and the verdict below."""

from rich.console import Group, RenderableType
from rich.text import Text

from inputs.quantities import MISSING, number, seconds
from planning.tables import table
from reports.measured.cells import Cell, Report
from reports.measured.loads import Load
from reports.measured.repeats import metric_spread
from reports.names import shortened
from reports.statements.headline import headline
from reports.statements.ranking import THROUGHPUT
from reports.statements.verdict import outcome_of

_TIMES = (("TTFT p50", "ttft_s.p50"), ("TTFT p95", "ttft_s.p95"), ("ITL p50", "itl_s.p50"), ("E2E p50", "e2e_s.p50"))


def summary(report: Report) -> RenderableType:
    """The table of engines and loads, medians over the valid repeats, and the verdict in at most three sentences."""
    parts: list[RenderableType] = [_table(report)] if report.cells else []
    return Group(*parts, Text(f"\n{' '.join(headline(report))}" if parts else " ".join(headline(report))))


def _table(report: Report) -> RenderableType:
    pairs = [(engine, load) for engine in report.engines for load in report.loads]
    planned = [(engine, load, cells) for engine, load in pairs if (cells := _cells(report, engine, load))]
    times = [(word, name) for word, name in _TIMES if any(_median(report, *at[:2], name) is not None for at in planned)]
    rows = [
        [
            shortened(engine, 40),
            load.name,
            _valid(cells),
            number(_median(report, engine, load, THROUGHPUT)),
            *(seconds(_median(report, engine, load, name)) for _, name in times),
        ]
        for engine, load, cells in planned
    ]
    shown = table()
    for head in ("engine", "load", "valid"):
        shown.add_column(head)
    for head in ("output tok/s", *(word for word, _ in times)):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(*(Text(entry) for entry in row))
    return shown


def _cells(report: Report, engine: str, load: Load) -> list[Cell]:
    return [cell for cell in report.of_engine(engine) if cell.load == load]


def _median(report: Report, engine: str, load: Load, name: str) -> float | None:
    found = metric_spread(report.repeats(engine, load), name)
    return None if found is None else found.median


def _valid(cells: list[Cell]) -> str:
    measured = sum(cell.measured for cell in cells)
    if measured == len(cells):
        return "yes" if measured == 1 else f"all {measured}"
    if measured:
        return f"{measured} of {len(cells)}"
    return ", ".join(dict.fromkeys(outcome_of(cell) for cell in cells)) or MISSING
