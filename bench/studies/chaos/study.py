"""`make chaos`: each fault, behind each door, under load; what the users got.

python -m bench.studies.chaos.study [--out FOLDER] [--doors …] [--faults …]

Two fake replicas (bench.studies.chaos.replica) of 50 ms to the first token and 10 ms a token, 16 users who ask without
pause, half of the answers streamed. A fault begins after `BEFORE_S`, lasts for `FAULT_S`, and is watched for `AFTER_S`.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.studies.chaos.doors import HOST, Door, Replica, opened, signalled
from bench.studies.chaos.load import Users, summary
from bench.studies.chaos.peers import PEERS
from serve.processes import port

USERS, BEFORE_S, FAULT_S, AFTER_S = 16, 3.0, 8.0, 12.0
DOORS = ("gateway", "haproxy alone", "nginx by default")
OURS = "gateway"


@dataclass(frozen=True)
class Fault:
    """What is done to replica a (or to the door), and what ends it. `door`: only our own gateway has the part."""

    words: str
    begin: Callable[[Door, list[Replica]], None]
    end: Callable[[Door, list[Replica]], None] = lambda _door, _all: None
    door: bool = False


def _status_pid(door: Door) -> int:
    document: dict[str, Any] = json.loads((door.folder / "data" / "status.json").read_text(encoding="utf-8"))
    return int(document["pid"])


def _haproxy_pid(door: Door) -> int:
    assert door.gateway is not None  # noqa: S101 - faults of a door are for our own
    for pid in door.gateway.pids():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if command[0].endswith(b"haproxy"):
            return pid
    raise BenchError("no HAProxy runs under the gateway")


def _restart(door: Door, _replicas: list[Replica]) -> None:
    assert door.gateway is not None  # noqa: S101
    assert door.restart is not None  # noqa: S101
    door.gateway.stop(10.0)
    door.restart()


def _word(fault: str) -> Fault:
    return Fault(fault, lambda _door, all_: all_[0].be(fault), lambda _door, all_: all_[0].be(""))


def _all(replicas: list[Replica], what: Callable[[Replica], None]) -> None:
    for one in replicas:
        what(one)


FAULTS = {
    "kill -9": Fault("process killed", lambda _d, r: r[0].stop(), lambda _d, r: r[0].start()),
    "SIGSTOP": Fault(
        "process stopped, port open",
        lambda _d, r: r[0].signal(signal.SIGSTOP),
        lambda _d, r: r[0].signal(signal.SIGCONT),
    ),
    "hang": _word("hang"),
    "instant 500": _word("error"),
    "garbage": _word("garbage"),
    "slow tokens": _word("slow"),
    "cut mid-stream": _word("cut"),
    "SIGTERM": Fault("SIGTERM under load", lambda _d, r: r[0].signal(signal.SIGTERM), lambda _d, r: r[0].start()),
    "all down": Fault("both killed", lambda _d, r: _all(r, Replica.stop), lambda _d, r: _all(r, Replica.start)),
    "agent killed": Fault("agent killed", lambda d, _r: signalled(_status_pid(d)), door=True),
    "HAProxy reloaded": Fault(
        "SIGHUP to the gateway", lambda d, _r: signalled(d.gateway.pid if d.gateway else 0, signal.SIGHUP), door=True
    ),
    "HAProxy killed": Fault("HAProxy killed", lambda d, _r: signalled(_haproxy_pid(d)), door=True),
    "gateway restarted": Fault("SIGTERM to the gateway, started anew", _restart, door=True),
}


async def case(kind: str, fault: Fault, folder: Path) -> dict[str, Any]:
    """One fault behind one door: what the users got, when the replica was out and in again."""
    replicas = []
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        replicas.append(Replica(name, folder / name, port.pick(HOST)))
    try:
        _all(replicas, Replica.start)
        with opened(kind, folder, replicas) as door:
            users = Users(door.url, USERS)
            running = asyncio.create_task(users.run())
            await asyncio.sleep(BEFORE_S)
            begun_s = time.monotonic()
            seen: list[tuple[float, str]] = []
            watched = asyncio.create_task(_watch(door, seen))
            await asyncio.to_thread(fault.begin, door, replicas)
            await asyncio.sleep(max(0.0, FAULT_S - (time.monotonic() - begun_s)))
            ended_s = time.monotonic()
            await asyncio.to_thread(fault.end, door, replicas)
            await asyncio.sleep(AFTER_S)
            users.stop()
            await running
            watched.cancel()
            began = Counter(one for replica in replicas for one in replica.began())
            out_s = next((at for at, state in seen if at >= begun_s and not state.startswith("UP")), None)
            up = [at for at, state in seen if state.startswith("UP")]
            back_s = next((at for at in up if out_s and at >= max(out_s, ended_s)), None)
            return {
                **summary(users.asked),
                "retried": door.retried(),
                "doubled": sum(count > 1 for count in began.values()),
                "out_after_s": None if out_s is None else round(out_s - begun_s, 2),
                "back_after_s": None if back_s is None else round(back_s - ended_s, 2),
            }
    finally:
        _all(replicas, Replica.stop)


async def _watch(door: Door, seen: list[tuple[float, str]]) -> None:
    """Add how HAProxy sees replica a, some ten times a second."""
    while True:
        if (state := await asyncio.to_thread(door.status, "a")) is not None:
            seen.append((time.monotonic(), state))
        await asyncio.sleep(0.1)


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    heads = ["fault", "door", "requests", "failed", "cut", "retried", "doubled", "slowest first piece", "out", "back"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in document["cases"]:
        cells = [one["fault"], one["door"], one["requests"], one["failed"], one["cut"], one["retried"], one["doubled"]]
        times = (one[key] for key in ("slowest_first_s", "out_after_s", "back_after_s"))
        cells += [None if time_s is None else f"{time_s:.1f} s" for time_s in times]
        lines.append("| " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cases and write them down."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path("runs/chaos"), help="folder for chaos.json and chaos.md")
    asked.add_argument("--doors", nargs="*", default=DOORS, choices=[*DOORS, *PEERS])
    asked.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    options = asked.parse_args()
    document: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "load": {"users": USERS, "before_s": BEFORE_S, "fault_s": FAULT_S, "after_s": AFTER_S},
        "cases": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.faults:
        for kind in options.doors:
            if FAULTS[name].door and kind != OURS:
                continue
            with tempfile.TemporaryDirectory(prefix="nbridge-chaos-") as folder:
                found = asyncio.run(case(kind, FAULTS[name], Path(folder)))
            busy = round(os.getloadavg()[0], 1)
            document["cases"].append({"fault": name, "door": kind, **found, "load_average": busy})
            sys.stderr.write(f"{name:<18} {kind:<17} {found}\n")
            # After each case, so that an interrupted study keeps what it has.
            (options.out / "chaos.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            (options.out / "chaos.md").write_text(table(document), encoding="utf-8")
    sys.stdout.write(table(document))


if __name__ == "__main__":
    main()
