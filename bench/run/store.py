"""The run folder: `runs/<run_id>/run.json` and one folder per cell. Reading never changes anything.

Format history (`run.json` → `format`):
  1  first version
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import NewerFormatError, RunFolderError, StorageError
from bench.run.records import SCHEMA
from inputs import files

FORMAT = 1
LEAST_FREE_BYTES = 1 << 20  # a cell is not begun with less: its prompts and its log alone take some of it
FULL_BYTES = 64 << 10  # below this, a cell's next records or the engine's next lines do not fit
SET_ASIDE = ".interrupted-"  # between a cell's id and a number: the folder of an earlier attempt
_RUN_BYTES = 256 << 20  # of a run.json; a cell takes some 5 kB in it
_PAGE_BYTES = 64 << 20  # of a metrics page; vLLM's have some 60 kB
_DEPTH = 64  # of tables in a run.json; ours have eight
_CELL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_at_work(run_dir: Path) -> bool:
    """Whether a `nbridge bench` is at work in the run folder now: it holds the folder's lock."""
    try:
        with (run_dir / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no lock, or none that can be asked
    return False


def slug(text: str) -> str:
    """`text` as a file name's part: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "x"


def engine_word(engine: Mapping[str, Any], *, beside_others: bool = False) -> str:
    """What an engine without a name is called: by its quantization, without one by its model; “unquantized” beside
    others of that model."""
    quantization = str(engine.get("quantization") or "none")
    if quantization != "none":
        return quantization
    model = str(engine.get("model") or "").rstrip("/").rpartition("/")[2]
    return "unquantized" if beside_others else slug(model) if model else "engine"


def engines_called(document: dict[str, Any]) -> dict[str, Any]:
    """A run's document in which no engine is called “none”, as earlier versions called one without a quantization.

    The ids of cells, which are folders, stay.
    """
    engines = [cell["engine"] for cell in document["cells"] if isinstance(cell, dict) and _is_named(cell.get("engine"))]
    names = {engine["name"] for engine in engines}
    called = {
        engine["name"]: engine_word(engine, beside_others=len(names) > 1) + engine["name"].removeprefix("none")
        for engine in engines
        if re.fullmatch(r"none(-.*)?", engine["name"]) and (engine.get("quantization") or "none") == "none"
    }
    if not called or set(called.values()) & names:
        return document

    def renamed(entry: Any, key: str) -> Any:
        known = isinstance(entry, dict) and isinstance(entry.get(key), str)
        return {**entry, key: called.get(entry[key], entry[key])} if known else entry

    def each(entries: Any, key: str) -> Any:
        return [renamed(entry, key) for entry in entries] if isinstance(entries, list) else entries

    cells = [
        {**cell, "engine": renamed(cell["engine"], "name")} if isinstance(cell, dict) and "engine" in cell else cell
        for cell in document["cells"]
    ]
    found = {**document, "cells": cells}
    if isinstance(plan := document.get("plan"), dict):
        found["plan"] = {**plan, "engines": each(plan.get("engines"), "name")}
    if isinstance(document.get("capacity"), list):
        found["capacity"] = each(document["capacity"], "engine")
    if isinstance(judged := document.get("quality"), dict):
        found["quality"] = {**renamed(judged, "baseline"), "engines": each(judged.get("engines"), "engine")}
    return found


def _is_named(engine: Any) -> bool:
    return isinstance(engine, dict) and isinstance(engine.get("name"), str)


def new_run_id(name: str, now: datetime) -> str:
    """A run's name that sorts by time: 20261122T101500Z-<name>-<4 random hex digits>."""
    return f"{now:%Y%m%dT%H%M%SZ}-{slug(name)[:40]}-{os.urandom(2).hex()}"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into a message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{path}: the disk is full ({error.strerror}). Everything recorded before is kept; free some space and "
                "go on with `nbridge bench --resume`."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}). Choose another folder with --out."
            ) from error
        raise


