"""Compare: two runs, what changed, and what may not be compared."""

import streamlit as st

from dashboards import layout
from dashboards.layout import note
from dashboards.library import Entry
from dashboards.screens.compare import charts, view
from inputs.quantities import plural


def show() -> None:
    layout.heading("Compare", "What changed from one run to another, and whether the difference is established.")
    shelf = layout.runs()
    left, right = st.columns(2)
    with left:
        old = layout.choose(shelf, "old", "Old run", index=1)
    with right:
        new = layout.choose(shelf, "new", "New run")
    layout.named_broken(shelf.broken)
    if not shelf.runs:
        note("There are no runs of your own yet, so there is nothing to compare the sample run with but itself.")
    elif old.id == new.id:
        note("The same run is chosen twice: choose another one to compare it with.")
    else:
        layout.guarded(lambda: compared(old, new))


def compared(old: Entry, new: Entry) -> None:
    found = view.compare(layout.report(old), layout.report(new))
    layout.verdict(view.verdict(found))
    if found.differences:
        rows = [{"": what, "Old run": before, "New run": after} for what, before, after in found.differences]
        layout.table(rows, "Machine and software differ")
    if found.lines:
        metrics = list(dict.fromkeys(line.metric for line in found.lines))
        metric = st.segmented_control(
            "Figure", metrics, default=metrics[0], key="figure", bind="query-params", required=True
        )
        chosen = [line for line in found.lines if line.metric == (metric or metrics[0])]
        rows = [row for row in view.csv_rows(found) if row["figure"] == (metric or metrics[0])]
        words = "; ".join(f"{line.engine}, {line.load}: {line.says}" for line in chosen)
        layout.figure(
            charts.changes(rows, layout.palette()),
            rows,
            name="changes",
            title=f"{(metric or metrics[0])[0].upper()}{(metric or metrics[0])[1:]}: new against old",
            caption="New ÷ old, on a logarithmic axis. Right of 1 is more: better for throughput, worse for a latency. "
            "Filled marks are established differences, hollow ones cannot be told apart.",
            words=words,
        )
        layout.table(view.table_rows(found), "Every figure", numeric=("Old", "New", "New ÷ old"))
        layout.csv_button(view.csv_rows(found), "comparison", "Every figure as CSV")
    if found.refused:
        with st.expander(f"Not compared: {plural(len(found.refused), 'case')}", expanded=not found.lines):
            layout.notes(found.refused)


show()
