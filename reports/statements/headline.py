"""The verdict in at most three sentences: what to take, how sure that is, what is missing. Pure."""

from inputs.quantities import in_words, plural
from reports.measured.cells import Cell, Report
from reports.measured.repeats import ENOUGH, fewest
from reports.names import listing, shortened
from reports.statements import quality
from reports.statements.capacities import capacities, leading, searched, unknown
from reports.statements.hidden_states import hidden_states
from reports.statements.quality import WORSE
from reports.statements.ranking import best_latency_open, best_throughput, slo_met
from reports.statements.verdict import outcome_of, scope, unfinished


def headline(report: Report) -> list[str]:
    """At most three sentences; `verdict` has all that the run establishes."""
    return [sentence for sentence in (taken(report), sure(report), missing(report)) if sentence]


def taken(report: Report) -> str:
    """What to take: by goodput where there is an objective, else by throughput, else by latency."""
    if not report.measured:
        return leading(report) or scope(report) or capacities(report)
    best = slo_met(report) or best_throughput(report, advice=True) or best_latency_open(report)
    return leading(report) or best or hidden_states(report) or scope(report) or capacities(report)


def sure(report: Report) -> str:
    """How sure that is: the share of valid cells, and what the repeats can tell apart."""
    total, measured = len(report.cells), len(report.measured)
    if not total:
        return f"{searched(report).removesuffix('.')}{_changed(report)}." if report.points else ""
    if not measured:
        return ""
    many = {1: "The only cell is", 2: "Both cells are"}.get(total, f"All {in_words(total)} cells are")
    some = f"{in_words(measured).capitalize()} of {in_words(total)} cells {'is' if measured == 1 else 'are'} valid"
    text = f"{many} valid" if measured == total else some
    least = fewest(report)
    if least and measured > 1:
        text += f"; {in_words(least)} repeat{'s' * (least > 1)} per cell"
        small = "differences below about 10 %" if least == 1 else "small differences"
        text += f", so {small} are not established" if least < ENOUGH else ""
    worse = [shortened(entry["engine"], 40) for entry in quality.scored(report) if quality.standing(entry) == WORSE]
    if worse:
        text += f"; {listing(worse)} predict{'s' * (len(worse) == 1)} worse than {quality.baseline(report)}"
    return f"{text}{_changed(report)}."


def _changed(report: Report) -> str:
    changed = any(cell.differences for cell in report.every) or report.quality_differs
    return "; the numbers in run.json are not those of the records, which are shown here" if changed else ""


def missing(report: Report) -> str:
    """What the run does not tell, as one sentence."""
    parts = [
        text for text in (_cells(report), _capacity(report), _rest(report), _quality(report), _tail(report)) if text
    ]
    return f"Missing: {'; '.join(parts)}." if parts else ""


def _cells(report: Report) -> str:
    by_outcome: dict[str, list[Cell]] = {}
    for cell in report.cells:
        if not cell.measured:
            by_outcome.setdefault(outcome_of(cell), []).append(cell)
    if not by_outcome:
        return ""
    of_each = listing([f"{len(cells)} {outcome}" for outcome, cells in by_outcome.items()])
    return f"{plural(sum(map(len, by_outcome.values())), 'cell')} ({of_each})"


def _capacity(report: Report) -> str:
    found = [shortened(engine, 40) for engine in unknown(report)] if report.measured else []
    return f"the capacity of {listing(found)}, which its search did not establish" if found else ""


def _rest(report: Report) -> str:
    return "the rest of the run, which goes on or was interrupted" if unfinished(report) else ""


def _quality(report: Report) -> str:
    if quality.scored(report) or not report.measured:
        return ""
    return (
        "quality, because the weights are made up" if quality.weightless(report) else "quality, which was not measured"
    )


def _tail(report: Report) -> str:
    shown = [cell for cell in report.measured if cell.value("e2e_s.p50") is not None]
    few = [cell for cell in shown if cell.value("e2e_s.p95") is None]
    if not few:
        return ""
    return (
        "a p95, for which no valid cell has 200 answers"
        if len(few) == len(shown)
        else "a p95 where cells are too short"
    )
