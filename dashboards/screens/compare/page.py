"""Compare: two runs, what changed, what may not be compared, and runs of their kind over time."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from bench.compare.comparison import Comparison
from bench.compare.history import History, of_runs
from bench.compare.inference import THRESHOLD
from bench.compare.likeness import Difference
from bench.compare.printout import percent
from bench.errors import RunFolderError
from bench.run.store import open_run
from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.library import Entry, Shelf
from dashboards.screens.compare import charts, view
from dashboards.screens.compare.pairs import Known, differences, held_together, known
from inputs.quantities import plural


def show() -> None:
    layout.heading("Compare", "What changed from one run to another, beyond noise, and since when.")
    shelf = layout.runs()
    left, right = st.columns(2)
    with left:
        old = layout.choose(shelf, "old", "Old run", index=1)
    with right:
        new = layout.choose(shelf, "new", "New run")
    links.tab(f"{old.id[-4:]} → {new.id[-4:]} · Compare")
    layout.named_broken(shelf.broken)
    if not shelf.runs:
        note("There are no runs of your own yet, so there is nothing to compare the sample run with but itself.")
    elif old.id == new.id:
        note("The same run is chosen twice: choose another one to compare it with.")
    else:
        layout.guarded(lambda: compared(old, new))
    if shelf.runs:
        layout.guarded(lambda: over_time(shelf, new))


def compared(old: Entry, new: Entry) -> None:
    unlike = differences(known(old), known(new))
    allowed = may_differ(unlike)
    refused = [one for one in unlike if one.name not in allowed]
    if refused:
        layout.verdict(
            f"Not compared: the runs are unlike in {plural(len({one.name for one in refused}), 'fact')} that may not "
            "differ, so a difference between them would say nothing of its cause."
        )
        tabular.table(view.difference_rows(refused), "By what the runs are unlike", words=("Old", "New"))
        note("If one of these is what was changed on purpose, choose it under “May differ”.")
        return
    found = held_together(known(old), known(new), tuple(sorted(allowed)))
    layout.verdict(view.verdict(found))
    for said in found.notes:
        note(said)
    if found.lines:
        figures(found)
    if unlike:
        tabular.table(view.difference_rows(unlike), "Allowed to differ", words=("Old", "New"))
    if found.left_out:
        with st.expander(f"Left out: {plural(len(found.left_out), 'case')}", expanded=not found.lines):
            layout.notes(found.left_out)


def may_differ(unlike: Sequence[Difference]) -> set[str]:
    """The facts that the visitor lets differ; they stand in the address."""
    names = list(dict.fromkeys(one.name for one in unlike))
    if not names:
        return set()
    return set(st.pills("May differ", names, selection_mode="multi", key="allow", bind="query-params") or ())


def figures(found: Comparison) -> None:
    labels = list(dict.fromkeys(line.figure.label for line in found.lines))
    label = (
        st.segmented_control("Figure", labels, default=labels[0], key="figure", bind="query-params", required=True)
        or labels[0]
    )
    rows = [row for row in view.csv_rows(found) if row["figure"] == label]
    if any(row["change"] is not None for row in rows):
        layout.figure(
            charts.changes(rows, THRESHOLD, layout.palette()),
            rows,
            name="changes",
            title=f"{label[0].upper()}{label[1:]}: from old to new",
            caption="Change of the mean over the repeats, with its 95 % interval from five repeats on. Right of 0 is "
            f"more: better for throughput, worse for a latency. The band is what does not matter (±"
            f"{view.threshold_words()}).",
            words=view.words(rows),
        )
    numeric = ("Old", "New", "Change", "95 % interval", "p", "Repeats")
    with st.expander(
        f"Every figure in both runs: {plural(len(found.lines), 'row')}", expanded=found.verdict == "regression"
    ):
        tabular.table(view.table_rows(found), "Every figure", numeric=numeric)
    tabular.csv_button(view.csv_rows(found), "comparison", "Every figure as CSV")


def over_time(shelf: Shelf, new: Entry) -> None:
    """The new run among all runs of its kind."""
    st.subheader("Over time", anchor=False)
    entry = next((one for one in shelf.runs if one.id == new.id), None)
    if entry is None:
        note("The sample run has no history. Choose a run of your own as the new one.")
        return
    found = histories(tuple(known(one) for one in reversed(shelf.runs)))
    group = view.group_of(found.groups, run_id(entry))
    if group is None or not group.series:
        note("No run of this kind has a valid figure, so there is no history.")
        return
    places = list(dict.fromkeys(view.place_name(one) for one in group.series))
    left, right = st.columns(2)
    place = left.selectbox("Engine and load", places, key="place", bind="query-params") or places[0]
    labels = [one.figure.label for one in group.series if view.place_name(one) == place]
    label = right.selectbox("Figure over time", labels, key="over", bind="query-params") or labels[0]
    one = view.series_of(group, place, label)
    if one is None:
        return
    said = view.history_words(one, group)
    rows = view.history_rows(one, group)
    marks = [
        {
            "at": shift.at + 0.5,
            "says": "worse" if one.is_worse(shift) else "better",
            "change": percent(shift.ratio_change),
        }
        for shift in one.shifts
    ]
    title = f"{label[0].upper()}{label[1:]}" + ("" if one.figure.unit == "s" else f", {one.figure.unit}")
    layout.figure(
        charts.history(rows, marks, title, is_time=one.figure.unit == "s", palette=layout.palette()),
        rows,
        name="history",
        title=f"{label[0].upper()}{label[1:]} of {place}, run after run",
        caption="One point a run, the mean of its valid repeats; the line is the level. Runs that are unlike in "
        "machine, software, engine or load are not mixed in. A change is told when three runs have it.",
        words=said,
    )
    note(said)
    tabular.table(view.change_rows(one, group), "Changes of level", numeric=("Before", "After", "Change"))


def run_id(entry: Entry) -> str:
    return str(open_run(entry.path).document.get("run_id") or entry.path.name)


@st.cache_resource(max_entries=4)
def histories(runs: tuple[Known, ...]) -> History:
    """The history of these runs, oldest first, by the figures that they hold."""
    readable = []
    for path, _ in runs:
        try:
            readable.append(open_run(Path(path)))
        except RunFolderError:
            continue  # it went away or broke since the shelf was read, which names it next time
    return of_runs(readable, allowed=[], threshold=THRESHOLD, stored=True)


show()
