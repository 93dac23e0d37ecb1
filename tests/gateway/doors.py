"""Replicas and gateways as processes, for tests of the whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import httpx
import pytest
from waiting import wait_for

from serve.processes import port

ROOT = Path(__file__).parents[2]
Nbridge = Callable[..., subprocess.CompletedProcess[str]]
needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


@dataclass
class Replica:
    """A fake replica (bench.studies.chaos.replica), its faults switched by `be`."""

    folder: Path
    port: int
    model: str = "m"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *more: str) -> None:
        argv = [
            sys.executable,
            "-m",
            "bench.studies.chaos.replica",
            str(self.port),
            str(self.folder),
            self.model,
            *more,
        ]
        self.process = subprocess.Popen(argv, cwd=ROOT)
        wait_for(lambda: not port.is_free("127.0.0.1", self.port), 20)

    def be(self, fault: str) -> None:
        (self.folder / ".fault").write_text(fault)
        (self.folder / ".fault").replace(self.folder / "fault")

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Gateway:
    """A running `nbridge gateway`."""

    document: dict[str, Any]
    data: Path
    process: subprocess.Popen[str]
    file: Path

    @property
    def url(self) -> str:
        return str(self.document["base_url"])

    def ask(
        self, path: str = "/v1/completions", key: str | None = None, headers: Any = None, **body: Any
    ) -> httpx.Response:
        sent = {"model": "m", "prompt": "1", **body}
        keyed = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.post(
            self.url + path, json=sent, headers={**keyed, **(headers or {})}, timeout=60, trust_env=False, verify=False
        )

    def status(self) -> dict[str, Any]:
        """What the agent says; waits for its first words."""
        return json.loads(wait_for(lambda: _text(self.data / "status.json"), 20))

    def state(self, name: str) -> str:
        return str(self.status()["servers"].get(name, {}).get("state"))

    def idle(self) -> bool:
        """Whether HAProxy counts no request at any server: it may count one for a moment after its answer."""
        from gateway.haproxy.runtime import Runtime

        return not any(row.sessions for row in Runtime(self.data / "haproxy.sock").rows().values())

    def haproxy(self, name: str, backend: str = "model.m") -> str:
        from gateway.haproxy.runtime import Runtime

        return Runtime(self.data / "haproxy.sock").rows()[backend, name].status


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


@contextmanager
def replicas(folder: Path, *names: str, model: str = "m") -> Iterator[list[Replica]]:
    """Started replicas by name."""
    with ExitStack() as stack:
        made = []
        for name in names:
            place = folder / name
            place.mkdir(parents=True)
            one = Replica(place, port.pick("127.0.0.1"), model)
            one.start()
            stack.callback(lambda one=one: one.process and one.process.kill())
            made.append(one)
        yield made


def settings_file(folder: Path, servers: list[Replica], more: str = "") -> Path:
    """A settings file with these servers, named by their folders."""
    text = more + "".join(
        f'[[server]]\nname = "{one.folder.name}"\nurl = "{one.url}"\nmodel = "{one.model}"\n' for one in servers
    )
    if "[gateway]" not in text:
        text = "[gateway]\nport = 0\nmetrics_port = 0\n" + text
    file = folder / "gateway.toml"
    file.write_text(text)
    return file


@contextmanager
def gateway(file: Path, environment: dict[str, str] | None = None, *words: str) -> Iterator[Gateway]:
    """A gateway of a settings file, whose servers are all seen by the agent and by HAProxy."""
    data = file.parent / "data"
    argv = [sys.executable, "-m", "nbridge", "gateway", str(file), "--data", str(data), "--json", *words]
    with (file.parent / "gateway.log").open("w") as log:
        process = forks.Popen(
            argv, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env={**os.environ, **(environment or {})}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (file.parent / "gateway.log").read_text()
        yield Gateway(json.loads(line), data, process, file)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


class under_load:
    """Eight users who ask again and again, half of them for streams, and the statuses that they got.

    A stream that was cut after its first token counts as answered: nobody could repeat it. 599: anything else that was
    cut off.
    """

    def __init__(self, door: Gateway, users: int = 8) -> None:
        self.door, self.over, self.seen, self.lost = door, threading.Event(), list[int](), list[str]()
        self.threads = [threading.Thread(target=self.ask, args=(n,)) for n in range(users)]

    def ask(self, number: int) -> None:
        with httpx.Client(base_url=self.door.url, timeout=60, trust_env=False) as client:
            while not self.over.is_set():
                body = {"model": "m", "prompt": "1", "stream": bool(number % 2), "max_tokens": 5}
                self.seen.append(self.one(client, body))

    def one(self, client: httpx.Client, body: dict[str, object]) -> int:
        tokens, head = b"", False
        try:
            with client.stream("POST", "/v1/completions", json=body) as answer:
                head = True
                for piece in answer.iter_raw():
                    tokens += piece
                return answer.status_code
        except httpx.TransportError as error:
            if body["stream"] and b"data:" in tokens:
                return 200
            self.lost.append(f"{error!r} stream={body['stream']} head={head} {tokens!r}")
            sys.stderr.write(self.lost[-1] + "\n")
            return 599

    def __enter__(self) -> list[int]:
        for thread in self.threads:
            thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
