"""The part of the Live page that plays a finished run's samples at their own pace, and says that it does."""

import time
from pathlib import Path

import streamlit as st

from bench.errors import RunFolderError
from bench.run.store import open_run
from dashboards import layout, links
from dashboards.layout import note
from dashboards.library import Entry
from dashboards.screens.live import figures, replay, view
from dashboards.screens.live.replay import Recording
from reports.errors import ReportError

settings = layout.settings()
ON = "replay_since"  # the instant of the app's clock at which it was started
EVERY_S = 1.0


def is_on() -> bool:
    """Whether a replay is shown instead of what is live."""
    return ON in st.session_state


def offered() -> None:
    """Choose a run and a cell, and start."""
    with st.expander("Replay a finished run"):
        note("What a server did while it was measured, from the samples of its run, at the pace of then.")
        layout.guarded(choice)


def choice() -> None:
    shelf = layout.runs()
    left, right = st.columns(2)
    with left:
        entry = layout.choose(shelf, "replay", "Run to replay")
    cells = [cell.id for cell in layout.report(entry).every if sampled(entry, cell.id)]
    if not cells:
        note("This run kept no samples: a server elsewhere was measured, or its folder was thinned.")
        return
    with right:
        cell_id = links.pick(cells, "replay_cell", "Cell", {}, index=len(cells) - 1)
    st.button("Replay it", key="replay_start", on_click=start, args=(entry, cell_id))


def sampled(entry: Entry, cell_id: str) -> bool:
    return (entry.path / "cells" / cell_id / "samples.parquet").is_file()


def start(entry: Entry, cell_id: str) -> None:
    """From now on the replay is shown."""
    st.session_state[ON] = (str(entry.path), cell_id, entry.stamp, time.monotonic())


def stop() -> None:
    """What is live is shown again."""
    st.session_state.pop(ON, None)


@st.cache_resource(max_entries=8)
def recorded(path: str, cell_id: str, stamp: tuple[int, int]) -> Recording:  # noqa: ARG001 (another stamp, another run)
    """The samples of a cell. Raises RunFolderError when they cannot be read."""
    run = open_run(Path(path))
    cell = next((one for one in run.cells if isinstance(one, dict) and one.get("id") == cell_id), None)
    samples = run.samples(cell_id) if cell else None
    if cell is None or samples is None:
        raise RunFolderError(f"{path}: {cell_id} has no samples to replay.")
    what = f"{run.path.name}, {cell_id}"
    return replay.recording(samples, what, cell.get("began") or run.document.get("created"))


def shown() -> None:
    """The replay, with a way back."""
    st.button("Stop the replay", key="replay_stop", on_click=stop)
    playing()


@st.fragment(run_every=EVERY_S)
def playing() -> None:
    if not is_on():
        return
    path, cell_id, stamp, since = st.session_state[ON]
    try:
        found = recorded(path, cell_id, stamp)
    except (RunFolderError, ReportError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        return
    elapsed_s = time.monotonic() - since
    seen = found.at(elapsed_s)
    over = elapsed_s >= found.length_s
    layout.verdict(f"This is a replay of {found.what}: nothing here is live.")
    said = "The replay is over" if over else "Playing"
    st.progress(min(1.0, elapsed_s / (found.length_s or 1.0)), f"{said}: {replay.words(elapsed_s, found)}")
    if seen.scrapes:
        one = view.server(seen, settings.window_s, figures.thresholds())
        layout.facts([fact for fact in one.facts if fact[1] != "–"])
        note(f"As it was at {view.clock(found.now_s(elapsed_s))}. {one.remark}")
        caption = "What was sampled beside the load, once a second, at the times of then."
        figures.drawn([seen], found.now_s(elapsed_s), caption)
        if seen.has_gpus:
            figures.gpus_drawn([seen], found.now_s(elapsed_s))
