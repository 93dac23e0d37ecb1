"""One cell: a client and its load against a fresh golden server; processor time of both sides while the load runs."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic as now
from typing import Any

import psutil

from bench.golden.running import Golden, golden
from bench.studies.clients import ours, peers
from bench.studies.clients.bare import KINDS
from bench.studies.clients.points import TOKENS, Point
from bench.studies.clients.seen import Seen, compare, from_lines, main_part, spent_s, window

ROOT = Path(__file__).parents[3]
LOOK_S = 0.1
SPARE_S = 180.0  # how much longer than its load a client may take: tools import for a while
FILES = 20_000  # sockets that a process may have open
OWN = ("nbridge", *KINDS, "fasthttp")
LATENESS_RPS, LATENESS_REQUESTS, LATENESS_TOKENS = 200, 2000, 8


class Watch:
    """Processor time of a process with all below it, in samples, while `with` runs."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, float]] = []
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            total, at_s = 0.0, now()
            with contextlib.suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += sum(process.cpu_times()[:4])  # its own and that of children that have ended
                self.samples.append((at_s, total))
            self._over.wait(LOOK_S)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that spin."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def cell(client: str, point: Point, tokenizer: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of one client at one point; with `error` where it failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with golden(folder / "golden.jsonl", *point.server_words) as server:
            command, environment, read = _client(client, point, server.url, folder, tokenizer, say)
            with busy((os.cpu_count() or 1) if point.busy else 0):
                found = _run(command, environment, folder, server, point.seconds + SPARE_S)
            done, watches = found
            if done is None:
                return {"error": f"{client} did not end within {point.seconds + SPARE_S:.0f} s"}
            try:
                seen, own = read(done)
            except (OSError, ValueError, KeyError, TypeError) as error:
                last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
                return {"error": f"{client} ended with status {done.returncode}: {error!r}: {last[-600:]}"}
            entries = main_part(server.log(), point.requests)
    begin_s, end_s = window(entries)
    figures = compare(seen, entries, point.requests)
    cpu = {
        f"{who}_cpu_us_per_chunk": spent_s(watch.samples, begin_s, end_s) / figures["chunks"] * 1e6
        for who, watch in watches.items()
    }
    return {**figures, **cpu, "window_s": end_s - begin_s, **own}


def lateness() -> dict[str, Any]:
    """How late our client sends an open load: scheduled to sent, through `nbridge bench` and Locust."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with golden(folder / "golden.jsonl", "ttft_s=0.05", "gap_s=0.01") as server:
            kind = f'kind = "open"\nrate_rps = {LATENESS_RPS}\narrival = "poisson"'
            command = ours.command(server.url, folder, LATENESS_REQUESTS, kind, LATENESS_TOKENS)
            done, _ = _run(command, {}, folder, server, LATENESS_REQUESTS / LATENESS_RPS + SPARE_S)
            if done is None:
                return {"error": "nbridge did not end"}
            seen, own = ours.read(done.stdout)
    return {"rate_rps": LATENESS_RPS, "requests": {"asked": LATENESS_REQUESTS, "ok": len(seen.requests)}, **own}


Read = Callable[[subprocess.CompletedProcess[str]], tuple[Seen, dict[str, Any]]]


def _client(
    client: str, point: Point, url: str, folder: Path, tokenizer: Path, say: Callable[[str], None]
) -> tuple[list[str], dict[str, str], Read]:
    """How a client is started, with what environment, and how what it saw is read."""
    out = folder / "seen.jsonl"
    if client == "nbridge":
        return (
            ours.command(url, folder, point.requests, f"concurrency = {point.users}"),
            {},
            lambda done: ours.read(done.stdout),
        )
    if client in KINDS:
        words = [client, url, str(out), str(point.users), str(point.requests), str(TOKENS)]
        command = [sys.executable, "-m", "bench.studies.clients.bare", *words]
        return command, {}, lambda _: (from_lines(out.read_text(encoding="utf-8").splitlines()), {})
    if client == "fasthttp":
        file = str(Path(__file__).with_name("fasthttp.py"))
        locust = [sys.executable, "-m", "locust", "-f", file, "--headless", "--host", url, "--only-summary"]
        load = {"requests": point.requests, "tokens": TOKENS, "users": point.users, "out": str(out)}
        users = ["--users", str(point.users), "--spawn-rate", str(point.users)]
        environment = {"NBRIDGE_CLIENTS_LOAD": json.dumps(load)}
        return (
            [*locust, *users],
            environment,
            lambda _: (from_lines(out.read_text(encoding="utf-8").splitlines()), {}),
        )
    peer = peers.PEERS[client]
    command = peer.command(peers.program(client, say), url, folder, point.users, point.requests, tokenizer)
    return command, {}, lambda _: (peer.read(folder), {})


def _run(
    command: list[str], environment: dict[str, str], folder: Path, server: Golden, timeout_s: float
) -> tuple[subprocess.CompletedProcess[str] | None, dict[str, Watch]]:
    """The ended client (None: it had to be killed) and the processor time of both sides."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env={**os.environ, **environment})
        with Watch(process.pid) as client, Watch(server.process.pid) as served:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
                process.wait()
                return None, {}
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
    return done, {"client": client, "server": served}
