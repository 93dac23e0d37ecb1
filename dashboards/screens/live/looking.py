"""The part of the Live page that looks for servers on this machine's ports, when it is asked to."""

import streamlit as st

from dashboards import layout, tabular
from dashboards.errors import SourceError
from dashboards.layout import note
from dashboards.screens.live import found
from dashboards.screens.live.found import Found
from dashboards.screens.measure import jobs
from inputs.quantities import plural

settings = layout.settings()
WATCH = "watch"  # the key of the addresses, in the page's address too
SEEN = "found_on_ports"


def offered() -> None:
    """A button that looks; what it found stays until it looks again."""
    if not jobs.may_start(dict(st.context.headers), st.context.ip_address, settings.allow_measuring):
        return  # what listens on this machine is not told to visitors from elsewhere
    if st.button("Look on this machine's ports", key="look", help="Only on the loopback, by /v1/models and /metrics."):
        try:
            with st.spinner("Asking what listens here …"):
                st.session_state[SEEN] = found.look(found.listening())
        except SourceError as error:
            st.error(str(error), icon=":material/error:")
            return
    seen: list[Found] | None = st.session_state.get(SEEN)
    if seen is None:
        return
    if not seen:
        note("Nothing that listens on this machine's loopback answers as a server, an exporter or a gateway.")
        return
    tabular.table(
        found.rows(seen), f"Found on this machine: {plural(len(seen), 'address', 'addresses')}", words=("Serves",)
    )
    new = [one.address for one in seen if one.can_be_watched]
    if new:
        st.button("Watch them", key="watch_found", on_click=take, args=(new,))
    for one in seen:
        if one.kind in (found.SERVER, found.OTHER):
            st.page_link(
                "screens/measure/page.py", label=f"Measure {one.address}", query_params={"target": one.address},
                icon=":material/speed:",
            )  # fmt: skip


def take(addresses: list[str]) -> None:
    """The addresses that are watched become these."""
    st.session_state[WATCH] = ", ".join(addresses)
    st.session_state.pop(SEEN, None)
