"""A run's tables as files for other programs: cells, requests and samples as CSV, Parquet or JSON lines."""

from pathlib import Path

import pandas as pd

from bench.errors import PlanError
from bench.formats import Format
from bench.run import frames
from bench.run.store import explained


def export(runs: list[Path], to: Format, out: Path, *, chunks: bool = False) -> dict[Path, int]:
    """Write cells, requests and samples of `runs` into the folder `out`; returns each file and its rows.

    Raises PlanError when one of the files is there already, RunFolderError for what is no run, StorageError when the
    disk refuses.
    """
    suffix = "jsonl" if to is Format.JSON else to.value
    targets = {name: out / f"{name}.{suffix}" for name in ("cells", "requests", "samples")}
    if there := [path for path in targets.values() if path.exists()]:
        raise PlanError(f"{there[0]} exists already and is not overwritten: name another folder with --out.")
    loaded = frames.load(*runs, chunks=chunks or to is not Format.CSV)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, path in targets.items():
            _write(getattr(loaded, name), to, path)
    return {path: len(getattr(loaded, name)) for name, path in targets.items()}


def _write(table: pd.DataFrame, to: Format, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        match to:
            case Format.CSV:
                table.to_csv(partial, index=False)
            case Format.PARQUET:
                table.to_parquet(partial, index=False)
            case Format.JSON:
                table.to_json(partial, orient="records", lines=True, double_precision=15)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
