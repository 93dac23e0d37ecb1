"""The run folders of a directory, listed fast: a run.json is read again only when it changed.

Reads run.json alone; a run's records are read column by column when a figure needs them.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.errors import RunFolderError
from bench.run.records import SCHEMA
from bench.run.stats.gaps import token_gaps
from bench.run.stats.latencies import latencies, ok_only
from bench.run.store import Run, cell_dir, open_run
from dashboards.settings import SAMPLE
from reports.errors import ReportError
from reports.measured.cells import Report
from reports.measured.curves import Curve, ecdf
from reports.measured.reading import stored
from reports.statements.ranking import THROUGHPUT

SAMPLE_ID = "sample"
Stamp = tuple[int, int]
# What each distribution needs of requests.parquet; the token gaps are lists and by far the largest.
LATENCY_COLUMNS = ["outcome", "scheduled_s", "sent_s", "first_token_s", "last_token_s", "ended_s", "output_tokens"]
GAP_COLUMNS = ["outcome", "chunk_s", "chunk_tokens", "output_tokens"]


@dataclass(frozen=True)
class Entry:
    """A run in the list: what its run.json says, without its cells' details."""

    id: str
    path: Path
    stamp: Stamp
    name: str
    created: datetime | None
    finished: bool
    models: tuple[str, ...]
    engines: tuple[str, ...]
    cells: int
    measured: int
    requests: int
    best_tok_s: float | None
    hardware: str

    @property
    def short(self) -> str:
        """What tells it from others of its name."""
        return self.id if self.id == SAMPLE_ID else self.id[-4:]


@dataclass(frozen=True)
class Broken:
    """A folder that cannot be read as a run, with the reason."""

    path: Path
    stamp: Stamp
    reason: str


@dataclass(frozen=True)
class Shelf:
    """Every run of a directory, newest first, and every folder that is none."""

    folder: Path
    runs: tuple[Entry, ...]
    broken: tuple[Broken, ...]

    @property
    def newest(self) -> Entry | None:
        """The newest run that recorded a request; of runs without any, the newest."""
        return next((entry for entry in self.runs if entry.requests), next(iter(self.runs), None))

    def find(self, run_id: str) -> Entry | None:
        return next((entry for entry in self.runs if entry.id == run_id), None)


Known = MutableMapping[Path, Entry | Broken]


def stamp_of(path: Path) -> Stamp:
    """(modification time in ns, size in bytes) of a run's run.json; (0, 0) when there is none."""
    try:
        found = (path / "run.json").stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def shelf(folder: Path, known: Known) -> Shelf:
    """The runs below `folder`; `known` holds what was read before and is brought up to date."""
    found: list[Entry | Broken] = []
    for path in _folders(folder):
        stamp = stamp_of(path)
        entry = known.get(path)
        if entry is None or entry.stamp != stamp:
            entry = known[path] = read_entry(path, stamp)
        found.append(entry)
    runs = [entry for entry in found if isinstance(entry, Entry)]
    runs.sort(key=lambda entry: (entry.created.timestamp() if entry.created else 0.0, entry.id), reverse=True)
    return Shelf(folder, tuple(runs), tuple(entry for entry in found if isinstance(entry, Broken)))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def read_entry(path: Path, stamp: Stamp) -> Entry | Broken:
    """One folder's line in the list."""
    try:
        run = open_run(path)
        return entry_of(stored(run), run, stamp)
    except (RunFolderError, ReportError) as error:
        return Broken(path, stamp, str(error))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        kind = type(error).__name__
        return Broken(
            path, stamp, f"{path / 'run.json'}: its parts are not of the kinds they should be ({kind}: {error})."
        )


def sample() -> Entry:
    """The reference run that comes with Neural Bridge, records included."""
    found = read_entry(SAMPLE, stamp_of(SAMPLE))
    if isinstance(found, Broken):
        raise RunFolderError(found.reason)
    return Entry(**{**found.__dict__, "id": SAMPLE_ID})


