"""Locust as a process of its own: its arguments, its end, and when it has to be stopped before."""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.plans.loads import Load
from bench.run import records, store
from bench.target import Target
from monitoring.sampler import Sampler
from serve.processes.process import OwnedProcess

LOCUSTFILE = Path(__file__).parents[1] / "load" / "locustfile.py"
_POLL_S = 0.2
_STOP_GRACE_S = 15.0
_DISK_FULL_STATUS = 4
ENOUGH = "enough"  # why a load ended early that is no outcome
_WORKERS_WAIT_S = 120
Enough = Callable[[Sequence[Mapping[str, Any]]], str | None]


@dataclass(frozen=True)
class Machines:
    """Locust workers on other machines (`nbridge worker`), and where they find the master."""

    workers: int
    host: str
    port: int

    def argv(self) -> list[str]:
        where = ["--master-bind-host", self.host, "--master-bind-port", str(self.port)]
        waiting = ["--expect-workers", str(self.workers), "--expect-workers-max-wait", str(_WORKERS_WAIT_S)]
        return ["--master", *where, *waiting]


def processes_argv(count: int) -> list[str]:
    """Locust's arguments for several processes that meet on this machine alone: its own choice is port 5557 of every
    interface, for which two loads at once would fight."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return ["--processes", str(count), *where]


def drive(
    folder: Path,
    load_path: Path,
    target: Target,
    load: Load,
    timeout_s: float,
    sampler: Sampler,
    tick: Callable[[int], None],
    enough: Enough | None,
    machines: Machines | None,
) -> tuple[str, str] | None:
    """Run Locust to its end; (outcome or ENOUGH, reason) when it had to be stopped before."""
    users = load.concurrency if load.kind == "closed" else machines.workers if machines else load.processes
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", target.base_url]
    argv += ["--users", str(users), "--spawn-rate", str(users), "--only-summary", "--exit-code-on-error", "0"]
    if machines is not None:
        argv += machines.argv()
    elif load.processes > 1:
        argv += processes_argv(load.processes)
    environment = {**os.environ, "NBRIDGE_LOAD": str(load_path), "PYTHONUNBUFFERED": "1"}
    progress = _Tail(folder)
    deadline = time.monotonic() + timeout_s
    log_path = folder / "locust.log"
    with sampler, OwnedProcess(argv, environment=environment, log_path=log_path) as locust:
        while locust.exit_status() is None:
            if store.free_bytes(folder) < store.FULL_BYTES:  # what cannot be written may also keep it from ending
                locust.stop(_STOP_GRACE_S)
                store.require_room(folder)
            if stop := _reason_to_stop(target, load, progress, deadline, timeout_s, enough):
                locust.stop(_STOP_GRACE_S)
                return stop
            tick(progress.ended)
            try:
                time.sleep(_POLL_S)
            except KeyboardInterrupt:
                locust.stop(_STOP_GRACE_S)
                raise
        tick(progress.read().ended)
        status = locust.exit_status()
    if death := target.failure():
        return death
    if status == _DISK_FULL_STATUS:
        raise StorageError(
            f"{folder}: the load generator could not write its records: {_not_written(folder, log_path)}"
        )
    if status != 0:
        return "failed", f"The load generator ended with status {status}: {_last_words(log_path)}"
    return None


def _reason_to_stop(
    target: Target, load: Load, progress: "_Tail", deadline: float, timeout_s: float, enough: Enough | None
) -> tuple[str, str] | None:
    if death := target.failure():
        return death
    silent = max(load.concurrency or 1, 3)
    if progress.read().timeouts_in_a_row >= silent:
        return "timeout", (
            f"The server stopped answering: the last {progress.timeouts_in_a_row} requests all ran into the timeout of "
            f"{load.timeout_s:g} s."
        )
    if time.monotonic() > deadline:
        return "timeout", f"The cell did not end within cell_timeout_s = {timeout_s:g} s."
    if enough is not None and (why := enough(progress.fresh)):
        return ENOUGH, why
    return None


class _Tail:
    """Follows the records as they are written: how many ended, and how many timeouts came last without a success."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self.ended = 0
        self.timeouts_in_a_row = 0
        self.fresh: list[dict[str, Any]] = []  # since the last read

    def read(self) -> "_Tail":
        self.fresh = []
        for path in record_files(self._folder):
            with path.open("rb") as source:
                source.seek(self._offsets.get(path, 0))
                data = source.read()
            complete = data.rpartition(b"\n")[0]
            self._offsets[path] = self._offsets.get(path, 0) + (len(complete) + 1 if complete else 0)
            for record in records.parse_lines(complete.decode(errors="replace").splitlines()):
                self.fresh.append(record)
                self.ended += not record.get("warmup")
                self.timeouts_in_a_row = self.timeouts_in_a_row + 1 if record.get("outcome") == "timeout" else 0
        return self


def record_files(folder: Path) -> list[Path]:
    """The JSONL files of a cell: one per Locust worker."""
    return sorted(folder.glob("requests*.jsonl"))


def _not_written(folder: Path, log_path: Path) -> str:
    """Why the load generator could not write: by its own line among all that Locust prints, else by the disk."""
    said = [
        line.strip()
        for line in log_path.read_text(errors="replace").splitlines()
        if "cannot be written" in line or "cannot be opened" in line
    ]
    if not said:
        store.require_room(folder)
        return _last_words(log_path)
    return f"{said[0]} Everything recorded before is kept; go on with `nbridge bench --resume` once it can be written."


def _last_words(log_path: Path) -> str:
    lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it said nothing"
