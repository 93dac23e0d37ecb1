"""Workers on other machines: what they are given, how far their clocks are apart, and how their records come home.

Locust distributes: its master tells its workers how many users to start, carries messages both ways and notices who is
gone. What is ours is in the messages:

    nbridge_load      to a worker    the load file and the prompts, packed; the version of this program
    nbridge_prepared  to the master  ready to start, on which host, or why not
    nbridge_ping/pong both           whose clock says what
    nbridge_records   to the master  records of requests that have ended, on the worker's clock

Every worker times its own requests by its own monotonic clock; no latency is a difference between two clocks. To put
the records of all on one time line, the master asks each worker for its clock before and after the load: of many
answers the fastest says most, and is wrong by half its way there and back at most.

Like the crew, this uses the standard library's events and sleeps, which under Locust are gevent's.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter as now
from typing import Any

from bench.load.loadfile import Records

PINGS = 20
PREPARE_S = 120.0  # how long a worker may take to prepare what it shall send
PONG_S = 5.0
FLUSH_S = 0.5
_INSTANTS = ("scheduled", "sent", "headers", "first_token", "last_token", "ended")
_KEPT = 50_000  # records that a worker holds while its master does not take them


def pack(load_path: Path, prompts_path: Path) -> dict[str, Any]:
    """The load file and the prompts as one message."""
    return {
        "version": metadata.version("neural-bridge"),
        "load": load_path.read_text(encoding="utf-8"),
        "prompts": zlib.compress(prompts_path.read_bytes(), 1),
    }


def unpack(message: dict[str, Any], folder: Path) -> Path:
    """Writes what `pack` made into `folder` and returns the load file's path; ValueError for another version's."""
    own = metadata.version("neural-bridge")
    if message.get("version") != own:
        raise ValueError(f"this machine has Neural Bridge {own}, the one that measures has {message.get('version')}")
    load = json.loads(message["load"])
    load |= {"prompts_path": str(folder / "prompts.jsonl"), "records_path": "", "phase_path": ""}
    (folder / "prompts.jsonl").write_bytes(zlib.decompress(message["prompts"]))
    (folder / "load.json").write_text(json.dumps(load), encoding="utf-8")
    return folder / "load.json"


@dataclass(frozen=True)
class Clock:
    """A worker's clock: by how much it is ahead of the master's, and by how much that may be wrong, in seconds."""

    ahead_s: float
    within_s: float


def clock_of(asked: list[tuple[float, float, float]]) -> Clock:
    """Of (asked at, theirs, answered at): the fastest exchange bounds the clocks' difference most closely."""
    sent_s, theirs_s, back_s = min(asked, key=lambda one: one[2] - one[0])
    return Clock(theirs_s - (sent_s + back_s) / 2, (back_s - sent_s) / 2)


