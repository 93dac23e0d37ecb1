"""All that a run says, in words: what the measured cells establish, what they do not, and what is missing. Pure.

Each function returns one statement or nothing, and says nothing that was not measured.
"""

from bench.run.stats.window import cut_by_time
from inputs.quantities import in_words, plural
from reports.measured.cells import Cell, Report
from reports.measured.repeats import ENOUGH, fewest, planned_repeats
from reports.names import listing, shortened
from reports.statements import energy, quality
from reports.statements.answers import counted_by, lengths
from reports.statements.capacities import capacities, searched
from reports.statements.contest import contest
from reports.statements.hidden_states import hidden_states
from reports.statements.ranking import best_latency_open, best_throughput, shortest_ttft, slo_met

OUTCOMES = {
    "ok": "ok",
    "invalid": "invalid",
    "unsupported": "unsupported by the engine",
    "oom": "out of memory",
    "timeout": "timed out",
    "failed": "failed",
    "skipped": "skipped",
    "dropped": "dropped by the contest",
    "pending": "not run yet",
}


def verdict(report: Report) -> list[str]:
    """Every statement of the report; its headline (`headline`) is the short form."""
    statements = (
        scope(report),
        contest(report),
        best_throughput(report),
        best_latency_open(report),
        shortest_ttft(report),
        hidden_states(report),
        slo_met(report),
        energy.least(report),
        capacities(report),
        searched(report),
        not_measured(report),
        interrupted(report),
        failed_requests(report),
        cut_short(report),
        counted_by(report),
        lengths(report),
        resolution(report),
        quality.statement(report),
        mismatch(report),
    )
    return [statement for statement in statements if statement]


def _model(report: Report) -> str:
    models = {str(cell.document["engine"].get("model")) for cell in report.every}
    return f" of {_name(models.pop())}" if len(models) == 1 and models != {"None"} else ""


def _name(engine: str) -> str:
    return shortened(engine, 60)


def scope(report: Report) -> str:
    """What was planned and how much of it gave a measurement."""
    total, measured = len(report.cells), len(report.measured)
    if not total:
        nothing = "This run has no cells: nothing was planned and nothing was measured."
        return "" if report.points else nothing
    engines, loads, repeats = report.engines, report.loads, planned_repeats(report)
    configurations = "configuration" if len(engines) == 1 else "configurations"
    subject = f"{in_words(len(engines)).capitalize()} engine {configurations}{_model(report)}"
    subject += f" ({listing([_name(engine) for engine in engines])})"
    planned = f" under {in_words(len(loads))} load{'s' * (len(loads) > 1)}"
    if repeats > 1:
        planned += f", {in_words(repeats)} repeats each"
    have, was = ("have", "were") if len(engines) > 1 else ("has", "was")
    if measured == total:
        cells = {1: "the only cell is", 2: "both cells are"}.get(total, f"all {in_words(total)} cells are")
        return f"{subject} {have} been measured{planned}; {cells} valid."
    if not measured:
        return (
            f"{subject} {was} to be measured{planned}, but no cell gave a valid measurement: "
            "this report cannot say anything about performance."
        )
    gave = f"{in_words(measured)} of {in_words(total)} cells gave a valid measurement"
    return f"{subject} {was} to be measured{planned}; {gave}."


def not_measured(report: Report) -> str:
    """The cells without a valid measurement, by outcome and by name."""
    parts = []
    by_outcome: dict[str, list[Cell]] = {}
    for cell in report.cells:
        if not cell.measured:
            by_outcome.setdefault(outcome_of(cell), []).append(cell)
    for outcome, cells in by_outcome.items():
        engines = dict.fromkeys(cell.engine for cell in cells)
        whole = [name for name in engines if all(c in cells for c in report.of_engine(name))]
        names = [f"all of {_name(name)}" if len(report.of_engine(name)) > 1 else _name(name) for name in whole]
        names += [cell.id for cell in cells if cell.engine not in whole]
        parts.append(f"{outcome}: {plural(len(cells), 'cell')} ({listing(names, 4)})")
    if not parts:
        return ""
    comparison = " Invalid cells are left out of every comparison." if "invalid" in by_outcome else ""
    return f"Without a valid measurement – {'; '.join(parts)}; the reasons are under “What went wrong”.{comparison}"


def outcome_of(cell: Cell) -> str:
    """What became of a cell, in words; a cell that ran but failed a check is invalid."""
    if cell.records_error is not None:
        return "records unreadable"
    if cell.outcome == "ok" and cell.valid is False:
        return OUTCOMES["invalid"]
    if cell.outcome == "ok" and not cell.shown:
        return "no requests recorded"
    return OUTCOMES.get(cell.outcome, cell.outcome)


def failed_requests(report: Report) -> str:
    """How many requests of the compared cells were not answered in full."""
    lost = total = cells = 0
    for cell in report.measured:
        requests = (cell.metrics or {})["requests"]
        missing = requests["total"] - requests["ok"]
        if missing:
            lost, total, cells = lost + missing, total + requests["total"], cells + 1
    if not lost:
        return ""
    return (
        f"In {plural(cells, 'valid cell')}, {lost:,} of {total:,} requests were not answered in full; they enter no "
        "latency."
    )


def cut_short(report: Report) -> str:
    """Which of the compared cells sent fewer requests than planned because their time was over."""
    counts = [(cell, cell.document["load"], (cell.metrics or {})["requests"]["total"]) for cell in report.measured]
    cut = [f"{_name(cell.id)} ({sent} of {load['requests']})" for cell, load, sent in counts if cut_by_time(load, sent)]
    if not cut:
        return ""
    named = listing(cut, 6)
    return f"The time of {plural(len(cut), 'load')} was over before all requests were sent: {named}."


def resolution(report: Report) -> str:
    """How small a difference the repeats can establish."""
    least = fewest(report)
    if not least or len(report.measured) < 2:
        return ""
    if least == 1:
        return "One repeat per cell: differences below about 10 % are not established."
    if least < ENOUGH:
        return (
            f"{in_words(least).capitalize()} repeats per cell: insufficient for a verdict on small differences "
            f"({in_words(ENOUGH)} are needed)."
        )
    return (
        f"{in_words(least).capitalize()} repeats per cell: engines are told apart when their intervals do not overlap."
    )


def mismatch(report: Report) -> str:
    """Whether run.json stores other numbers than its records give."""
    changed = [cell.id for cell in report.every if cell.differences]
    if not changed and not report.quality_differs:
        return ""
    of_quality = f"the quality of {listing(list(report.quality_differs), 4)}" if report.quality_differs else ""
    of_cells = f"{plural(len(changed), 'cell')} ({listing(changed, 4)})" if changed else ""
    return (
        "Attention: the numbers stored in run.json differ from what the records give in "
        f"{listing([text for text in (of_cells, of_quality) if text])}; this report shows the recomputed ones."
    )


def interrupted(report: Report) -> str:
    """Whether the run went to its end."""
    if not unfinished(report):
        return ""
    return "The run is not finished: it still goes on or was interrupted."


def unfinished(report: Report) -> bool:
    """Whether the run still goes on or was interrupted."""
    return report.document.get("finished") is None
