"""Benchmarks: one run, its trade-offs, distributions, memory and every cell."""

from collections.abc import Mapping

import streamlit as st

from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.library import Entry, Stamp
from dashboards.screens.benchmarks import charts, request_charts, searched, view
from dashboards.screens.benchmarks.requests import requests
from inputs.quantities import plural
from planning import catalogs
from planning.errors import PlanningError
from planning.speed.roofline import cell_bound
from reports.figures.captions import memory_caption, memory_words
from reports.figures.memory_bars import stacks
from reports.measured.cells import Report
from reports.measured.loads import Load
from reports.sections import setting
from reports.sections.capacity import answers, points
from reports.sections.memory import shape_of
from reports.sections.problems import affected, problems
from reports.sections.trust import checks
from reports.statements.headline import headline
from reports.statements.ranking import THROUGHPUT
from reports.statements.verdict import verdict
from reports.tables import key_figures, latencies, repeats
from reports.tables import throughput as throughputs


def show() -> None:
    layout.heading("Benchmarks", "What each engine delivered under each load, in one run.")
    shelf = layout.runs()
    entry = layout.choose(shelf, "run", "Run")
    links.tab(f"{entry.name} {entry.short} · Benchmarks")
    layout.named_broken(shelf.broken)
    if not shelf.runs:
        note("There are no runs of your own yet; this is the sample run. The overview says how to get your first one.")
    layout.guarded(lambda: run(entry))


def run(entry: Entry) -> None:
    report = layout.report(entry)
    layout.verdict(" ".join(headline(report)))
    with st.expander("All that it establishes, and what not"):
        layout.notes(verdict(report))
    if report.cells or not report.points:  # a search alone has no loads of its own to compare
        tabular.report_table(key_figures(report))
        throughput(report, entry)
    if report.measured:
        distributions(report, entry)
    layout.guarded(lambda: capacity(report))
    requests(report, entry)
    if report.cells:
        memory(report)
        quality(report)
        energy(report)
    wrong(report)
    layout.guarded(lambda: cells(report, entry))


@st.fragment
def throughput(report: Report, entry: Entry) -> None:
    ups = view.upwards(report)
    with st.container(horizontal=True, gap="large"):
        metric = segments("Latency", "latency", view.LATENCIES)
        words = view.statistics(report, metric)
        statistic = segments("Its", "its", words) if len(words) > 1 else next(iter(words))
        up = segments("Upwards", "up", ups) if len(ups) > 1 else next(iter(ups))
    drawing = view.pareto(report, metric, statistic, up)
    if drawing is None:
        note("No cell gave a valid measurement of this latency, so there is no trade-off to draw.", bad=True)
        return
    long = view.LONG_NAMES[metric]
    roof = view.bound_rows(drawing, bounds(str(entry.path), entry.stamp)) if up == THROUGHPUT else []
    chart = charts.pareto(
        drawing.rows, report.engines, layout.palette(), axis=f"{long[0].upper()}{long[1:]}, {words[statistic]}",
        limit_s=view.slo_limit(report, metric), up=ups[up], bounds=roof,
    )  # fmt: skip
    caption = drawing.caption + (view.bound_words(roof, drawing) if roof else "")
    layout.figure(chart, drawing.rows, name=drawing.name, title=drawing.title, caption=caption, words=drawing.words)


def segments(label: str, key: str, words: Mapping[str, str]) -> str:
    """One of a few, side by side; it stands in the address."""
    names = list(words)
    chosen = st.segmented_control(
        label, names, default=names[0], format_func=lambda one: words.get(one, one), key=key, bind="query-params",
        required=True,
    )  # fmt: skip
    links.shown_as(key, words[chosen or names[0]])
    return chosen or names[0]


@st.cache_resource(max_entries=24)
def bounds(path: str, stamp: Stamp) -> dict[tuple[str, str], float]:
    """The roofline at each engine and load, where the run's GPU and the engine's model are known."""
    report = layout.report_at(path, stamp)
    gpu = catalogs.measured_on(report.document, catalogs.load())
    found: dict[tuple[str, str], float] = {}
    if gpu is None:
        return found
    for cell in report.measured:
        try:
            bound = cell_bound({**cell.document, "metrics": cell.metrics}, shape_of(cell.document["engine"]), gpu)
        except PlanningError:
            continue
        if bound is not None:
            found[cell.engine, cell.load.label] = bound.ceiling_tok_s
    return found


@st.fragment
def distributions(report: Report, entry: Entry) -> None:
    loads = [load for load in report.loads if any(report.repeats(engine, load) for engine in report.engines)]
    left, right = st.columns(2)
    names = [load.label for load in loads]
    label = left.selectbox("Load", names, index=len(names) - 1, key="load", bind="query-params")
    metric = right.selectbox(
        "Distribution of",
        list(view.DISTRIBUTIONS),
        format_func=view.LONG_NAMES.__getitem__,
        key="of",
        bind="query-params",
    )
    load = loads[names.index(label or names[-1])]
    layout.guarded(lambda: drawn(report, entry, load, metric or "ttft_s"))