def free_bytes(path: Path) -> int:
    """How much this process may still write where `path` lies (or will lie)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = os.statvfs(path)
    if not usage.f_blocks:  # a file system that does not say
        return sys.maxsize
    return (usage.f_bfree if os.geteuid() == 0 else usage.f_bavail) * usage.f_frsize


def require_room(path: Path, least_bytes: int = LEAST_FREE_BYTES) -> None:
    """Raise StorageError when the disk under `path` has less than `least_bytes` left."""
    if (free := free_bytes(path)) < least_bytes:
        raise StorageError(
            f"{path}: the disk is full ({free >> 10:,} KiB left). Everything recorded before is kept; free some space "
            "and go on with `nbridge bench --resume`."
        )


def write_json(path: Path, document: Any) -> None:
    """Replace `path` by `document` as JSON, atomically: a reader sees the old or the new file, never a part."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(document, out, indent=1, ensure_ascii=False, allow_nan=False)
                out.write("\n")
                out.flush()
                os.fsync(out.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def cell_dir(run_dir: Path, cell_id: str) -> Path:
    """The folder of one cell; refuses an id that would leave the run folder."""
    if not _CELL_ID.fullmatch(cell_id):
        raise RunFolderError(
            f"{run_dir}: cell id {cell_id!r} is not a plain name; the run.json was changed by hand or damaged."
        )
    return run_dir / "cells" / cell_id


def quality_file(run_dir: Path, engine: str) -> Path:
    """Where an engine's rows of held-out tokens lie."""
    return run_dir / "quality" / f"{slug(engine)}.parquet"


@dataclass(frozen=True)
class Run:
    """A run folder, opened for reading. `document` is its run.json."""

    path: Path
    document: dict[str, Any]

    @property
    def cells(self) -> list[dict[str, Any]]:
        return list(self.document["cells"])

    def requests(self, cell_id: str) -> pa.Table:
        """One row per measured request of the cell (columns: records.SCHEMA); no rows if nothing was recorded."""
        return self._parquet(cell_id, "requests.parquet") or SCHEMA.empty_table()

    def samples(self, cell_id: str) -> pa.Table | None:
        """Timed samples beside the load: t_s, source, name, labels (JSON), value; None if none were taken."""
        return self._parquet(cell_id, "samples.parquet")

    def pages(self, cell_id: str) -> tuple[str | None, str | None]:
        """The server's metrics page before and after the cell's measured requests; None where none was kept."""
        before, after = (cell_dir(self.path, cell_id) / f"metrics_{when}.prom" for when in ("before", "after"))
        return _text(before), _text(after)

    def scored(self, name: str) -> pa.Table | None:
        """One row per held-out token that an engine was asked for (columns: bench.run.quality.SCHEMA); None without."""
        return self._table(quality_file(self.path, name))

    def _parquet(self, cell_id: str, name: str) -> pa.Table | None:
        return self._table(cell_dir(self.path, cell_id) / name)

    def _table(self, path: Path) -> pa.Table | None:
        if not path.exists():
            return None
        try:
            return pq.read_table(path, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise RunFolderError(f"{path}: not a readable Parquet file ({error}). Measure the cell again.") from error


def _text(path: Path) -> str | None:
    try:
        return files.read_text(path, limit_bytes=_PAGE_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}). Measure the cell again.") from error


def open_run(path: Path) -> Run:
    """Open a run folder (or its run.json).

    Raises RunFolderError when it is none or damaged, NewerFormatError when a newer Neural Bridge wrote it.
    """
    folder = path.parent if path.name == "run.json" else path
    source = folder / "run.json"
    try:
        document = files.read_json(source, limit_bytes=_RUN_BYTES)
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder}: no run.json here, so this is not a run folder. `nbridge bench` writes runs to runs/<run_id>/."
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{source}: cannot be read ({error}).") from error
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(found, int) or not isinstance(document.get("cells"), list):
        raise RunFolderError(f"{source}: is not a Neural Bridge run (no `format` number and list of `cells`).")
    if found > FORMAT:
        raise NewerFormatError(
            f"{source}: written in format {found} by a newer Neural Bridge; this one reads up to format {FORMAT}. "
            "Update it to read this run."
        )
    if _is_deep(document):
        raise RunFolderError(f"{source}: cannot be read (its tables are nested more than {_DEPTH} deep).")
    ids = [cell["id"] for cell in document["cells"] if isinstance(cell, dict) and isinstance(cell.get("id"), str)]
    for cell_id in ids:
        cell_dir(folder, cell_id)
    if len(set(ids)) < len(ids):
        twice = next(cell_id for cell_id in ids if ids.count(cell_id) > 1)
        raise RunFolderError(f"{source}: two cells are called {twice!r}; it was changed by hand or damaged.")
    return Run(folder, document)


def newest_run(runs: Path) -> Path | None:
    """The newest run folder below `runs` that recorded a request; None when there is none."""
    try:
        folders = sorted((path for path in runs.iterdir() if (path / "run.json").is_file()), reverse=True)
    except OSError:
        return None
    for folder in folders:
        with contextlib.suppress(RunFolderError):
            cells = [cell for cell in open_run(folder).cells if isinstance(cell, dict)]
            if any(isinstance(cell.get("metrics"), dict) for cell in cells):
                return folder
    return None


def _is_deep(document: Any) -> bool:
    """Whether tables are nested deeper than what walks through them can follow."""
    level = [document]
    for _ in range(_DEPTH):
        level = [
            below
            for tree in level
            if isinstance(tree, dict | list)
            for below in (tree.values() if isinstance(tree, dict) else tree)
            if isinstance(below, dict | list)
        ]
        if not level:
            return False
    return True
