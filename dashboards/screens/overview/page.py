"""Overview: the newest run that measured something, in figures; what is unfinished; what changed; all runs."""

import streamlit as st

from bench.run.store import is_at_work
from dashboards import app_pages, layout, tabular
from dashboards.errors import SourceError
from dashboards.layout import note
from dashboards.library import SAMPLE_ID, Entry, Shelf, sample
from dashboards.screens.benchmarks import charts as benchmark_charts
from dashboards.screens.benchmarks import view as benchmarks
from dashboards.screens.compare.pairs import differences, held_together, known
from dashboards.screens.compare.view import SAYS
from dashboards.screens.cost import charts as cost_charts
from dashboards.screens.cost import view as cost
from dashboards.screens.live import alerts
from dashboards.screens.overview import view
from inputs.quantities import plural
from planning import catalogs
from planning.cost.assembly import assemble
from planning.cost.assumptions import EXAMPLE, quantities, read_document
from planning.cost.estimate import DemandCurve, Estimate, demand_curve, estimate
from planning.errors import PlanningError
from reports.measured.cells import Report
from reports.statements.headline import headline

FIRST = 20
DRAWS = 20_000
settings = layout.settings()


def show() -> None:
    layout.heading(
        "Neural Bridge",
        "Should you run an open LLM on your own hardware instead of paying an API? What was measured, what it means.",
    )
    shelf = layout.runs()
    running = [run.id for run in shelf.runs if not run.finished and is_at_work(run.path)]
    latest = view.newest_measured(shelf.runs)
    if latest is not None:
        newest(latest, shelf, running)
    else:
        layout.no_runs(shelf)
        unfinished(shelf, running)
        newest(sample(), shelf, running)
    if shelf.runs:
        every(shelf, running)
    onward()


def newest(entry: Entry, shelf: Shelf, running: list[str]) -> None:
    named = "The sample run" if entry.id == SAMPLE_ID else f"The newest run: {entry.name}"
    st.subheader(named, anchor=False)
    when = f"{entry.created:%Y-%m-%d %H:%M %Z}" if entry.created else "at an unknown time"
    note(f"Started {when} on {entry.hardware}; {entry.requests:,} requests in {plural(entry.cells, 'cell')}.")
    layout.guarded(lambda: figures(entry))
    if entry.id != SAMPLE_ID:
        layout.guarded(lambda: changed(entry, shelf))
        unfinished(shelf, running)


def figures(entry: Entry) -> None:
    report = layout.report(entry)
    layout.verdict(" ".join(headline(report)))
    top = view.best(report)
    priced, why = price(str(entry.path), entry.stamp, top.engine if top else None)
    layout.tiles(view.tiles(report, entry, priced, why, firing()))
    left, right = st.columns(2)
    with left:
        trade_off(report)
    with right:
        demanded(priced, why, str(entry.path), entry.stamp, top.engine if top else None)


@st.cache_data(ttl=10)
def firing() -> int | None:
    """How many alerts fire now; None where nobody tells."""
    try:
        if settings.alertmanager or not settings.prometheus:
            return len(alerts.ask(settings.alertmanager or alerts.LOCAL, timeout_s=1.0))
        return len(alerts.ask_prometheus(settings.prometheus, timeout_s=1.0))
    except SourceError:
        return None


@st.cache_resource(max_entries=16)
def price(path: str, stamp: tuple[int, int], engine: str | None) -> tuple[Estimate | None, str]:
    """The example's case at the speed of the run, or why there is none."""
    try:
        run = layout.report_at(path, stamp).document
        case = assemble(read_document(None), source=EXAMPLE, catalog=catalogs.load(), run=run, engine=engine)
        return estimate(case, draws=DRAWS), ""
    except PlanningError:
        return None, "no speed to plan with"


@st.cache_resource(max_entries=16)
def curve(path: str, stamp: tuple[int, int], engine: str | None) -> DemandCurve:
    found, _ = price(path, stamp, engine)
    if found is None:
        raise PlanningError("This run has no speed to plan with.")
    axis = cost.demand_axis(found.case, found.break_even_tokens)
    return demand_curve(found.case, tuple(axis), draws=2_000)


def trade_off(report: Report) -> None:
    drawing = benchmarks.pareto(report, "ttft_s")
    if drawing is None:
        note("No cell gave a valid TTFT, so there is no trade-off to draw.", bad=True)
        return
    statistic = next(iter(benchmarks.statistics(report, "ttft_s").values()))
    chart = benchmark_charts.pareto(
        drawing.rows,
        report.engines,
        layout.palette(),
        axis=f"Time to first token (TTFT), {statistic}",
        limit_s=benchmarks.slo_limit(report, "ttft_s"),
    )
    layout.figure(
        chart, drawing.rows, name=drawing.name, title=drawing.title, caption=drawing.caption, words=drawing.words
    )


def demanded(found: Estimate | None, why: str, path: str, stamp: tuple[int, int], engine: str | None) -> None:
    if found is None:
        note(f"Cost against demand is not drawn: {why}.")
        return
    rows = cost.demand_rows(curve(path, stamp, engine))
    chart = cost_charts.demand(
        rows,
        layout.palette(),
        asked_tokens=quantities(found.case)["tokens_per_month"].median,
        even=cost.even_rows(found.break_even_tokens),
    )
    said = cost.verdict(found)
    caption = f"{said} Prices alone: whether the model answers as well is another question."
    layout.figure(chart, rows, name="break-even", title="Cost against demand", caption=caption, words=said)


def changed(entry: Entry, shelf: Shelf) -> None:
    """What changed since the run before, with a link to all of it."""
    old = view.before(shelf.runs, entry)
    if old is None:
        return
    st.subheader("Since the run before", anchor=False)
    unlike = list(dict.fromkeys(one.name for one in differences(known(old), known(entry))))
    if unlike:
        note(
            f"Not compared with {old.id}: they are unlike in {plural(len(unlike), 'fact')} ({', '.join(unlike[:4])}"
            f"{' …' if len(unlike) > 4 else ''})."
        )
    else:
        found = held_together(known(old), known(entry), ())
        counts = {word: sum(SAYS[line.change.verdict] == word for line in found.lines) for word in SAYS.values()}
        note(view.changes(found, old, counts))
    st.page_link(
        "screens/compare/page.py",
        label="Every figure beside the run before",
        icon=":material/compare_arrows:",
        query_params={"old": old.id, "new": entry.id},
    )


def unfinished(shelf: Shelf, running: list[str]) -> None:
    for line in view.left_over(shelf.runs, running, layout.place(shelf.folder)):
        note(line)
    layout.named_broken(shelf.broken)


def every(shelf: Shelf, running: list[str]) -> None:
    st.subheader(f"{plural(len(shelf.runs), 'run')} in `{layout.place(shelf.folder)}`", anchor=False)
    shown = shelf.runs
    if len(shown) > FIRST and not st.toggle(f"Show all {len(shown)}", key="all_runs"):
        shown = shown[:FIRST]
    numeric = ("Valid cells", "Requests", "Best output")
    words = ("Model", "Engines", "Hardware")
    tabular.table([view.row(one, one.id in running) for one in shown], "Newest first", numeric=numeric, words=words)
    tabular.csv_button([view.row(one, one.id in running) for one in shelf.runs], "runs", "List as CSV")


def onward() -> None:
    st.subheader("Where to go on", anchor=False)
    for name, title in app_pages.PAGES:
        if name in app_pages.ANSWERS:
            st.page_link(f"screens/{name}/page.py", label=f"{title}: {app_pages.ANSWERS[name]}")


show()