def at_home(record: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """A worker's record on the master's clock."""
    moved = {name: record[name] - clock.ahead_s for name in _INSTANTS if record.get(name) is not None}
    return {**record, **moved, "chunk_s": [t - clock.ahead_s for t in record.get("chunk_s") or ()]}


class Forwarded:
    """A worker's records, kept until they are sent home; takes the place of loadfile.Records."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send, self._held = send, list[dict[str, Any]]()

    def append(self, record: dict[str, Any]) -> None:
        """Keeps one record; OSError when too many wait, which the master does not take any more."""
        if len(self._held) >= _KEPT:
            raise OSError(f"{_KEPT:,} records wait for the machine that measures")
        self._held.append(record)

    def flush(self) -> None:
        """Sends what is held."""
        if self._held:
            held, self._held = self._held, []
            self._send("nbridge_records", held)

    def run(self, until: Callable[[], bool]) -> None:
        """Sends records now and then, until `until` says so."""
        while not until():
            time.sleep(FLUSH_S)
            self.flush()


class Fleet:
    """The master's side: every worker prepared, its clock known, its records written beside the master's own."""

    def __init__(self, runner: Any, records_path: Path, stop: Callable[[str, int], None]) -> None:
        self._runner, self._records_path, self._stop = runner, records_path, stop
        self._prepared: dict[str, dict[str, Any]] = {}
        self._pongs: dict[str, tuple[float, float, float]] = {}
        self._clocks: dict[str, Clock] = {}
        self._files: dict[str, Records] = {}
        runner.register_message("nbridge_prepared", lambda msg, **_: self._prepared.update({msg.node_id: msg.data}))
        runner.register_message("nbridge_pong", self._pong)
        runner.register_message("nbridge_records", self._records)

    def prepare(self, message: dict[str, Any], stopped: Callable[[], bool]) -> str | None:
        """Gives every worker its load and asks for its clock; why that did not work, in a sentence."""
        workers = [client.id for client in self._runner.clients.all]
        for worker in workers:
            self._runner.send_message("nbridge_load", message, worker)
        if not _wait(lambda: stopped() or self._prepared.keys() >= set(workers), PREPARE_S):
            missing = len(set(workers) - self._prepared.keys())
            return f"{missing} of {len(workers)} workers were not prepared within {PREPARE_S:.0f} s"
        for said in self._prepared.values():
            if said.get("error"):
                return f"the worker on {said.get('host')} cannot take part: {said['error']}"
        for worker in workers:
            clock = self._clock(worker)
            if clock is None:
                return f"the worker on {self._prepared[worker]['host']} does not tell its clock"
            self._clocks[worker] = clock
        return None

    def theirs(self, worker: str, instant_s: float) -> float:
        """An instant on a worker's clock."""
        return instant_s + self._clocks[worker].ahead_s

    def report(self, worker: str, report: dict[str, Any]) -> dict[str, Any]:
        """A worker's report on the master's clock."""
        ahead_s = self._clocks[worker].ahead_s
        moved = {name: report[name] - ahead_s for name in ("zero_s", "ended_s") if report.get(name) is not None}
        return {**report, **moved}

    def machines(self) -> list[dict[str, Any]]:
        """Every worker's host, how far off its clock may be on the common time line, and by how much it drifted from
        before the load to now."""
        found = []
        for worker, before in sorted(self._clocks.items()):
            after = self._clock(worker)
            found.append(
                {
                    "host": self._prepared[worker]["host"],
                    "clock_within_s": before.within_s,
                    "clock_drift_s": None if after is None else abs(after.ahead_s - before.ahead_s),
                }
            )
        return found

    def _clock(self, worker: str) -> Clock | None:
        asked = []
        for _ in range(PINGS):
            self._pongs.pop(worker, None)
            self._runner.send_message("nbridge_ping", now(), worker)
            if _wait(lambda: worker in self._pongs, PONG_S, 0.0005):
                asked.append(self._pongs[worker])
            elif not asked:
                return None
        return clock_of(asked)

    def _pong(self, msg: Any, **_: Any) -> None:
        self._pongs[msg.node_id] = (msg.data[0], msg.data[1], now())

    def _records(self, msg: Any, **_: Any) -> None:
        clock = self._clocks.get(msg.node_id)
        if clock is None or not isinstance(msg.data, list):
            return
        index, path = self._runner.get_worker_index(msg.node_id), self._records_path
        path = path.with_name(f"{path.stem}.{index}{path.suffix}")
        try:
            file = self._files.setdefault(msg.node_id, Records(str(path)))
            for record in msg.data:
                if isinstance(record, dict):
                    file.append(at_home(record, clock))
        except OSError as error:
            self._stop(f"the records file {path} cannot be written: {error.strerror}", 4)


def answer_pings(runner: Any) -> None:
    """A worker's clock, for whoever asks."""
    runner.register_message("nbridge_ping", lambda msg, **_: runner.send_message("nbridge_pong", [msg.data, now()]))


def given(runner: Any, take: Callable[[Path], None]) -> None:
    """A worker's side of `Fleet.prepare`: `take` prepares the load file's work. It answers in any case."""

    def load(msg: Any, **_: Any) -> None:
        error = None
        try:
            with tempfile.TemporaryDirectory(prefix="nbridge-worker-") as folder:
                take(unpack(msg.data, Path(folder)))
        except (ValueError, KeyError, TypeError, OSError, zlib.error) as problem:
            error = str(problem)
        runner.send_message("nbridge_prepared", {"host": socket.gethostname(), "error": error})

    runner.register_message("nbridge_load", load, concurrent=True)


def _wait(condition: Callable[[], bool], limit_s: float, step_s: float = 0.01) -> bool:
    deadline_s = now() + limit_s
    while not (holds := condition()) and now() < deadline_s:
        time.sleep(step_s)
    return holds
