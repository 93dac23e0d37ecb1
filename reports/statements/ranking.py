"""Which engine is best at what, as far as the cells establish it; nobody is ranked past an invalid rival. Pure."""

from inputs.quantities import in_words, number, ratio, seconds
from reports.measured.cells import Report
from reports.measured.loads import Load
from reports.measured.repeats import CENTRAL_WORD, Spread, central, metric_spread, separated
from reports.names import listing, shortened

THROUGHPUT = "output_throughput_tok_s"


def _ranked(report: Report, load: Load, name: str, *, highest: bool) -> list[tuple[str, Spread]]:
    """(engine, spread of the metric over its repeats) of those measured under `load`, the best first."""
    found = [(engine, metric_spread(report.repeats(engine, load), name)) for engine in report.engines]
    known = [(engine, item) for engine, item in found if item is not None]
    return sorted(known, key=lambda pair: -pair[1].median if highest else pair[1].median)


def engines_measured(report: Report) -> list[str]:
    return [engine for engine in report.engines if any(cell.measured for cell in report.of_engine(engine))]


def _name(engine: str) -> str:
    return shortened(engine, 60)


def _at(load: Load) -> str:
    return f"at {load.label}"


def best_throughput(report: Report, *, advice: bool = False) -> str:
    """Which engine delivered the most output tokens per second under closed-loop loads, where, and against whom.

    With `advice`, as what to take.
    """
    loads = [load for load in report.loads if load.kind == "closed"]
    ranked = [(load, *pair) for load in loads for pair in _ranked(report, load, THROUGHPUT, highest=True)]
    if not ranked:
        return ""
    load, winner, top = max(ranked, key=lambda entry: entry[2].median)
    engines = engines_measured(report)
    amount = f"{number(top.median)} output tokens/s {_at(load)}"
    if len(engines) == 1:
        alone = f"Only {_name(winner)} gave a valid measurement, so there is nothing to compare it with: it"
        subject = alone if len(report.engines) > 1 else _name(winner)
        valid_only = ", the most of its valid measurements" if _invalid(report, loads) else ""
        return f"{subject} delivered up to {amount}{_ttft(report, winner, load)}{valid_only}."
    if unknown := [engine for engine in _invalid(report, loads) if engine != winner]:
        return _not_crowned("Which engine delivers the most", unknown, f"{_name(winner)}'s, {amount}")
    rivals = [pair for pair in _ranked(report, load, THROUGHPUT, highest=True) if pair[0] != winner]
    absent = [_name(engine) for engine in engines if engine != winner and engine not in dict(rivals)]
    tail = f"; {listing(absent)} {_has(absent)} no valid measurement at that load" if absent else ""
    close = [pair for pair in rivals if not separated(top, pair[1])]
    if close:
        return f"{_close(winner, amount + _ttft(report, winner, load), close)}{tail}."
    against = f" ({_against(report, rivals, top)})" if rivals else ""
    most = f"Of the {in_words(len(engines))} measured engines, {_name(winner)} delivered the most"
    head = f"For throughput, take {_name(winner)}" if advice else most
    return f"{head}: {amount}{against}{_ttft(report, winner, load)}{tail}."


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
    """That nobody is ranked past what is invalid; `best` is the best valid measurement, "" where there is none."""
    names = listing([_name(engine) for engine in unknown])
    measurement = "measurement is" if len(unknown) == 1 else "measurements are"
    beside = f"the best valid one is {best}" if best else "there is no valid one beside"
    return f"{what} is not established, because {names}'s {measurement} invalid; {beside}."


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
    top = max((load.level or 0.0 for load in loads), default=0.0)
    for load in sorted(loads, key=lambda item: -(item.level or 0.0)):
        ranked = _ranked(report, load, f"e2e_s.{statistic}", highest=False)
        unknown = _invalid(report, [load])
        if ranked or len(unknown) > 1:  # of one engine alone, the next lower rate says more
            break
    else:
        return ""
    word = CENTRAL_WORD[statistic]
    highest = "the highest rate offered" if (load.level or 0.0) >= top else "the highest rate measured"
    head = f"At {load.label}, {highest}, "
    if not ranked:
        return _not_crowned(f"{head}which engine answers soonest", unknown, "")
    winner, best = ranked[0]
    if unknown:
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
    for load in report.loads:
        ranked = _ranked(report, load, f"ttft_s.{statistic}", highest=False)
        unknown = _invalid(report, [load])
        if len({engine for engine, _ in ranked} | set(unknown)) > 1:  # also where an invalid one might be the shortest
            break
    else:
        return ""
    if unknown:
        what = f"Under the lightest load, {load.label}, which engine shows its first token soonest"
        word = CENTRAL_WORD[statistic]
        best_valid = f"{_name(ranked[0][0])}'s, a {word} TTFT of {seconds(ranked[0][1].median)}" if ranked else ""
        return _not_crowned(what, unknown, best_valid)
    winner, best = ranked[0]
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
