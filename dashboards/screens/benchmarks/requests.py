"""The part of the Benchmarks page about one cell: over time, its requests, and one of them down to its chunks."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

from bench.run.store import open_run
from dashboards import layout, library, links, tabular
from dashboards.layout import note
from dashboards.library import Entry
from dashboards.screens.benchmarks import over_time, request_charts, slowest
from dashboards.screens.benchmarks.request_charts import PICKED
from inputs.quantities import seconds
from reports.measured.cells import Cell, Report
from reports.measured.timelines import Timeline, timeline

FIGURE = "requests"
OF = "requests_of"
TURNS = ("conversation", "turn")  # which a timeline's window goes by


@st.cache_resource(max_entries=8)
def table(path: str, cell_id: str, stamp: tuple[int, int]) -> pa.Table:  # noqa: ARG001 (a changed run is another one)
    """What the figures need of a cell's requests."""
    return library.known_columns(Path(path), cell_id, (*slowest.COLUMNS, *TURNS))


@st.cache_resource(max_entries=32)
def found(path: str, cell_id: str, stamp: tuple[int, int], metric: str) -> slowest.Requests:
    """The requests of a cell by one latency."""
    return slowest.requests(table(path, cell_id, stamp), metric)


@st.cache_resource(max_entries=32)
def line(path: str, cell_id: str, stamp: tuple[int, int]) -> Timeline | None:
    """A cell over time; None where no request of it ended."""
    cell = next(one for one in layout.report_at(path, stamp).every if one.id == cell_id)
    samples = open_run(Path(path)).samples(cell_id)
    return timeline(table(path, cell_id, stamp), samples, cell.document["load"])


@st.fragment
def requests(report: Report, entry: Entry) -> None:
    """Choose a cell; see it over time, all its requests, and one of them."""
    st.subheader("One cell", anchor=False)
    layout.guarded(lambda: chosen(report, entry))


def chosen(report: Report, entry: Entry) -> None:
    cells = {cell.id: cell for cell in report.every if cell.shown}
    if not cells:
        note("No cell has requests to look at.")
        return
    cell = cells[links.pick(list(cells), "cell", "Cell", {}, index=_first(list(cells.values())))]
    if st.session_state.get(OF) not in (None, cell.id):
        st.query_params.pop("request", None)  # it was one of another cell
    st.session_state[OF] = cell.id
    many, asked = cell.records or 0, st.query_params.get("request")
    if many > slowest.AUTOMATIC and not asked and not st.button(f"Read the {many:,} requests", key=f"read-{cell.id}"):
        return
    shown(entry, cell)


def _first(cells: list[Cell]) -> int:
    """The heaviest load of the first engine: there outliers are."""
    engine = cells[0].engine
    loads = [(cell.load.level or 0.0, -index) for index, cell in enumerate(cells) if cell.engine == engine]
    return -max(loads)[1]


def shown(entry: Entry, cell: Cell) -> None:
    path = str(entry.path)
    if not library.rows(entry.path, cell.id) and not table(path, cell.id, entry.stamp).num_rows:
        note("The records of these requests are not in the run folder, so none can be looked at.")
        return
    layout.guarded(lambda: timed(entry, cell))
    st.subheader("Single requests", anchor=False)
    metric = st.segmented_control(
        "By", list(slowest.METRICS), default="ttft_s", format_func=slowest.METRICS.__getitem__, key="by",
        bind="query-params", required=True,
    ) or "ttft_s"  # fmt: skip
    links.shown_as("by", slowest.METRICS[metric])
    every = found(path, cell.id, entry.stamp, metric)
    if not every.points:
        note(f"No request of {cell.id} has a {slowest.METRICS[metric]}.")
    else:
        layout.figure(
            request_charts.requests(every.points, layout.palette(), title=slowest.METRICS[metric]), every.points,
            name=FIGURE, title=f"Every request of {cell.id}", caption=slowest.caption(every, metric),
            words=f"The slowest: {'; '.join(every.labels[one] for one in every.listed[:5])}.", heading=False,
            picked=take,
        )  # fmt: skip
    if every.listed:
        one(entry, cell, every)


def timed(entry: Entry, cell: Cell) -> None:
    """The TTFT of the cell's requests, and on the same axis of time what its server said of itself."""
    known = line(str(entry.path), cell.id, entry.stamp)
    if known is None or not known.of_server:
        note(f"What the server did meanwhile is not known: its metrics were not sampled beside {cell.id}.")
        return
    drawing = over_time.drawing(cell, known)
    layout.figure(
        over_time.chart(known, drawing.rows, layout.palette()), drawing.rows, name=drawing.name, title=drawing.title,
        caption=drawing.caption, words=drawing.words,
    )  # fmt: skip


def take() -> None:
    """A request was picked in the figure: the list, and with it the address, takes it over."""
    event: Any = st.session_state.get(f"pick-{FIGURE}")
    picked = (event.selection.get(PICKED) or []) if event else []
    if picked and picked[0].get("request_id"):
        st.query_params["request"] = picked[0]["request_id"]


def one(entry: Entry, cell: Cell, every: slowest.Requests) -> None:
    """One request as a strip; a link may name any, the list has the slowest and those without an answer."""
    asked, listed, labels = st.query_params.get("request"), list(every.listed), dict(every.labels)
    if asked and asked not in listed and library.one_request(entry.path, cell.id, asked):
        listed.append(asked)
        labels[asked] = f"picked: {asked}"
    request_id = links.pick(listed, "request", "Request, the slowest first", labels)
    row = library.one_request(entry.path, cell.id, request_id)
    if row is None:
        note(f"{request_id} is not among the records of {cell.id}.", bad=True)
        return
    strip = slowest.strip(row)
    layout.facts(strip.facts)
    if strip.phases:
        layout.figure(
            request_charts.strip(strip.phases, strip.chunks, layout.palette()), [*strip.phases, *strip.chunks],
            name="request", title=f"Request {request_id}, from its schedule to its end",
            caption=" ".join(("Above: its phases. Below: a tick for every chunk.", *strip.remarks)),
            words=slowest.words(strip), heading=False,
        )  # fmt: skip
    else:
        layout.notes(strip.remarks)
    if strip.chunks:
        with st.expander(f"Its {len(strip.chunks)} chunks"):
            rows = [
                {
                    "Chunk": str(chunk["chunk"]),
                    "Arrived": seconds(chunk["at_s"]),
                    "Gap": seconds(chunk["gap_s"]),
                    "Tokens": tabular.text(chunk["tokens"]),
                }
                for chunk in strip.chunks
            ]
            tabular.table(rows, "Since it was due", numeric=("Arrived", "Gap", "Tokens"))
