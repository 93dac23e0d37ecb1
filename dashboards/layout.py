"""What the pages are put together from: heads, verdicts, tables, figures with their data, the choice of a run."""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from altair.utils import schemapi

from bench.errors import BenchError
from bench.run.store import open_run
from dashboards import library, taken
from dashboards.library import Broken, Entry, Known, Shelf, Stamp
from dashboards.links import pick, pick_some
from dashboards.settings import DashboardSettings, from_environment
from dashboards.tabular import Rows, csv_button
from dashboards.theme import DARK, LIGHT, Palette, style
from dashboards.tiles import Tile
from inputs.quantities import plural
from planning.errors import PlanningError
from reports.errors import ReportError
from reports.measured.cells import Report
from reports.measured.curves import Curve
from reports.measured.reading import stored

# Half of the time of a page went into checking every figure against Vega's schema; the tests do that.
schemapi.DEBUG_MODE = False


@st.cache_resource
def settings() -> DashboardSettings:
    """The settings of this app."""
    return from_environment()


def palette() -> Palette:
    """The colours that go with the visitor's theme."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def heading(title: str, lead: str) -> None:
    """A page's head: what it is, and in one sentence what it answers."""
    st.html(style(palette()))
    st.title(title, anchor=False)
    taken.add(f"# {taken.plain(title)}")
    note(lead)


def verdict(text: str) -> None:
    """What the page establishes, in words."""
    taken.add(f"> {taken.plain(text)}")
    st.html(f'<p class="nb-verdict">{html.escape(text)}</p>')


def note(text: str, *, bad: bool = False) -> None:
    """A remark in small type; `bad` for what went wrong."""
    taken.add(taken.plain(text))
    said = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    st.html(f'<p class="nb-note{" bad" if bad else ""}">{said}</p>')


def notes(texts: Sequence[str], *, bad: bool = False) -> None:
    """Several remarks as a list."""
    if texts:
        taken.add("\n".join(f"- {taken.plain(text)}" for text in texts))
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        st.html(f'<ul class="nb-note{" bad" if bad else ""}">{items}</ul>')


def subheading(text: str) -> None:
    """The heading of a part about one address, which stays text."""
    st.subheader(f"`{text}`", anchor=False)


def facts(entries: Sequence[tuple[str, str, str]]) -> None:
    """Large figures side by side: (what, value with unit, remark below)."""
    taken.add("\n".join(f"- {taken.plain(f'{what}: {value} {remark}')}" for what, value, remark in entries))
    parts = "".join(
        f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(value)}"
        f"{f'<small>{html.escape(remark)}</small>' if remark else ''}</dd></div>"
        for what, value, remark in entries
    )
    st.html(f'<dl class="nb-facts">{parts}</dl>')


def readable(colours: Palette) -> dict[str, Any]:
    """What a figure's words look like: Streamlit's own grey is too faint to read (3.7 to 1 on white)."""
    words = {"labelColor": colours.muted, "titleColor": colours.muted}
    return {"axis": words | {"gridColor": colours.grid}, "legend": words | {"labelColor": colours.ink}, "header": words}


def tiles(found: Sequence[Tile]) -> None:
    """Large figures side by side, each with a link to the page that shows where it comes from."""
    with st.container(key="tiles"):
        for column, tile in zip(st.columns(len(found)), found, strict=True):
            with column:
                facts([(tile.what, tile.value, tile.remark)])
                st.page_link(f"screens/{tile.page}/page.py", label=tile.link, query_params=tile.query)


def figure(
    chart: Any,
    rows: Rows,
    *,
    name: str,
    title: str,
    caption: str,
    words: str,
    heading: bool = True,
    picked: Callable[[], None] | None = None,
) -> None:
    """A figure with its title, its words for those who do not see it, its caption, its data, and itself to save.

    `picked` is called when the visitor picks something in it, which then stands in the session under `pick-{name}`.
    """
    if heading:
        st.subheader(title, anchor=False)
    with st.container(key=f"figure-{name}"):  # the buttons below find the drawing by this name
        spec = chart.to_dict(validate=False)
        spec["config"] = readable(palette()) | spec.get("config", {})
        if picked is None:
            st.vega_lite_chart(spec, alt=title)
        else:
            st.vega_lite_chart(spec, alt=title, on_select=picked, key=f"pick-{name}")
    taken.add(f"**{taken.plain(title)}**", taken.plain(words), taken.plain(caption))
    said = html.escape(title, quote=True)
    below = f'<p class="nb-note">{html.escape(caption)}</p>' if caption else ""
    st.html(f'<p class="nb-hidden">{html.escape(words)}</p>{below}')
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        csv_button(rows, name)
        buttons = "".join(
            f'<button type="button" class="nb-save" data-figure="{name}" data-kind="{kind}" data-title="{said}" '
            f'data-paper="{palette().paper}" aria-label="Save “{said}” as {kind.upper()}">{kind.upper()}</button>'
            for kind in ("svg", "png")
        )
        st.html(f"{buttons}<script>{_saving()}</script>", width="content", unsafe_allow_javascript=True)


