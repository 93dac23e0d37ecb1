"""One server exchanged for another: let in, given more and more of the weight while it holds, the old one out.

start (or find) new ─► canary ─► add ─► 5 %, 25 %, 50 %, 95 % of the pair's weight ─► drain old ─► remove old
                                    └── fails or is slower: new out again, old as it was
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gateway import fleet, operations
from gateway.errors import DoesNotFit, GatewayError
from gateway.haproxy.render import backend_name
from gateway.haproxy.runtime import Row
from gateway.settings import Server
from monitoring.scrape.canary import Canary

STEPS = (0.05, 0.25, 0.5, 0.95)
FEW = 20  # of fewer requests the 95th percentile is one of the slowest
MOST_FAILED = 0.01  # above the old one's share
SLOWER_BY_S = 0.1  # what a 95th percentile may differ by, however small it is
IN_TIME_S = 60.0


@dataclass(frozen=True)
class Served:
    """What a server did in a step: attempts and failures by HAProxy, and how long each head took."""

    attempts: int
    failures: int
    heads_s: Sequence[float] = ()

    @property
    def p95_s(self) -> float | None:
        if len(self.heads_s) < FEW:
            return None
        return sorted(self.heads_s)[math.ceil(0.95 * len(self.heads_s)) - 1]


def objection(old: Served, new: Served, slower: float) -> str | None:
    """What speaks against giving the new server more, if anything. `slower`: the factor that P95 may grow by."""
    if new.attempts:
        share = new.failures / new.attempts
        usual = old.failures / old.attempts if old.attempts else 0.0
        if share > usual + MOST_FAILED:
            return f"{new.failures} of {new.attempts} requests failed"
    if old.p95_s is not None and new.p95_s is not None and new.p95_s > max(slower * old.p95_s, old.p95_s + SLOWER_BY_S):
        return f"95 % began within {new.p95_s:.2f} s, at the old one within {old.p95_s:.2f} s"
    return None


def check_fits(need_bytes: float, free_bytes: float, where: str) -> None:
    """Raise DoesNotFit when the new server finds no room beside the old one."""
    if need_bytes > free_bytes:
        raise DoesNotFit(
            f"The new server needs about {need_bytes / 2**30:.1f} GiB of {where} and {free_bytes / 2**30:.1f} GiB are "
            "free, so both cannot run at once. With --gap the old one is stopped first, and how long nobody answers is "
            "measured."
        )


def exchange(
    data: Path,
    old_name: str,
    new: Server,
    *,
    step_s: float,
    slower: float,
    deadline_s: float,
    say: Callable[[str], None],
) -> int:
    """Let `new` in for a server of the gateway; how many requests of the old one were cut off at the deadline.

    Raises GatewayError with the objection when the new one does not hold; then all is as it was.
    """
    old = next((one for one in operations.now(data).server if one.name == old_name), None)
    if old is None:
        raise GatewayError(f"The gateway has no server {old_name!r} (nbridge gateway status names them).")
    beat = Canary(new.url, model=new.model, api_key_env=new.api_key_env, deadline_s=IN_TIME_S).ask()
    if not beat.up and beat.failed != "unserved":
        raise GatewayError(f"The new server at {new.url} gave no token: {beat.reason}. Nothing was changed.")
    fleet.change(data, lambda overlay: overlay.share(new.name, STEPS[0]))
    operations.add(data, new)
    try:
        _wait_up(data, new)
        for share in STEPS:
            _share(data, old_name, new.name, share)
            say(f"{share:.0%} to {new.name}")
            before = _served(data, old, new, None)
            time.sleep(step_s)
            told = _served(data, old, new, before)
            if words := objection(told[old.name], told[new.name], slower):
                raise GatewayError(f"{new.name} does not hold at {share:.0%}: {words}. All is as it was.")
    except BaseException:
        _share(data, old_name, new.name, 0.01)
        fleet.change(data, lambda overlay: overlay.share(old_name, 1.0))
        operations.remove(data, new.name, deadline_s)
        raise
    fleet.change(data, lambda overlay: overlay.share(new.name, 1.0))
    say(f"draining {old_name}")
    return operations.remove(data, old_name, deadline_s)


def _share(data: Path, old: str, new: str, share: float) -> None:
    fleet.change(data, lambda overlay: overlay.share(new, share).share(old, 1 - share))


def _wait_up(data: Path, new: Server) -> None:
    def is_up() -> bool:
        row = _rows(data, new)[new.name]
        return row is not None and row.status.startswith("UP")

    if not operations.wait(is_up, IN_TIME_S):
        one = operations.status(data)["servers"].get(new.name, {})
        raise GatewayError(
            f"{new.name} was not let in within {IN_TIME_S:g} s: {one.get('reason') or one.get('haproxy')}."
        )


def _rows(data: Path, *servers: Server) -> dict[str, Row | None]:
    rows, settings = operations.runtime(data).rows(), operations.now(data)
    return {one.name: rows.get((backend_name(settings, one.model), one.name)) for one in servers}


def _served(data: Path, old: Server, new: Server, since: Any) -> dict[str, Any]:
    """Counts so far, and where the log ends; with `since`, what came after it."""
    log, older = data / "haproxy.log", data / "haproxy.log.1"
    counts = {name: (row.attempts, row.failures) if row else (0, 0) for name, row in _rows(data, old, new).items()}
    if since is None:
        return {"counts": counts, "end": log.stat().st_size, "older": _number(older)}
    heads: dict[str, list[float]] = {name: [] for name in counts}
    # Where the log has been rolled meanwhile, it goes on at the old place in the older one.
    parts = [(log, since["end"])] if since["older"] == _number(older) else [(older, since["end"]), (log, 0)]
    for path, start in parts:
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                entry = _entry(line)
                if entry.get("server") in heads and entry.get("status") == 200:
                    heads[entry["server"]].append(entry["head_ms"] / 1000)
    return {
        name: Served(attempts - since["counts"][name][0], failures - since["counts"][name][1], heads[name])
        for name, (attempts, failures) in counts.items()
    }


def _number(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line) if line.startswith(b"{") else {}
    except ValueError:  # the line that is being written
        return {}
    return found if isinstance(found, dict) else {}


def with_gap(data: Path, old_name: str, start: Callable[[], Server], *, deadline_s: float) -> tuple[int, float]:
    """Stop the old server before the new one starts: how many requests were cut off, and for how long nobody answered.

    Raises GatewayError when the new one does not come up; then the old one is stopped all the same.
    """
    old = next((one for one in operations.now(data).server if one.name == old_name), None)
    if old is None:
        raise GatewayError(f"The gateway has no server {old_name!r} (nbridge gateway status names them).")
    if old.process is None:
        raise GatewayError(f"{old_name} was not started by nbridge swap, so it cannot be stopped from here.")
    operations.drain(data, old_name)
    gap_from_s = time.monotonic()
    operations.wait(lambda: operations.sessions(data, old) == 0, deadline_s)
    cut = operations.sessions(data, old)
    ended(old)
    new = start()
    operations.add(data, new)
    _wait_up(data, new)
    gap_s = time.monotonic() - gap_from_s
    operations.remove(data, old_name, 0.0)
    return cut, gap_s


def started(profile: Path, model: str, log: Path) -> tuple[str, int]:
    """Start `nbridge serve` with a profile as a server that outlives this command: (address, process).

    Raises GatewayError with the end of its log when it does not come up.
    """
    argv = [sys.executable, "-m", "nbridge", "serve", "--profile", str(profile), "--served-model-name", model]
    log.write_bytes(b"")
    with log.open("ab") as errors:  # appended to, so that the gateway can roll it
        process = subprocess.Popen(
            [*argv, "--port", "0", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True, env=dict(os.environ),
        )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    line = process.stdout.readline()
    if not line:
        told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise GatewayError(f"The new server did not start: {' '.join(told)} Its log: {log}")
    return str(json.loads(line)["base_url"]), process.pid


def ended(server: Server, wait_s: float = 60.0) -> bool:
    """End the process that a swap started for a server; False when there is none (any more)."""
    if server.process is None:
        return False
    try:
        process = psutil.Process(server.process)
        if "serve" not in process.cmdline():  # the number has gone to another process since
            return False
        process.terminate()
        process.wait(wait_s)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        raise GatewayError(f"Process {server.process} of {server.name} has not ended within {wait_s:g} s.") from None
    return True
