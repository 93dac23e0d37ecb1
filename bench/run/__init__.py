"""A run as it lies on disk, and what follows from it: records, store, statistics, reconciliation, validity.

`load` is for notebooks: runs as pandas DataFrames (bench.run.frames).
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.run.frames import Frames


def load(*runs: str | Path, chunks: bool = False) -> "Frames":
    """Read run folders as DataFrames of cells, requests and samples: see bench.run.frames.load."""
    from bench.run import frames  # pandas takes half a second, which only its readers shall wait for

    return frames.load(*runs, chunks=chunks)
