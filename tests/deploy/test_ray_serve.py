"""`nbridge ray` on real Ray Serve with real vLLM: two replicas on this machine, one whose engine is killed, one whose
engine hangs, a stream that outlives the end of its replica."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray_nodes import cluster, require_ray
from waiting import wait_for

from serve.processes import port as ports

require_ray()
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(2400)]

KEY = "sk-ray-test"
TOML = """
[engine]
model = "demo-1m"
max_model_len = 1024
max_num_seqs = 8
api_key_env = "RAY_TEST_KEY"
[ray]
port = {port}
drain_s = 120
log_dir = "{folder}"
[scaling]
min_replicas = 1
max_replicas = 2
in_work_per_replica = 2
look_s = 3
up_after_s = 1
down_after_s = 6
"""


class App:
    """A running `nbridge ray`: what it says on stderr, and its door."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stderr is not None
        threading.Thread(target=lambda: self.lines.extend(process.stderr or ()), daemon=True).start()
        said = process.stdout.readline() if process.stdout else ""
        assert said, "".join(self.lines) or process.wait(60)
        self.document = json.loads(said)
        self.user = httpx.Client(
            base_url=self.document["base_url"],
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=600,
            trust_env=False,
        )

    def ask(self, tokens: int = 8) -> httpx.Response:
        asked = {"model": "demo-1m", "prompt": "Once", "max_tokens": tokens, "ignore_eos": True}
        return self.user.post("/v1/completions", json=asked)

    def latest(self) -> str:
        """The latest line about replicas."""
        return next((line for line in reversed(self.lines) if line.startswith("replicas: ")), "")

    def running(self) -> int:
        found = re.search(r"(\d+) running", self.latest())
        return int(found[1]) if found else 0


