"""Live: what the servers do now, refreshed while the page is open."""

import time

import streamlit as st

from dashboards import layout, tabular
from dashboards.errors import SourceError
from dashboards.layout import note
from dashboards.screens.live import alerts, figures, gateway, looking, replaying, sources, view
from dashboards.screens.live.figures import thresholds
from dashboards.screens.live.sources import Seen, Watch
from inputs.quantities import plural

settings = layout.settings()


@st.cache_resource(max_entries=16)
def watch(addresses: tuple[str, ...]) -> Watch:
    """The memory of these addresses' pages, shared by all visitors."""
    return Watch(addresses, settings.history_s, settings.refresh_s)


def look(addresses: tuple[str, ...]) -> tuple[list[Seen], str | None]:
    """What is seen, and what kept Prometheus from being asked."""
    if settings.prometheus:
        try:
            return sources.ask_prometheus(settings.prometheus, history_s=settings.history_s, now_s=time.time()), None
        except SourceError as error:
            return watch(addresses).look(), str(error)
    return watch(addresses).look(), None


def show() -> None:
    source = f"Prometheus at {settings.prometheus}" if settings.prometheus else "the servers' own pages"
    layout.heading("Live", f"What the servers do now, from {source}, refreshed every {settings.refresh_s:g} s.")
    # What is refreshed all the time need not fade each time.
    st.html("<style>.stMain [data-stale=true] { opacity: 1 !important; transition: none !important; }</style>")
    addresses = watched()
    looking.offered()
    if replaying.is_on():
        replaying.shown()
        return
    now(addresses)
    firing()
    history(addresses)
    replaying.offered()


def watched() -> tuple[str, ...]:
    """The addresses to look at: those that the app was started with, or what the visitor typed in."""
    named = ", ".join(dict.fromkeys((*settings.servers, *settings.exporters)))
    text = st.text_input(
        "Servers, exporters and gateways' metrics (addresses, with commas between them)", named, key=looking.WATCH,
        bind="query-params",
    )  # fmt: skip
    found, problems = view.addresses(text or named)
    for problem in problems:
        st.error(problem, icon=":material/error:")
    return found


def servers_of(seen: list[Seen]) -> list[Seen]:
    """What is neither exporter nor gateway: named as a server, with an engine's page, or not known to be another."""
    return [
        one
        for one in seen
        if one.address in settings.servers or one.has_engine or not (exporter(one) or one.has_gateway)
    ]


def exporter(one: Seen) -> bool:
    return one.address in settings.exporters or one.has_gpus


@st.fragment(run_every=settings.refresh_s)
def now(addresses: tuple[str, ...]) -> None:
    seen, problem = look(addresses)
    if problem:
        note(f"{problem} The servers are asked directly instead; what they did before is not known.", bad=True)
    servers = servers_of(seen)
    found = [view.server(one, settings.window_s, thresholds()) for one in servers]
    up = sum(one.up for one in found)
    note(f"{up} of {plural(len(found), 'server')} answering at {view.clock(time.time())}.")
    for one in found:
        layout.subheading(one.address)
        note(one.says[0].upper() + one.says[1:] + ("." if one.up else ""), bad=one.health in ("degraded", "unhealthy"))
        layout.notes(one.reasons, bad=True)
        if one.facts:
            layout.facts(one.facts)
            note(one.remark)
    if not any(one.scrapes for one in servers):
        nobody()
    for door in seen:
        if door.has_gateway:
            behind(door)
    graphics(seen, [one for one in seen if one not in servers and not one.has_gateway])


def nobody() -> None:
    st.markdown(
        "To see something here, start a server in another terminal with `nbridge serve --model demo-1m`, or name one "
        "that runs: `nbridge dashboard --server http://HOST:8000`. With `--prometheus http://127.0.0.1:9090` the "
        "figures come from a Prometheus, such as that of `nbridge stack`, with all that it remembers."
    )


def behind(one: Seen) -> None:
    """A gateway: its servers, its models, what its clouds may still spend."""
    st.subheader(f"Gateway at `{one.address}`", anchor=False)
    if one.problem:
        note(f"It does not answer: {one.problem}. Below is what it said last.", bad=True)
    scrapes = view.recent(one.scrapes, settings.window_s)
    numeric = ("Running", "Requests/s", "HTTP 5xx", "Ejections", "Waiting", "Sent to another", "Spent", "Limit", "Used")
    for name, caption, rows in (
        ("backends", "Servers behind it", gateway.backends(scrapes)),
        ("routes", "Models it answers for", gateway.routes(scrapes)),
        (
            "budgets",
            "What clouds have cost, by UTC",
            gateway.budgets(scrapes[-1], thresholds().gateway.budget_warn_share),
        ),
    ):
        tabular.table(rows, caption, numeric=numeric)
        if rows:
            tabular.csv_button(rows, f"gateway-{name}")
    note(gateway.remark(scrapes))


def graphics(seen: list[Seen], others: list[Seen]) -> None:
    rows = view.gpus(seen)
    down = [one for one in others if one.problem]
    if rows or down:
        st.subheader("GPUs", anchor=False)
    if rows:
        tabular.table(rows, "GPUs now", numeric=("Temperature", "Memory", "Busy", "Power", "Slowed by heat"))
        tabular.csv_button(rows, "gpus")
    for one in down:
        note(f"{one.address} does not answer: {one.problem}.", bad=True)
    if not rows and not settings.exporters and not settings.prometheus:
        note(
            "No GPU exporter is named. `nbridge exporter` starts one; `nbridge dashboard --exporter URL` reads it here."
        )


@st.fragment(run_every=max(5.0, settings.refresh_s))
def firing() -> None:
    """The alerts that fire now, with what to do about them."""
    st.subheader("Alerts", anchor=False)
    try:
        if settings.alertmanager or not settings.prometheus:
            where = settings.alertmanager or alerts.LOCAL
            found, asked = alerts.ask(where), f"Alertmanager at {where}"
        else:
            found, asked = alerts.ask_prometheus(settings.prometheus), f"Prometheus at {settings.prometheus}"
    except SourceError as error:
        said = "" if settings.alertmanager or settings.prometheus else view.NO_ALERTS
        note(f"Whether alerts fire is not known: {error}{said}", bad=bool(settings.alertmanager or settings.prometheus))
        return
    if not found:
        note(f"None fires, says {asked} at {view.clock(time.time())}.")
    tabular.table(view.alert_rows(found), f"Firing now, from {asked}", words=("What",), links=("What to do",))


@st.fragment(run_every=max(10.0, settings.refresh_s))
def history(addresses: tuple[str, ...]) -> None:
    """The lines over time, drawn anew less often: they change little from one look to the next."""
    seen = look(addresses)[0]
    caption = f"The last {settings.history_s / 60:g} minutes, as far as known."
    figures.drawn([one for one in servers_of(seen) if one.scrapes], time.time(), caption)
    figures.gpus_drawn([one for one in seen if one.has_gpus], time.time())


show()
