"""What the verdict says of the measured capacity: which engine has the highest goodput at the SLO. Pure."""

from bench.capacity import words
from inputs.quantities import in_words, number, plural
from reports.measured.cells import Report
from reports.measured.searches import Search, median_goodput, searches
from reports.names import listing, shortened

_NAME = 60


def leading(report: Report) -> str:
    """The engine with the highest goodput at the SLO, or that no load meets it; nothing where no search told that."""
    return next((text for text in _statements(report)[:2] if text), "")


def unknown(report: Report) -> list[str]:
    """The engines whose capacity was searched and not established."""
    found = searches(report)
    of_each = {engine: [one for one in found if one.engine == engine] for engine in report.engines}
    return [engine for engine, of_it in of_each.items() if of_it and median_goodput(of_it) is None]


def capacities(report: Report) -> str:
    """The engine with the highest goodput at the SLO, and the others; nothing for a run without searches."""
    return " ".join(text for text in _statements(report) if text)


def _statements(report: Report) -> tuple[str, ...]:
    found = searches(report)
    if not found:
        return ("",)
    slo = f"the SLO ({', '.join(found[0].answer['slo'])})"
    by_engine = {engine: [one for one in found if one.engine == engine] for engine in report.engines}
    by_engine = {engine: of_it for engine, of_it in by_engine.items() if of_it}
    goodputs = {engine: median_goodput(of_it) for engine, of_it in by_engine.items()}
    ranked = sorted(((g, e) for e, g in goodputs.items() if g), key=lambda pair: -pair[0])
    none_met = [shortened(engine, _NAME) for engine, goodput in goodputs.items() if goodput == 0]
    unknown = [shortened(engine, _NAME) for engine, goodput in goodputs.items() if goodput is None]
    return (
        _ranking(by_engine, ranked, slo, unknown=bool(unknown)) if ranked else "",
        f"No load meets {slo} with {listing(none_met)}." if none_met else "",
        f"The capacity of {listing(unknown)} was not established." if unknown else "",
    )


def searched(report: Report) -> str:
    """How much of the searches was measured, and how much of that says nothing."""
    verdicts = [cell.judged.verdict for cell in report.points if cell.judged and cell.document["point"]["level"]]
    if not verdicts:
        return ""
    untrue = sum(verdict in ("invalid", "died") for verdict in verdicts)
    text = f"The search for the capacity took {plural(len(verdicts), 'point')}"
    if untrue:
        text += f"; {in_words(untrue)} of them {'is' if untrue == 1 else 'are'} invalid and no verdict on the server"
    return f"{text}."


def _ranking(by_engine: dict[str, list[Search]], ranked: list[tuple[float, str]], slo: str, *, unknown: bool) -> str:
    goodput, best = ranked[0]
    name, carries = shortened(best, _NAME), _carries(by_engine[best])
    if len(by_engine) == 1:
        return f"At {slo} {name} carries {carries}."
    rest = ranked[1:]
    close = [(value, engine) for value, engine in rest if not _apart(by_engine[best], by_engine[engine])]
    less = [pair for pair in rest if pair not in close]
    head = (
        f"At {slo} the highest goodput is {name}'s, {number(goodput)} requests/s"
        if close or unknown
        else (f"At {slo} {name} has the highest goodput, {number(goodput)} requests/s")
    )
    text = f"{head} (it carries {carries})"
    if close:
        text += f", but {_named(close)} {'is' if len(close) == 1 else 'are'} too close to tell apart"
    if less:
        text += f"; {_named(less)} {'has' if len(less) == 1 else 'have'} less"
    return f"{text}."


def _named(pairs: list[tuple[float, str]]) -> str:
    return listing([f"{shortened(engine, _NAME)} ({number(value)})" for value, engine in pairs])


def _carries(found: list[Search]) -> str:
    """The capacity of an engine's middle search, and what limits it."""
    middle = sorted(found, key=lambda one: one.goodput_rps or 0.0)[len(found) // 2].answer
    limited = f", limited by {listing(middle['limiting'])}" if middle["limiting"] else ""
    return f"{words.capacity(middle)}{limited}"


def _apart(one: list[Search], other: list[Search]) -> bool:
    """Whether no interval of the one overlaps one of the other; what has no interval is told from nothing."""
    intervals = [[search.goodput_interval for search in found] for found in (one, other)]
    return all(
        high is not None and low is not None and low[0] > high[1] for low in intervals[0] for high in intervals[1]
    )
