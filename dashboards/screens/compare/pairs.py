"""Two runs held against each other, kept until one of them changes: for every page that speaks of a difference."""

from pathlib import Path

import streamlit as st

from bench.compare import comparison
from bench.compare.comparison import Comparison
from bench.compare.inference import ALPHA, THRESHOLD
from bench.compare.likeness import Difference
from bench.run.store import open_run
from dashboards.library import Entry, Stamp

Known = tuple[str, Stamp]  # where a run lies, and which state of it


def known(entry: Entry) -> Known:
    """A run in the state that the shelf has seen."""
    return str(entry.path), entry.stamp


@st.cache_resource(max_entries=64)
def differences(old: Known, new: Known) -> list[Difference]:
    """The facts by which two runs are unlike."""
    return comparison.differences(open_run(Path(old[0])), open_run(Path(new[0])))


@st.cache_resource(max_entries=64)
def held_together(old: Known, new: Known, allowed: tuple[str, ...]) -> Comparison:
    """The comparison by the figures that the runs hold; the command line computes them from the records."""
    return comparison.compare(
        Path(old[0]), Path(new[0]), allowed=list(allowed), alpha=ALPHA, threshold=THRESHOLD, stored=True
    )
