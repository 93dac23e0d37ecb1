"""Compare: a run and others beside it, what changed, what may not be compared, and runs of a kind over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from bench.compare.comparison import Comparison
from bench.compare.history import History, of_runs
from bench.compare.inference import THRESHOLD
from bench.compare.likeness import Difference
from bench.compare.printout import percent
from bench.errors import BenchError, RunFolderError
from bench.run.store import open_run
from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.library import Entry, Shelf
from dashboards.screens.compare import charts, several, view
from dashboards.screens.compare.pairs import Known, differences, held_together, known
from inputs.quantities import plural

ONLY_ITSELF = "The same run is chosen twice: choose another one to compare it with."
UNFOLDED = 14  # rows that are shown at once
MOST = 8  # new runs: a figure of more has no room for them
VERDICTS = tuple(f"{say[0].upper()}{say[1:]}" for say in view.SAYS.values())


def show() -> None:
    layout.heading("Compare", "What changed from one run to another, beyond noise, and since when.")
    shelf = layout.runs()
    left, right = st.columns(2)
    with left:
        old = layout.choose(shelf, "old", "Old run, the baseline", index=1)
    with right:
        new = layout.choose_some(shelf, "new", "New runs, held against it", most=MOST)
    others = [one for one in new if one.id != old.id]
    names = several.names([old.id, *(one.id for one in others)])
    links.tab(f"{names[old.id]} → {', '.join(names[one.id] for one in others)} · Compare")
    layout.named_broken(shelf.broken)
    if not shelf.runs:
        note("There are no runs of your own yet, so there is nothing to compare the sample run with but itself.")
    elif not new:
        note("Choose a new run to hold against the old one.")
    elif len(others) < len(new):
        note(ONLY_ITSELF if not others else "The baseline is left out of the new runs: it does not differ from itself.")
    if len(others) == 1 and shelf.runs:
        layout.guarded(lambda: compared(old, others[0]))
    elif others and shelf.runs:
        layout.guarded(lambda: all_compared(old, others, names))
    if shelf.runs:
        layout.guarded(lambda: over_time(shelf, (others or new or [old])[0]))


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


def all_compared(old: Entry, others: Sequence[Entry], names: Mapping[str, str]) -> None:
    """Several runs, each held against the baseline by itself."""
    unlike: dict[str, tuple[Difference, ...]] = {}
    problems: dict[str, str] = {}
    for one in others:
        try:
            unlike[one.id] = tuple(differences(known(old), known(one)))
        except (BenchError, OSError) as error:
            problems[one.id] = str(error)
    allowed = may_differ([difference for facts in unlike.values() for difference in facts])
    held = [hold(old, one, names[one.id], unlike.get(one.id, ()), problems.get(one.id), allowed) for one in others]
    layout.verdict(several.verdict(held, names[old.id]))
    tabular.table(several.verdict_rows(held), f"Each beside {old.id}", numeric=VERDICTS, words=("Unlike in",))
    for found in held:
        if found.problem:
            note(f"{found.name}: {found.problem}", bad=True)
    refused = several.difference_rows(held, refused=True)
    tabular.table(refused, "By what runs are unlike that were not compared", words=("Old", "New"))
    if refused:
        note("If one of these is what was changed on purpose, choose it under “May differ”.")
    if sum(one.found is not None for one in held) > 1:
        note(f"Each is held against {names[old.id]} by itself: of many runs, one seems changed by luck more easily.")
    for said in several.remarks(held, "notes"):
        note(said)
    rows = several.csv_rows(held)
    if rows:
        pick_figure([{**row, "run": names.get(row["run"], row["run"])} for row in rows])
        table = several.table_rows(held)
        worse = any(one.found is not None and one.found.verdict == "regression" for one in held)
        unfolded = worse or len(table) <= UNFOLDED
        with st.expander(f"Every figure of every run: {plural(len(table), 'row')}", expanded=unfolded):
            tabular.table(table, "Every figure: value, change with its 95 % interval, verdict", numeric=("Old",))
        tabular.csv_button(rows, "comparison", "Every figure as CSV")
    tabular.table(several.difference_rows(held, refused=False), "Allowed to differ", words=("Old", "New"))
    if left_out := several.remarks(held, "left_out"):
        with st.expander(f"Left out: {plural(len(left_out), 'case')}", expanded=not rows):
            layout.notes(left_out)


def hold(
    old: Entry, one: Entry, name: str, unlike: tuple[Difference, ...], problem: str | None, allowed: set[str]
) -> several.Held:
    """One run beside the baseline, or why not: the others are compared all the same."""
    refused = tuple(difference for difference in unlike if difference.name not in allowed)
    if refused or problem:
        return several.Held(name, one.id, None, unlike, refused, problem)
    mine = tuple(sorted({difference.name for difference in unlike}))
    try:
        return several.Held(name, one.id, held_together(known(old), known(one), mine), unlike)
    except (BenchError, OSError) as error:
        return several.Held(name, one.id, None, unlike, (), str(error))


def may_differ(unlike: Sequence[Difference]) -> set[str]:
    """The facts that the visitor lets differ; they stand in the address."""
    names = list(dict.fromkeys(one.name for one in unlike))
    if not names:
        return set()
    return set(st.pills("May differ", names, selection_mode="multi", key="allow", bind="query-params") or ())


def pick_figure(every: view.Rows) -> None:
    """How one figure changed, of the rows of one run or of several."""
    labels = list(dict.fromkeys(row["figure"] for row in every))
    label = (
        st.segmented_control("Figure", labels, default=labels[0], key="figure", bind="query-params", required=True)
        or labels[0]
    )
    rows = [row for row in every if row["figure"] == label]
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


def figures(found: Comparison) -> None:
    pick_figure(view.csv_rows(found))
    numeric = ("Old", "New", "Change", "95 % interval", "p", "Repeats")
    with st.expander(
        f"Every figure in both runs: {plural(len(found.lines), 'row')}", expanded=found.verdict == "regression"
    ):
        tabular.table(view.table_rows(found), "Every figure", numeric=numeric)
    tabular.csv_button(view.csv_rows(found), "comparison", "Every figure as CSV")


def over_time(shelf: Shelf, new: Entry) -> None:
    """The (first) new run among all runs of its kind."""
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