@contextmanager
def app_on(address: str | None, file: Path) -> Iterator[App]:
    environment = {**os.environ, "RAY_ADDRESS": address} if address else dict(os.environ)
    argv = [sys.executable, "-m", "nbridge", "ray", str(file), "--json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield App(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Engine:
    """One replica's vLLM: its API server, the process that computes, and how much it has answered."""

    def __init__(self, server: psutil.Process) -> None:
        self.server = server
        words = server.cmdline()
        self.url = f"http://127.0.0.1:{words[words.index('--port') + 1]}"

    def answered(self) -> float:
        page = httpx.get(f"{self.url}/metrics", timeout=60, trust_env=False).text
        lines = [line for line in page.splitlines() if line.startswith("vllm:request_success_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def in_work(self) -> float:
        page = httpx.get(f"{self.url}/metrics", timeout=60, trust_env=False).text
        lines = [line for line in page.splitlines() if line.startswith("vllm:num_requests_running{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    @property
    def core(self) -> psutil.Process:
        """The process that computes: the one below the API server with the most memory."""
        below = self.server.children(recursive=True)
        return max(below, key=lambda one: one.memory_info().rss)


def engines(mark: str) -> dict[int, Engine]:
    """The living servers of the application, by process id."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
            # The warden has the same words and starts the server, which has its own.
            if mine and words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"] and "--port" in words:
                found[process.pid] = Engine(process)
        except psutil.Error:
            continue
    return found


class Load:
    """Clients that ask one request after the other, and note those that failed: (begun, ended, what)."""

    def __init__(self, app: App, clients: int) -> None:
        self._app, self._over = app, threading.Event()
        self.failed: list[tuple[float, float, str]] = []
        self.done = 0
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            begun_s = time.monotonic()
            try:
                answer = self._app.ask(tokens=200)
                what = None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                what = repr(error)
            if what is None:
                self.done += 1
            else:
                self.failed.append((begun_s, time.monotonic(), what))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(600)


def test_replicas_come_answer_die_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TEST_KEY", KEY)
    monkeypatch.setenv("RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
    port = ports.pick("127.0.0.1")
    file, mark = tmp_path / "app.toml", str(tmp_path)
    file.write_text(TOML.format(port=port, folder=tmp_path / "logs"))
    with cluster(head={"num_cpus": 2}, mark=mark) as made, app_on(made.address, file) as app:
        _answers(app, mark)
        load = Load(app, 6)
        _grows(app, mark, load)
        _outlives_an_engine_that_is_killed(app, mark, load)
        _outlives_an_engine_that_hangs(app, mark, load)
        load.stop()
        _drains_a_stream(app, mark)
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(300) == 0, "".join(app.lines)
        assert "requests in work have 120 s" in "".join(app.lines) and "Traceback" not in "".join(app.lines)
        wait_for(lambda: not engines(mark), 60)


def _answers(app: App, mark: str) -> None:
    assert app.document["replicas"] == 1
    assert app.ask().json()["usage"]["completion_tokens"] == 8
    assert app.user.post("/v1/completions", json={}, headers={"Authorization": "Bearer no"}).status_code == 401
    assert app.user.get("/metrics").status_code == 404 and app.user.get("/v1/models").status_code == 200
    assert app.user.post("/v1/hidden_states", json={"prompts": ["Once"], "layer": -2}).status_code == 200
    chunks = _stream(app, 200)
    assert sum("text" in chunk for chunk in chunks) > 50 and "[DONE]" in chunks[-1]
    (engine,) = engines(mark).values()
    with app.user.stream("POST", "/v1/completions", json=_long(900)) as answer:
        pieces = answer.iter_raw()  # kept: when it goes, the connection does
        next(pieces)
        wait_for(lambda: engine.in_work() == 1, 30)
    wait_for(lambda: engine.in_work() == 0)  # who leaves is left at the engine


def _long(tokens: int) -> dict[str, Any]:
    asked = {"model": "demo-1m", "prompt": "Once", "max_tokens": tokens, "ignore_eos": True}
    return {**asked, "stream": True, "stream_options": {"include_usage": True}}


def _stream(app: App, tokens: int) -> list[str]:
    with app.user.stream("POST", "/v1/completions", json=_long(tokens)) as answer:
        return [line for line in answer.iter_lines() if line.startswith("data:")]


def _grows(app: App, mark: str, load: Load) -> None:
    """More in work than one replica is for orders a second one, and both answer."""
    wait_for(lambda: app.running() == 2, 600)
    both = wait_for(lambda: found if len(found := engines(mark)) == 2 else None)
    before = {pid: one.answered() for pid, one in both.items()}
    wait_for(lambda: all(one.answered() > before[pid] for pid, one in both.items()))
    assert load.failed == [] and load.done > 0


def _outlives_an_engine_that_is_killed(app: App, mark: str, load: Load) -> None:
    """Lost is at most what each client had there, or sent there in the moment before the replica was gone."""
    victim = next(iter(engines(mark).values()))
    killed_s = time.monotonic()
    victim.core.kill()
    wait_for(lambda: victim.server.pid not in engines(mark))
    done = load.done
    wait_for(lambda: load.done > done + 20)  # the other one answers meanwhile
    wait_for(lambda: app.running() == 2 and len(engines(mark)) == 2, 600)
    new = next(one for pid, one in engines(mark).items() if pid != victim.server.pid)
    wait_for(lambda: new.answered() > 0)
    assert len(load.failed) <= 12, load.failed
    sys.stderr.write(f"\nkilled: {len(load.failed)} of 6 clients' requests lost: {load.failed and load.failed[0][2]}; ")
    if load.failed:
        last_s = max(begun_s for begun_s, _, _ in load.failed) - killed_s
        sys.stderr.write(f"the last of them sent {last_s:.2f} s after the engine was killed\n")


def _outlives_an_engine_that_hangs(app: App, mark: str, load: Load) -> None:
    victim = next(iter(engines(mark).values()))
    hung_s = time.monotonic()
    core = victim.core
    core.suspend()
    wait_for(lambda: victim.server.pid not in engines(mark), 600)
    sys.stderr.write(f"hung: its replica was ended after {time.monotonic() - hung_s:.1f} s\n")
    wait_for(lambda: app.running() == 2 and len(engines(mark)) == 2, 600)
    done = load.done
    wait_for(lambda: load.done > done + 20)


def _drains_a_stream(app: App, mark: str) -> None:
    """A replica that is to go has a stream; the stream comes to its end, whole. The engines stand still until it is to
    go: their streams are over too soon else."""
    before, found = engines(mark), {}
    assert len(before) == 2
    results: list[list[str]] = []
    readers = [threading.Thread(target=lambda: results.append(_stream(app, 900)), daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
        found = {pid: one.in_work() for pid, one in before.items()}
    wait_for(lambda: sum(one.in_work() for one in before.values()) == 2 or results, 60)
    cores = [one.core for one in before.values()]
    for core in cores:
        core.suspend()
    try:
        wait_for(lambda: "stopping" in app.latest(), 60)
        assert not results, found
    finally:
        for core in cores:
            core.resume()
    for reader in readers:
        reader.join(300)
    assert all("[DONE]" in lines[-1] for lines in results)
    assert [json.loads(lines[-2][5:])["usage"]["completion_tokens"] for lines in results] == [900, 900]
    wait_for(lambda: len(engines(mark)) == 1, 300)
    assert app.ask().status_code == 200


def test_a_model_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    port = ports.pick("127.0.0.1")
    file = tmp_path / "app.toml"
    file.write_text(f'[engine]\nmodel = "demo-1m"\nmax_model_len = 1000000\n[ray]\nport = {port}\n')
    said = _refused(file)
    assert said.returncode == 2, said.stderr
    assert "The engine said" in said.stderr and "max_model_len" in said.stderr, said.stderr
    assert "Traceback" not in said.stderr and "ray::" not in said.stderr


def test_a_port_that_is_taken_is_told_with_its_owner(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = tmp_path / "app.toml"
        file.write_text(f'[engine]\nmodel = "demo-1m"\n[ray]\nport = {port}\n')
        said = _refused(file)
    assert said.returncode == 2 and f"Port {port} on 127.0.0.1 is in use by process {os.getpid()}" in said.stderr
    assert "Traceback" not in said.stderr


def _refused(file: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    argv = [sys.executable, "-m", "nbridge", "ray", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False, env=environment)
