"""Live: what the servers do now, refreshed while the page is open."""

import time

import streamlit as st

from dashboards import layout
from dashboards.errors import SourceError
from dashboards.layout import note
from dashboards.screens.live import charts, sources, view
from dashboards.screens.live.sources import Seen, Watch
from inputs.quantities import plural

settings = layout.settings()
FIGURES = (
    ("output", "Output tokens per second", "Output tokens/s", ",.3~r"),
    ("ttft", "Mean time to first token", "TTFT (s)", ",.3~r"),
    ("waiting", "Requests waiting", "Requests", ",.3~r"),
    ("kv", "KV cache in use", "Share of the cache", ".2~%"),
)


@st.cache_resource
def watch() -> Watch:
    """The memory of the pages, shared by all visitors."""
    addresses = list(dict.fromkeys((*settings.servers, *settings.exporters)))
    return Watch(addresses, settings.history_s, settings.refresh_s)


def look() -> tuple[list[Seen], str | None]:
    """What is seen, and what kept Prometheus from being asked."""
    if settings.prometheus:
        try:
            return sources.ask_prometheus(settings.prometheus, history_s=settings.history_s, now_s=time.time()), None
        except SourceError as error:
            return watch().look(), str(error)
    return watch().look(), None


def show() -> None:
    source = f"Prometheus at {settings.prometheus}" if settings.prometheus else "the servers' own pages"
    layout.heading("Live", f"What the servers do now, from {source}, refreshed every {settings.refresh_s:g} s.")
    # What is refreshed all the time need not fade each time.
    st.html("<style>.stMain [data-stale=true] { opacity: 1 !important; transition: none !important; }</style>")
    now()
    history()


def servers_of(seen: list[Seen]) -> list[Seen]:
    return [one for one in seen if one.address in settings.servers or one.has_engine]


@st.fragment(run_every=settings.refresh_s)
def now() -> None:
    seen, problem = look()
    if problem:
        note(f"{problem} The servers are asked directly instead; what they did before is not known.", bad=True)
    servers = servers_of(seen)
    found = [view.server(one, settings.window_s) for one in servers]
    up = sum(one.up for one in found)
    note(f"{up} of {plural(len(found), 'server')} answering at {view.clock(time.time())}.")
    for one in found:
        layout.subheading(one.address)
        note(one.says[0].upper() + one.says[1:], bad=not one.up)
        if one.facts:
            layout.facts(one.facts)
            note(one.remark)
    if not any(one.scrapes for one in servers):
        nobody()
    graphics(seen, [one for one in seen if one not in servers])


def nobody() -> None:
    st.markdown(
        "To see something here, start a server in another terminal with `nbridge serve --model demo-1m`, or name one "
        "that runs: `nbridge dashboard --server http://HOST:8000`. With `--prometheus http://127.0.0.1:9090` the "
        "figures come from a Prometheus, such as that of `nbridge stack`, with all that it remembers."
    )


def graphics(seen: list[Seen], others: list[Seen]) -> None:
    rows = view.gpus(seen)
    down = [one for one in others if one.problem]
    if rows or down:
        st.subheader("GPUs", anchor=False)
    if rows:
        layout.table(rows, "GPUs now", numeric=("Temperature", "Memory", "Busy", "Power"))
        layout.csv_button(rows, "gpus")
    for one in down:
        note(f"{one.address} does not answer: {one.problem}.", bad=True)
    if not rows and not settings.exporters and not settings.prometheus:
        note(
            "No GPU exporter is named. `nbridge exporter` starts one; `nbridge dashboard --exporter URL` reads it here."
        )


@st.fragment(run_every=max(10.0, settings.refresh_s))
def history() -> None:
    """The lines over time, drawn anew less often: they change little from one look to the next."""
    servers = [one for one in servers_of(look()[0]) if one.scrapes]
    names = [one.address for one in servers]
    drawn = [(what, title, axis, form, view.course(servers, what)) for what, title, axis, form in FIGURES]
    drawn = [entry for entry in drawn if entry[4]]
    if not drawn:
        return
    columns = st.columns(2)
    for index, (what, title, axis, form, rows) in enumerate(drawn):
        with columns[index % 2]:
            layout.figure(
                charts.over_time(rows, layout.palette(), title=axis, series=names, unit_format=form),
                rows,
                name=f"live-{what}",
                title=title,
                caption=f"The last {settings.history_s / 60:g} minutes, as far as known. A gap in a line: no answer.",
                words=f"{title} of {', '.join(names)}.",
            )


show()
