"""`make soak`: an hour's worth of nothing special: two real vLLM servers on the CPU behind the gateway, 1,000 and more
requests a minute for minutes; errors, and how the memory of every process grew.

python -m bench.studies.gateway.soak [--minutes 10] [--per-minute 1200] [--out FOLDER]

Requests come by chance (Poisson), whatever became of those before; half of the answers are streamed. Each server has
half of the cores: on the same ones the threads of each wait for those of the other, for seconds.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from bench.studies.chaos.doors import Door, Replica, opened, wait
from bench.studies.chaos.load import GIVE_UP_S, Asked, ask
from bench.studies.servers.makes import bound, halves
from checkpoints.prepare import prepare
from monitoring.machine import describe
from serve.engine.server import Server, start
from serve.engine.settings import parse

MODEL, TOKENS, WORDS = "demo-1m", 8, ("def main():", "import os\n", "class A:\n    ", "for i in range(")
LOOK_S = 2.0
GROWTH_MAX = 0.05
# Of the time: what is left out at the beginning, and the span at each end whose medians are compared.
WARM_UP, SPAN = 0.2, 0.1
LEAST_PER_MINUTE = 1000


@dataclass(frozen=True)
class Process:
    """One process: what it is for, and (seconds since the load began, resident bytes)."""

    role: str
    pid: int
    memory: tuple[tuple[float, int], ...]


class Memory:
    """Samples the resident memory of every process of the servers and the gateway, while `with` runs."""

    def __init__(self, pids: Callable[[], Mapping[str, Sequence[int]]]) -> None:
        self._pids, self._began_s = pids, time.monotonic()
        self.found: dict[int, tuple[str, list[tuple[float, int]]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            at_s = time.monotonic() - self._began_s
            for whose, pids in self._pids().items():
                for pid in pids:
                    with contextlib.suppress(psutil.Error):
                        process = psutil.Process(pid)
                        size = process.memory_info().rss
                        role = f"{whose}: {role_of(process.name(), process.cmdline())}"
                        self.found.setdefault(pid, (role, []))[1].append((at_s, size))
            self._over.wait(LOOK_S)

    def processes(self) -> list[Process]:
        return [Process(role, pid, tuple(seen)) for pid, (role, seen) in sorted(self.found.items())]


def role_of(name: str, command: Sequence[str]) -> str:
    """What a process is for, by its name and command line."""
    line = " ".join(command)
    for mark, role in (
        ("warden.py", "warden"),  # whose command line holds that of what it watches
        ("gateway.agent", "agent"),
        ("gateway.cloud", "door to clouds"),
        ("resource_tracker", "resource tracker"),
        ("EngineCore", "engine core"),
        ("Worker", "worker"),
        ("nbridge gateway", "nbridge gateway"),
    ):
        if mark in line or mark in name:
            return role
    return "HAProxy" if name == "haproxy" else "API server" if "vllm" in line.lower() else name


def growth(one: Process, seconds: float) -> float | None:
    """By what share the memory of a process grew: from the median behind the warm-up to the median at the end.

    None for a process that was not there all the time.
    """
    first, last = WARM_UP * seconds, (1 - SPAN) * seconds
    early = [size for at_s, size in one.memory if first <= at_s <= first + SPAN * seconds]
    late = [size for at_s, size in one.memory if last <= at_s <= seconds]
    return statistics.median(late) / statistics.median(early) - 1 if early and late else None


async def load(url: str, per_minute: float, seconds: float, seed: int = 0) -> list[Asked]:
    """An open load by chance; every request that began within `seconds`, with what became of it."""
    drawn = random.Random(seed)  # noqa: S311 (reproducible, not secret)
    found: list[Asked] = []
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
    async with (
        httpx.AsyncClient(base_url=url, timeout=GIVE_UP_S, trust_env=False, limits=limits) as client,
        asyncio.TaskGroup() as all_of_them,
    ):

        async def one(body: dict[str, Any]) -> None:
            found.append(await ask(client, uuid.uuid4().hex, body))

        began_s = due_s = time.monotonic()
        while (due_s := due_s + drawn.expovariate(per_minute / 60)) - began_s < seconds:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            body = {"model": "m", "prompt": drawn.choice(WORDS), "max_tokens": TOKENS, "ignore_eos": True}
            all_of_them.create_task(one({**body, "stream": drawn.random() < 0.5}))
    return found


def soak(minutes: float, per_minute: float) -> dict[str, Any]:
    """Two servers, a gateway, the load; what became of it."""
    seconds = minutes * 60
    with tempfile.TemporaryDirectory(prefix="nbridge-soak-") as name, ExitStack() as stack:
        folder = Path(name)
        servers = {}
        for one, cores in zip(("a", "b"), halves(), strict=True):
            with bound(cores):
                servers[one] = stack.enter_context(_server(folder, one))
            _say(f"server {one} is ready")
        replicas = [Replica(one, folder, urlsplit(s.base_url).port or 0) for one, s in servers.items()]
        door = stack.enter_context(opened("gateway", folder, replicas))
        wait(lambda: door.status("a") == door.status("b") == "UP", "both servers behind the gateway")
        _say("both servers are behind the gateway; the load begins")
        asyncio.run(load(door.url, 120, 5.0, seed=1))  # the first requests compile and fill caches
        with Memory(lambda: _pids(servers, door)) as memory:
            found = asyncio.run(load(door.url, per_minute, seconds))
        processes = memory.processes()
        retried = door.retried()
        log = (door.folder / "data" / "agent.log").read_text(encoding="utf-8").splitlines()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "load": {"minutes": minutes, "per_minute": per_minute, "model": MODEL, "tokens": TOKENS},
        "requests": _requests(found, seconds),
        "retried": retried,
        "ejections": [line for line in log if " is out: " in line],
        "processes": [{**_memory(one, seconds), "samples": asdict(one)["memory"]} for one in processes],
    }


def _say(words: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {words}\n")


def _server(folder: Path, name: str) -> "contextlib.AbstractContextManager[Server]":
    values = {"model": prepare(MODEL).path, "served_model_name": "m", "port": 0, "max_num_seqs": 32}
    return start(parse(values, "the soak"), log_path=folder / f"{name}.log")


def _pids(servers: Mapping[str, Server], door: Door) -> dict[str, list[int]]:
    found = {f"server {name}": one.pids() for name, one in servers.items()}
    return {**found, "gateway": door.gateway.pids() if door.gateway else []}


def _requests(found: Sequence[Asked], seconds: float) -> dict[str, Any]:
    firsts = sorted(one.first_s - one.sent_s for one in found if one.outcome == "answered" and one.first_s is not None)
    cuts = statistics.quantiles(firsts, n=100, method="inclusive") if len(firsts) > 100 else None
    return {
        "count": len(found),
        "per_minute": round(len(found) / seconds * 60, 1),
        "failed": sum(one.outcome != "answered" for one in found),
        "why": dict(Counter(f"{one.outcome}: {one.why}" for one in found if one.outcome != "answered")),
        "first_piece_p50_s": round(cuts[49], 4) if cuts else None,
        "first_piece_p99_s": round(cuts[98], 4) if cuts else None,
    }


def _memory(one: Process, seconds: float) -> dict[str, Any]:
    sizes = [size for _, size in one.memory]
    grown = growth(one, seconds)
    return {
        "role": one.role,
        "pid": one.pid,
        "first_mib": round(sizes[0] / 2**20, 1),
        "last_mib": round(sizes[-1] / 2**20, 1),
        "most_mib": round(max(sizes) / 2**20, 1),
        "growth": None if grown is None else round(grown, 4),
    }


def problems(document: Mapping[str, Any]) -> list[str]:
    """What the soak was to show and did not."""
    requests, found = document["requests"], []
    if requests["failed"]:
        found.append(f"{requests['failed']} of {requests['count']} requests failed: {requests['why']}")
    if requests["per_minute"] < LEAST_PER_MINUTE:
        found.append(f"{requests['per_minute']:g} requests a minute are fewer than {LEAST_PER_MINUTE}")
    for one in document["processes"]:
        if one["growth"] is not None and one["growth"] >= GROWTH_MAX:
            found.append(f"{one['role']} grew by {one['growth']:.1%}")
        if one["growth"] is None:
            found.append(f"{one['role']} ({one['pid']}) was not there all the time")
    return found


def table(document: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    requests = document["requests"]
    first = [f"{value * 1000:.0f} ms" if (value := requests[f"first_piece_{p}_s"]) else "–" for p in ("p50", "p99")]
    lines = [
        f"{requests['count']} requests in {document['load']['minutes']:g} minutes ({requests['per_minute']:g} a "
        f"minute): {requests['failed']} failed, {document['retried']} sent more than once; to the first piece "
        f"p50 {first[0]}, p99 {first[1]}.",
        "",
        "| process | MiB at the start | at the end | most | growth after warm-up |",
        "|---|---|---|---|---|",
    ]
    for one in document["processes"]:
        grown = "–" if one["growth"] is None else f"{one['growth']:+.1%}"
        lines.append(f"| {one['role']} | {one['first_mib']} | {one['last_mib']} | {one['most_mib']} | {grown} |")
    said = [f"out: {one}" for one in document["ejections"]] + problems(document)
    lines += ["", *(f"- {one}" for one in said)] if said else ["", "No error, and no process grew by 5 % or more."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run it and write it down; exit code 1 when it does not show what it should."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--per-minute", type=float, default=1200.0)
    asked.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for soak.json and soak.md")
    options = asked.parse_args()
    document = soak(options.minutes, options.per_minute)
    document["load_average"] = round(os.getloadavg()[0], 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    (options.out / "soak.md").write_text(table(document), encoding="utf-8")
    sys.stdout.write(table(document))
    sys.exit(bool(problems(document)))


if __name__ == "__main__":
    main()
