"""Runs as pandas DataFrames, for notebooks: cells, requests and samples, with units in the columns' names.

    from bench.run import load
    runs = load("runs/20261127T125355Z-default-d333")
    runs.requests.groupby(["engine", "load"]).ttft_s.median()

Everything comes from the run folder's records; docs/notebooks.md shows more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import RunFolderError
from bench.run.stats.latencies import latencies
from bench.run.store import Run, open_run

_KEYS = ["run_id", "cell_id", "engine", "load", "repeat"]
_LISTS = ["chunk_s", "chunk_tokens"]


@dataclass(frozen=True)
class Frames:
    """One or more runs. Absent figures are missing values (NaN, None), never 0.

    cells     one row per cell: what was set (`engine_…`, `load_…`), `outcome`, `reason`, `valid`, what vLLM said of its
              start (`startup_…`), and the cell's figures: `ttft_s_p50`, `output_throughput_tok_s`, `itl_s_mean`, …
    requests  one row per measured request: the columns of requests.parquet, and of those answered in full `ttft_s`,
              `tpot_s` and `e2e_s`, with `ttft_from_schedule_s` and `e2e_from_schedule_s` under open loads
    samples   one row per timed sample beside the load: `t_s` from the cell's zero, `source`, `name`, `labels`, `value`

    All three carry run_id, cell_id, engine, load and repeat.
    """

    cells: pd.DataFrame
    requests: pd.DataFrame
    samples: pd.DataFrame


def load(*runs: str | Path, chunks: bool = False) -> Frames:
    """Read run folders. With `chunks`, requests keep their lists `chunk_s` and `chunk_tokens` (much larger).

    Raises RunFolderError for a folder that is no run, or when none or the same run is given twice.
    """
    opened = [open_run(Path(run)) for run in runs]
    names = [_name(run) for run in opened]
    if not names:
        raise RunFolderError("load() needs at least one run folder, such as runs/<run_id>.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RunFolderError(f"{twice} is given twice: its requests would count double.")
    cells = [(run, cell, _keys(run, cell)) for run in opened for cell in run.cells]
    return Frames(
        cells=pd.DataFrame([{**keys, **_flat(cell)} for _, cell, keys in cells]),
        requests=_together([_requests(run, cell, keys, chunks) for run, cell, keys in cells]),
        samples=_together([_samples(run, keys) for run, _, keys in cells]),
    )


def _name(run: Run) -> str:
    return str(run.document.get("run_id") or run.path.resolve().name)


def _keys(run: Run, cell: dict[str, Any]) -> dict[str, Any]:
    engine, load_ = cell.get("engine") or {}, cell.get("load") or {}
    return {
        "run_id": _name(run),
        "cell_id": cell["id"],
        "engine": engine.get("name"),
        "load": load_.get("name"),
        "repeat": cell.get("repeat"),
    }


def _flat(cell: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: cell.get(name) for name in ("outcome", "reason")}
    row["valid"] = (cell.get("validity") or {}).get("valid")
    for table in ("engine", "load", "startup"):
        named = {key: value for key, value in (cell.get(table) or {}).items() if key != "name"}
        row.update(_leaves(named, f"{table}_"))
    row.update(_leaves(cell.get("metrics") or {}, ""))
    return row


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}_")
        else:
            yield f"{prefix}{key}", value


def _requests(run: Run, cell: dict[str, Any], keys: dict[str, Any], chunks: bool) -> pd.DataFrame:
    table = run.requests(cell["id"])
    rows = (table if chunks else table.drop_columns(_LISTS)).to_pandas()
    of_open = (cell.get("load") or {}).get("kind") == "open"
    for name, values in latencies(table).items():
        if of_open or "from_schedule" not in name:
            rows[name] = pd.Series(values).where(rows.outcome == "ok")
    return _keyed(rows, keys)


def _samples(run: Run, keys: dict[str, Any]) -> pd.DataFrame:
    table = run.samples(keys["cell_id"])
    return _keyed(table.to_pandas() if table is not None else pd.DataFrame(), keys)


def _keyed(rows: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    """`rows` with the cell's keys in front; as categories, because they repeat on every row."""
    for place, name in enumerate(_KEYS):
        value = pd.Categorical.from_codes([0] * len(rows), [keys[name]]) if len(rows) else pd.Series(dtype="object")
        rows.insert(place, name, value)
    return rows


def _together(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    if not filled:
        return pd.DataFrame(columns=_KEYS)
    for name in _KEYS:
        values = list(dict.fromkeys(frame[name].iloc[0] for frame in filled if len(frame)))
        for frame in filled:
            frame[name] = pd.Categorical(frame[name], categories=values)
    return pd.concat(filled, ignore_index=True)