def drawn(report: Report, entry: Entry, load: Load, metric: str) -> None:
    chosen = [cell for engine in report.engines for cell in report.repeats(engine, load)]
    path = str(entry.path)
    if metric == "itl_s":
        expected = view.gaps_expected(chosen)
        if expected > view.AUTOMATIC_VALUES and not st.button(
            f"Read the {expected:,} gaps between tokens (about {expected / 3e6:.0f} s)",
            key=f"gaps-{entry.id}-{load.name}",
        ):
            return
        bar = st.progress(0.0, "Reading the gaps between tokens …") if expected > view.AUTOMATIC_VALUES else None
        curves = []
        for index, cell in enumerate(chosen):
            curves.append((cell, layout.gap_curve(path, cell.id, entry.stamp)))
            if bar:
                bar.progress((index + 1) / len(chosen))
        if bar:
            bar.empty()
    else:
        curves = [(cell, layout.latency_curves(path, cell.id, entry.stamp)[metric]) for cell in chosen]
    drawing = view.distribution(report, load, metric, curves)
    if drawing is None:
        note("The records of these requests are not in the run folder, so their distribution cannot be drawn.")
        return
    long = view.LONG_NAMES[metric]
    chart = charts.distribution(drawing.rows, report.engines, layout.palette(), axis=f"{long[0].upper()}{long[1:]}")
    layout.figure(
        chart, drawing.rows, name=drawing.name, title=drawing.title, caption=drawing.caption, words=drawing.words
    )


def memory(report: Report) -> None:
    found = stacks(report)
    rows = view.memory_rows(found)
    if not rows:
        note("No memory was recorded: a server elsewhere does not tell how much it takes.")
        return
    layout.figure(
        charts.memory(rows, layout.palette(), kind=found[0].kind), rows, name="memory",
        title="Memory of each engine", caption=memory_caption(report, found), words=memory_words(found),
    )  # fmt: skip


def capacity(report: Report) -> None:
    """The search for the highest load within the SLO: points, interval, what limits it."""
    found = searched.searched(report)
    if found is None:
        return
    st.subheader("Capacity at the SLO", anchor=False)
    layout.notes(found.said)
    if found.points:
        words, (left, right) = searched.words(found), st.columns(2)
        over = "the rate" if found.over == "rate" else "the concurrency"
        with left:
            layout.figure(
                request_charts.search(found, report.engines, layout.palette(), goodput=False), found.points,
                name="capacity", title=f"{found.condition} over {over}", caption=searched.caption(found), words=words,
            )  # fmt: skip
        with right:
            layout.figure(
                request_charts.search(found, report.engines, layout.palette(), goodput=True), found.points,
                name="capacity-goodput", title=f"Goodput over {over}",
                caption="Requests per second that met the limits, at every point of the search.", words=words,
            )  # fmt: skip
    tabular.report_table(answers(found.searches))
    with st.expander(f"Every one of the {len(found.points)} points"):
        tabular.report_table(points(found.searches))


def quality(report: Report) -> None:
    found = view.quality(report)
    if found is None:
        st.subheader("Quality against throughput", anchor=False)
        note("Quality was not measured in this run, so nothing can be said about what speed costs in answers.")
        return
    layout.figure(
        charts.quality(found.rows, report.engines, layout.palette()), found.rows, name=found.name, title=found.title,
        caption=found.caption, words=found.words,
    )  # fmt: skip


def energy(report: Report) -> None:
    found = view.energy(report)
    if found is not None:  # only a GPU tells
        layout.figure(
            charts.energy(found.rows, report.engines, layout.palette()), found.rows, name=found.name,
            title=found.title, caption=found.caption, words=found.words,
        )  # fmt: skip


def wrong(report: Report) -> None:
    found = problems(report)
    if not found:
        return
    st.subheader("What went wrong", anchor=False)
    for problem in found:
        with st.expander(f"{problem.title} ({plural(len(problem.cells), 'cell')})"):
            note(affected(problem))
            for paragraph in problem.paragraphs:
                st.text(paragraph)


def cells(report: Report, entry: Entry) -> None:
    st.subheader("Every cell", anchor=False)
    if not report.cells:
        note("This run has no cells." if not report.points else "This run is a search alone: its points stand above.")
        return
    with st.expander(f"Numbers of {plural(len(report.cells), 'cell')}"):
        for table in (repeats(report), throughputs(report), latencies(report), checks(report)):
            if table is not None and table.rows:
                tabular.report_table(table)
    with st.expander("Engines, loads, machine and software"):
        tabular.report_table(setting.engines(report))
        tabular.report_table(setting.loads(report))
        tabular.table(
            [{"": name, "Recorded": value} for name, value in setting.environment(report)], "Machine and software"
        )
    with st.container(horizontal=True):
        tabular.csv_button(view.cell_rows(report), "cells", "All cells as CSV")
        page = entry.path / "report.html"
        if page.is_file():
            st.download_button(
                "The report as one HTML file", page.read_bytes, f"{entry.id}.html", "text/html", on_click="ignore",
                type="tertiary", icon=":material/download:",
            )  # fmt: skip


show()