def entry_of(report: Report, run: Run, stamp: Stamp) -> Entry:
    """A run's line in the list, from its report."""
    document = report.document
    rates = [value for cell in report.measured if (value := cell.value(THROUGHPUT)) is not None]
    told = [cell for cell in report.points if cell.judged and cell.judged.verdict in ("pass", "fail")]
    return Entry(
        id=run.path.name,
        path=run.path,
        stamp=stamp,
        name=str((document.get("plan") or {}).get("name") or document.get("run_id") or run.path.name),
        created=_instant(document.get("created")),
        finished=document.get("finished") is not None,
        models=tuple(dict.fromkeys(str(cell.document["engine"].get("model")) for cell in report.every)),
        engines=report.engines,
        cells=len(report.every),
        measured=len(report.measured) + len(told),
        requests=sum(cell.records or 0 for cell in report.every),
        best_tok_s=max(rates, default=None),
        hardware=hardware(document.get("environment") or {}),
    )


def _instant(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
        found = found if found.tzinfo else found.astimezone()
        found.timestamp()
    except (ValueError, OverflowError, OSError):  # also dates that no clock shows, such as in the year 1
        return None
    return found


def hardware(environment: dict[str, Any]) -> str:
    """The machine in a few words: its GPUs, or its processor and cores."""
    gpus = [str(gpu.get("name") or "GPU") for gpu in environment.get("gpus") or [] if isinstance(gpu, dict)]
    if gpus:
        names = list(dict.fromkeys(gpus))
        return ", ".join(f"{gpus.count(name)} × {name}" if gpus.count(name) > 1 else name for name in names)
    cpu = environment.get("cpu") or {}
    cores = cpu.get("cores")
    return f"{cpu.get('model') or 'unknown CPU'}{f', {cores} cores' if cores else ''}" if cpu else "not recorded"


def rows(path: Path, cell_id: str) -> int | None:
    """How many requests of a cell are recorded, from the Parquet footer alone; None without records."""
    try:
        return int(pq.read_metadata(cell_dir(path, cell_id) / "requests.parquet").num_rows)
    except (OSError, pa.ArrowException):
        return None


def columns(path: Path, cell_id: str, names: list[str]) -> pa.Table:
    """Some columns of a cell's records; no rows when nothing was recorded. Raises RunFolderError when damaged."""
    source = cell_dir(path, cell_id) / "requests.parquet"
    if not source.exists():
        return SCHEMA.empty_table().select(names)
    try:
        return pq.read_table(source, columns=names)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{source}: not a readable Parquet file ({error}). Measure the cell again.") from error


def known_columns(path: Path, cell_id: str, names: Sequence[str]) -> pa.Table:
    """As `columns`, of those columns that the records have: earlier versions kept fewer. Raises RunFolderError."""
    source = cell_dir(path, cell_id) / "requests.parquet"
    if not source.exists():
        return SCHEMA.empty_table().select(list(names))
    try:
        there = set(pq.read_schema(source).names)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{source}: not a readable Parquet file ({error}). Measure the cell again.") from error
    return columns(path, cell_id, [name for name in names if name in there])


def one_request(path: Path, cell_id: str, request_id: str) -> dict[str, Any] | None:
    """All that is recorded of one request; None when the cell has none of that name. Raises RunFolderError.

    Only the group of rows that holds it is read with its lists of chunks.
    """
    source = cell_dir(path, cell_id) / "requests.parquet"
    try:
        with pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                place = pc.index(file.read_row_group(group, columns=["request_id"])["request_id"], request_id).as_py()
                if place >= 0:
                    row: dict[str, Any] = file.read_row_group(group).slice(place, 1).to_pylist()[0]
                    return row
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{source}: cannot be read ({error}). Measure the cell again.") from error
    return None


def latency_curves(path: Path, cell_id: str) -> dict[str, Curve | None]:
    """The thinned ECDFs of a cell's TTFT, TPOT and E2E latency in seconds, read from seven columns."""
    found = latencies(ok_only(columns(path, cell_id, LATENCY_COLUMNS)))
    return {name: ecdf(found[name]) for name in ("ttft_s", "tpot_s", "e2e_s")}


def gap_curve(path: Path, cell_id: str) -> Curve | None:
    """The thinned ECDF of a cell's ITL in seconds; of its chunk gaps where tokens per chunk are not known."""
    gaps, itl = token_gaps(columns(path, cell_id, GAP_COLUMNS))
    return ecdf(gaps if itl is None else itl)
