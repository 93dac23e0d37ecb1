"""Overview: the newest run's verdict, the runs there are, and where to go on."""

import itertools

import streamlit as st

from dashboards import layout
from dashboards.layout import note
from dashboards.library import SAMPLE_ID, Entry, Shelf, sample
from inputs.quantities import MISSING, count, number, plural
from reports.names import listing
from reports.tables import key_figures
from reports.verdict import verdict

FIRST = 20


def show() -> None:
    layout.heading(
        "Neural Bridge",
        "Should you run an open LLM on your own hardware instead of paying an API? What was measured, what it means.",
    )
    shelf = layout.runs()
    if (latest := shelf.newest) is not None:
        newest(latest, shelf)
    else:
        layout.no_runs(shelf)
        layout.named_broken(shelf.broken)
        reference = sample()
        st.page_link(
            "screens/benchmarks/page.py",
            label="Open the sample run",
            icon=":material/bar_chart:",
            query_params={"run": SAMPLE_ID},
        )
        layout.guarded(lambda: figures(reference))
    onward()


def newest(entry: Entry, shelf: Shelf) -> None:
    st.subheader(f"The newest run: {entry.name}", anchor=False)
    if empty := list(itertools.takewhile(lambda run: run.id != entry.id, shelf.runs)):
        note(f"{plural(len(empty), 'newer run')} recorded no request: {listing([run.id for run in empty], 3)}.")
    when = f"{entry.created:%Y-%m-%d %H:%M %Z}" if entry.created else "at an unknown time"
    note(f"Started {when} on {entry.hardware}; {entry.requests:,} requests in {plural(entry.cells, 'cell')}.")
    layout.guarded(lambda: figures(entry))
    st.page_link(
        "screens/benchmarks/page.py",
        label="All its figures",
        icon=":material/bar_chart:",
        query_params={"run": entry.id},
    )
    st.subheader(f"{plural(len(shelf.runs), 'run')} in `{layout.place(shelf.folder)}`", anchor=False)
    layout.named_broken(shelf.broken)
    shown = shelf.runs
    if len(shown) > FIRST and not st.toggle(f"Show all {len(shown)}", key="all_runs"):
        shown = shown[:FIRST]
    layout.table(
        [row(entry) for entry in shown],
        "Newest first",
        numeric=("Valid cells", "Requests", "Best output"),
        words=("Engines",),
    )
    layout.csv_button([row(entry) for entry in shelf.runs], "runs", "List as CSV")


def figures(entry: Entry) -> None:
    report = layout.report(entry)
    layout.verdict(" ".join(verdict(report)))
    layout.report_table(key_figures(report))


def row(entry: Entry) -> dict[str, str]:
    return {
        "Run": entry.id,
        "Started": f"{entry.created:%Y-%m-%d %H:%M}" if entry.created else MISSING,
        "Model": ", ".join(entry.models),
        "Engines": ", ".join(entry.engines),
        "Hardware": entry.hardware,
        "Valid cells": f"{entry.measured} of {entry.cells}{'' if entry.finished else ', not finished'}",
        "Requests": count(entry.requests),
        "Best output": f"{number(entry.best_tok_s)} tokens/s" if entry.best_tok_s is not None else MISSING,
    }


def onward() -> None:
    st.subheader("Where to go on", anchor=False)
    links = (
        ("live", "Live", "what the servers do now"),
        ("compare", "Compare", "one run against another"),
        ("capacity", "Capacity and VRAM", "does a model fit, and how many servers does the demand need"),
        ("cost", "Cost", "API or own hardware, with ranges"),
        ("claims", "Claims", "check what others say about cost and speed"),
    )
    for name, label, says in links:
        st.page_link(f"screens/{name}/page.py", label=f"{label}: {says}")


show()