@st.cache_resource
def _saving() -> str:
    return (Path(__file__).parent / "templates" / "save.js").read_text(encoding="utf-8")


@st.cache_resource
def _known() -> Known:
    return {}


def place(folder: Path) -> str:
    """A folder as the visitor knows it: from where the app was started, if it lies below."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) and folder != here else str(folder)


def runs() -> Shelf:
    """The run folders there are now."""
    return library.shelf(settings().runs, _known())


@st.cache_resource(max_entries=24)
def _report(path: str, stamp: tuple[int, int]) -> Report:  # noqa: ARG001 (a changed run.json is another report)
    return stored(open_run(Path(path)))


def report_at(path: str, stamp: Stamp) -> Report:
    """The report of the run at `path` from its run.json, kept until that changes."""
    return _report(path, stamp)


def report(entry: Entry) -> Report:
    """A run's report from its run.json, kept until that changes."""
    return _report(str(entry.path), entry.stamp)


@st.cache_resource(max_entries=512)
def latency_curves(path: str, cell_id: str, stamp: tuple[int, int]) -> dict[str, Curve | None]:  # noqa: ARG001
    """The distributions of a cell's TTFT, TPOT and E2E latency."""
    return library.latency_curves(Path(path), cell_id)


@st.cache_resource(max_entries=512)
def gap_curve(path: str, cell_id: str, stamp: tuple[int, int]) -> Curve | None:  # noqa: ARG001
    """The distribution of a cell's ITL."""
    return library.gap_curve(Path(path), cell_id)


def entries(shelf: Shelf) -> list[Entry]:
    """What can be chosen: the runs, newest first, and the sample run at the end."""
    return [*shelf.runs, library.sample()]


def entry_label(entry: Entry) -> str:
    """A run in a list of choices."""
    if entry.id == library.SAMPLE_ID:
        return "sample: the reference run that comes with Neural Bridge"
    when = f"{entry.created:%Y-%m-%d %H:%M}" if entry.created else "no date"
    return f"{when} · {entry.name} · {', '.join(entry.models)} · {entry.id[-4:]}"


def choose(shelf: Shelf, key: str, label: str, *, index: int = 0) -> Entry:
    """The run that the visitor picks; its id stands in the URL under `key`.

    At first it is the newest that recorded a request, with `index` = 1 the one before.
    """
    known = {entry.id: entry for entry in entries(shelf)}
    ids = list(known)
    filled = [entry.id for entry in known.values() if entry.requests]  # the sample run is one
    first = ids.index(filled[min(index, len(filled) - 1)])
    return known[pick(ids, key, label, {one: entry_label(known[one]) for one in ids}, index=first)]


def choose_some(shelf: Shelf, key: str, label: str, *, most: int) -> list[Entry]:
    """The runs that the visitor picks, `most` at most; each id stands in the URL. At first the one of `choose`."""
    known = {entry.id: entry for entry in entries(shelf)}
    first = next(entry.id for entry in known.values() if entry.requests)
    labels = {one: entry_label(entry) for one, entry in known.items()}
    return [known[one] for one in pick_some(list(known), key, label, labels, first=[first], most=most)]


def named_broken(broken: Sequence[Broken]) -> None:
    """Which folders are left out, and why."""
    if not broken:
        return
    with st.expander(f"{plural(len(broken), 'folder')} left out, because nothing can be read from them"):
        for entry in broken:
            st.markdown(f"**{entry.path.name}**")
            note(entry.reason, bad=True)


def no_runs(shelf: Shelf) -> None:
    """What to do on a machine where nothing has been measured yet."""
    st.subheader("No runs here yet", anchor=False)
    st.markdown(
        "This app shows what `nbridge bench` measures, and looks for runs in "
        f"`{place(shelf.folder)}`. To get the first one:\n\n"
        "1. `make bench` measures three quantizations of a small model on this machine: about five minutes, no GPU and "
        "no download needed.\n"
        "2. `nbridge bench --target http://127.0.0.1:8000` measures a server that already runs.\n"
        "3. `nbridge dashboard --runs FOLDER` looks somewhere else.\n\n"
        "Until then, the reference run that comes with Neural Bridge shows what a run looks like."
    )


def guarded(show: Callable[[], None]) -> None:
    """Run a part of a page; what it cannot read is said in its place, and the rest of the page stays."""
    try:
        show()
    except (BenchError, ReportError, PlanningError) as error:
        st.error(str(error), icon=":material/error:")
    except OSError as error:  # a run that was deleted while it is shown
        what = error.filename or "a file of this run"
        st.error(f"{what}: cannot be read ({error.strerror}). Was it deleted?", icon=":material/error:")
