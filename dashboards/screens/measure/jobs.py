"""Measurements that the app starts: each a `nbridge bench` of its own, which goes on when the page, or the app, ends.

Everything that is known of one lies in a folder beside the runs, so that another visitor, or the app after a restart,
sees it too.
"""

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dashboards.errors import DashboardError

FOLDER = ".measuring"
_RUN = re.compile(r"^run (?P<path>.+?)(?:: (?P<pending>\d+) of \d+ cells to measure.*)?$", re.MULTILINE)
_PROXIED = {"x-forwarded-for", "forwarded", "x-real-ip"}
_LOG_BYTES = 64 << 10
_started: dict[int, subprocess.Popen[bytes]] = {}  # what this process started: it has to be waited for


class CannotStart(DashboardError):
    exit_code = 2


@dataclass(frozen=True)
class Job:
    """A measurement: which process, since when, what it was asked to do."""

    id: str
    pid: int
    born: str | None
    started: str
    what: str
    argv: tuple[str, ...]
    folder: str

    @property
    def log(self) -> Path:
        return Path(self.folder) / f"{self.id}.log"

    @property
    def seconds(self) -> float:
        """Since its start."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.started)).total_seconds())


def may_start(headers: Mapping[str, str], address: str | None, allow: bool) -> bool:
    """Whether a visitor may start processes: one on this machine (`address` None or loopback, through no proxy), or
    everybody where the app was told so."""
    if allow:
        return True
    if {name.lower() for name in headers} & _PROXIED:
        return False
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def start(
    runs: Path, what: str, *, plan: str | None = None, target: str | None = None, resume: Path | None = None
) -> Job:
    """Start a measurement of the plan in this text (on the server `target`), or go on with a run.

    Raises CannotStart when another one is at work: two at once would measure each other.
    """
    folder = runs / FOLDER
    try:
        with _alone(folder):
            if (busy := at_work(runs)) is not None:
                raise CannotStart(
                    f"Another measurement is at work ({busy.what}, since {busy.started[11:16]} UTC): two at once would "
                    "measure each other. Wait for it, or cancel it."
                )
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
            argv = [sys.executable, "-m", "nbridge", "bench"]
            if resume is not None:
                argv += ["--resume", str(resume)]
            else:
                path = folder / f"{name}.toml"
                path.write_text(plan or "", encoding="utf-8")
                argv += [str(path), "--out", str(runs), *(["--target", target] if target else [])]
            return _begin(folder, name, what, argv)
    except OSError as error:
        raise CannotStart(f"{folder}: the measurement cannot be started ({error.strerror or error}).") from error


def _begin(folder: Path, name: str, what: str, argv: Sequence[str]) -> Job:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # neither the app's end nor its Ctrl-C ends a measurement
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "110", "NO_COLOR": "1"},
        )
    _started[process.pid] = process
    now = datetime.now(UTC).isoformat(timespec="seconds")
    job = Job(name, process.pid, _born(process.pid), now, what, tuple(argv), str(folder))
    path = folder / f"{name}.json"
    try:
        path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    except OSError:  # a full disk: nobody would see it, and a second one could be started beside it
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)
        raise
    return job


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time looks whether nobody is at work, and starts: two visitors cannot start two."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def jobs(runs: Path) -> list[Job]:
    """The measurements that the app started here, the newest first; what cannot be read is left out."""
    found = []
    for path in sorted((runs / FOLDER).glob("*.json"), reverse=True):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found.append(Job(**{**document, "argv": tuple(document["argv"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def at_work(runs: Path) -> Job | None:
    """The measurement that goes on now, if any."""
    return next((job for job in jobs(runs)[:20] if is_alive(job)), None)


def is_alive(job: Job) -> bool:
    """Whether the job's process still runs; another process that got its number is not it."""
    if (mine := _started.get(job.pid)) is not None:
        return mine.poll() is None
    born = _born(job.pid)
    return born is not None and born == job.born


def exit_code(job: Job) -> int | None:
    """How it ended; None while it runs, or where another app started it."""
    mine = _started.get(job.pid)
    return None if mine is None else mine.poll()


def cancel(job: Job) -> None:
    """Ask it to end: what is measured stays, the cell in work is cut off, and the run can be gone on with."""
    if is_alive(job):
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.pid, signal.SIGTERM)


def _born(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None when there is none, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def said(job: Job) -> str:
    """The end of what it printed."""
    try:
        with job.log.open("rb") as file:
            file.seek(max(0, job.log.stat().st_size - _LOG_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def run_of(job: Job) -> tuple[Path | None, int | None]:
    """The run folder that it said it writes, and how many cells it began with; None before it said so."""
    try:
        with job.log.open("rb") as file:
            head = file.read(_LOG_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None, None
    found = _RUN.search(head)
    if found is None:
        return None, None
    return Path(found["path"]), int(found["pending"]) if found["pending"] else None
