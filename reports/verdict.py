"""The verdict in words: what the measured cells establish, what they do not, and what is missing. Pure.

Each function returns one statement or nothing, and says nothing that was not measured.
"""

from inputs.quantities import in_words, number, plural, ratio, seconds
from reports import quality
from reports.answers import counted_by, lengths
from reports.capacities import capacities, searched
from reports.hidden_states import hidden_states
from reports.measured.cells import Cell, Load, Report
from reports.measured.repeats import (
    CENTRAL_WORD,
    ENOUGH,
    Spread,
    central,
    fewest,
    metric_spread,
    planned_repeats,
    separated,
)
from reports.names import listing, shortened

THROUGHPUT = "output_throughput_tok_s"
OUTCOMES = {
    "ok": "ok",
    "invalid": "invalid",
    "unsupported": "unsupported by the engine",
    "oom": "out of memory",
    "timeout": "timed out",
    "failed": "failed",
    "skipped": "skipped",
    "pending": "not run yet",
}


def verdict(report: Report) -> list[str]:
    """The report's verdict, a list of sentences to be read as one paragraph."""
    statements = (
        scope(report),
        best_throughput(report),
        best_latency_open(report),
        shortest_ttft(report),
        hidden_states(report),
        slo_met(report),
        capacities(report),
        searched(report),
        not_measured(report),
        interrupted(report),
        failed_requests(report),
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


def _ranked(report: Report, load: Load, name: str, *, highest: bool) -> list[tuple[str, Spread]]:
    """(engine, spread of the metric over its repeats) of those measured under `load`, the best first."""
    found = [(engine, metric_spread(report.repeats(engine, load), name)) for engine in report.engines]
    known = [(engine, item) for engine, item in found if item is not None]
    return sorted(known, key=lambda pair: -pair[1].median if highest else pair[1].median)


def _engines_measured(report: Report) -> list[str]:
    return [engine for engine in report.engines if any(cell.measured for cell in report.of_engine(engine))]


def _name(engine: str) -> str:
    return shortened(engine, 60)


def _at(load: Load) -> str:
    return f"at {load.label}"


def best_throughput(report: Report) -> str:
    """Which engine delivered the most output tokens per second under closed-loop loads, where, and against whom."""
    loads = [load for load in report.loads if load.kind == "closed"]
    ranked = [(load, *pair) for load in loads for pair in _ranked(report, load, THROUGHPUT, highest=True)]
    if not ranked:
        return ""
    load, winner, top = max(ranked, key=lambda entry: entry[2].median)
    engines = _engines_measured(report)
    amount = f"{number(top.median)} output tokens/s {_at(load)}"
    if len(engines) == 1:
        alone = f"Only {_name(winner)} gave a valid measurement, so there is nothing to compare it with: it"
        subject = alone if len(report.engines) > 1 else _name(winner)
        return f"{subject} delivered up to {amount}{_ttft(report, winner, load)}."
    if unknown := [engine for engine in _invalid(report, loads) if engine != winner]:
        return _not_crowned("Which engine delivers the most", unknown, f"{_name(winner)}'s, {amount}")
    rivals = [pair for pair in _ranked(report, load, THROUGHPUT, highest=True) if pair[0] != winner]
    absent = [_name(engine) for engine in engines if engine != winner and engine not in dict(rivals)]
    tail = f"; {listing(absent)} {_has(absent)} no valid measurement at that load" if absent else ""
    close = [pair for pair in rivals if not separated(top, pair[1])]
    if close:
        return f"{_close(winner, amount + _ttft(report, winner, load), close)}{tail}."
    against = f" ({_against(report, rivals, top)})" if rivals else ""
    return (
        f"Of the {in_words(len(engines))} measured engines, {_name(winner)} delivered the most: {amount}{against}"
        f"{_ttft(report, winner, load)}{tail}."
    )


def _invalid(report: Report, loads: list[Load]) -> list[str]:
    """The engines that were measured under one of `loads` and have nothing valid there: they may be the best."""
    return [
        engine
        for engine in report.engines
        if any(
            not report.repeats(engine, load)
            and any(cell.load == load and cell.shown for cell in report.of_engine(engine))
            for load in loads
        )
    ]


def _not_crowned(what: str, unknown: list[str], best: str) -> str:
    names = listing([_name(engine) for engine in unknown])
    measurement = "measurement is" if len(unknown) == 1 else "measurements are"
    return f"{what} is not established, because {names}'s {measurement} invalid; the best valid one is {best}."


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _close(winner: str, amount: str, close: list[tuple[str, Spread]]) -> str:
    others = listing([f"{_name(engine)} ({number(item.median)})" for engine, item in close])
    verb = "is" if len(close) == 1 else "are"
    return f"The highest throughput was {_name(winner)}'s, {amount}, but {others} {verb} too close to tell apart"


def _against(report: Report, rivals: list[tuple[str, Spread]], top: Spread) -> str:
    """“5.1 × bf16”: against the baseline (the plan's first engine) if it is among `rivals`, else the next best."""
    baseline = [pair for pair in rivals if pair[0] == report.engines[0]]
    engine, item = (baseline or rivals)[0]
    if item.median <= 0:
        return f"{_name(engine)} delivered none"
    return f"{ratio(top.median / item.median)} {_name(engine)}"


def _ttft(report: Report, engine: str, load: Load) -> str:
    statistic = central(report, "ttft_s")
    found = metric_spread(report.repeats(engine, load), f"ttft_s.{statistic}")
    return f" with a {CENTRAL_WORD[statistic]} TTFT of {seconds(found.median)}" if found else ""


def best_latency_open(report: Report) -> str:
    """Which engine answered soonest at the highest offered rate: there the load, not the engine, sets throughput."""
    loads = [load for load in report.loads if load.kind == "open"]
    statistic = central(report, "e2e_s")
    for load in sorted(loads, key=lambda item: -(item.level or 0.0)):
        ranked = _ranked(report, load, f"e2e_s.{statistic}", highest=False)
        if ranked:
            break
    else:
        return ""
    winner, best = ranked[0]
    word = CENTRAL_WORD[statistic]
    head = f"At {load.label}, the highest rate offered, "
    if unknown := _invalid(report, [load]):
        measured = f"{_name(winner)}'s, a {word} E2E latency of {seconds(best.median)}"
        return _not_crowned(f"{head}which engine answers soonest", unknown, measured)
    if len(ranked) == 1:
        return f"{head}{_name(winner)} answered with a {word} E2E latency of {seconds(best.median)}."
    return (
        f"{head}{_name(winner)} answered soonest: {word} E2E latency {seconds(best.median)}{_beside(ranked[1], best)}."
    )


def _beside(rival: tuple[str, Spread], best: Spread) -> str:
    engine, item = rival
    value = seconds(item.median)
    if not separated(best, item):
        return f" (the next, {_name(engine)} with {value}, is too close to tell apart)"
    return f" (the next is {_name(engine)} with {value})"


def shortest_ttft(report: Report) -> str:
    """Which engine showed its first token soonest under the lightest load."""
    statistic = central(report, "ttft_s")
    ranked: list[tuple[str, Spread]] = []
    for load in report.loads:
        ranked = _ranked(report, load, f"ttft_s.{statistic}", highest=False)
        if len(ranked) > 1:
            break
    else:
        return ""
    winner, best = ranked[0]
    if unknown := _invalid(report, [load]):
        measured = f"{_name(winner)}'s, a {CENTRAL_WORD[statistic]} TTFT of {seconds(best.median)}"
        what = f"Under the lightest load, {load.label}, which engine shows its first token soonest"
        return _not_crowned(what, unknown, measured)
    return (
        f"Under the lightest load, {load.label}, the shortest {CENTRAL_WORD[statistic]} TTFT was {_name(winner)}'s, "
        f"{seconds(best.median)}{_beside(ranked[1], best)}."
    )


def slo_met(report: Report) -> str:
    """The highest goodput, where the plan has an SLO."""
    best: tuple[float, str, Load] | None = None
    slo: dict[str, float] | None = None
    for engine in report.engines:
        for load in report.loads:
            cells = report.repeats(engine, load)
            found = metric_spread(cells, "goodput_rps")
            if found is None:
                continue
            slo = (cells[0].metrics or {}).get("slo") or slo
            if best is None or found.median > best[0]:
                best = (found.median, engine, load)
    if best is None or not slo:
        return ""
    limits = slo_words(slo)
    if unknown := [engine for engine in _invalid(report, list(report.loads)) if engine != best[1]]:
        answered = f"{_name(best[1])}'s, {number(best[0])} per second {_at(best[2])}"
        return _not_crowned(f"Which engine answers the most requests within the SLO ({limits})", unknown, answered)
    if best[0] == 0:
        return f"No engine answered a single request within the SLO ({limits})."
    most = f"{number(best[0])} per second {_at(best[2])}"
    return f"{_name(best[1])} answered the most requests within the SLO ({limits}): {most}."


def slo_words(slo: dict[str, float]) -> str:
    """An SLO for a reader: “TTFT ≤ 500 ms, TPOT ≤ 50.0 ms”."""
    return ", ".join(f"{name[:-2].upper()} ≤ {seconds(limit)}" for name, limit in slo.items())


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
