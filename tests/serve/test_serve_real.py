"""vLLM itself: what it tells when it is ready, that nothing is left of it, and `nbridge serve` as a user starts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from waiting import wait_for

from checkpoints.prepare import prepare
from serve import errors
from serve.engine.server import Server
from serve.processes import port

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_command_serves_and_ends_by_sigterm_with_nothing_forked(tmp_path: Path) -> None:
    """What a user types, executed: imported anew, its engine and worker spawned.

    In all other tests of our own start vLLM is forked from a process that imported it before (tests/forked), and the
    command has a stand-in for vLLM. Of these none would notice a start that only works where everything is imported,
    settings that a spawned engine does not inherit, or an end that leaves one of vLLM's own helpers.
    """
    path = os.environ["PYTHONPATH"].split(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in path if Path(one).name != "forked")}
    environment.pop("NBRIDGE_TEST_FORKS", None)
    argv = [sys.executable, "-m", "nbridge", "serve", "--model", "demo-1m", "--port", "0", "--json"]
    with subprocess.Popen(
        [*argv, "--log-file", str(tmp_path / "server.log")],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None and program.stderr is not None
        try:
            told = program.stdout.readline()
            assert told, program.stderr.read()
            document = json.loads(told)
            started = psutil.Process(program.pid).children(recursive=True)
            assert document["pid"] in {process.pid for process in started}  # what is forked is no descendant
            assert any("EngineCore" in process.name() for process in started)
            with httpx.Client(base_url=document["base_url"], timeout=300, trust_env=False) as client:
                assert client.get("/health").json()["status"] == "healthy"
                body = {"model": "demo-1m", "prompt": "The river", "max_tokens": 4, "ignore_eos": True}
                answer = client.post("/v1/completions", json=body).raise_for_status().json()
                assert answer["usage"]["completion_tokens"] == 4
                states = client.post("/v1/hidden_states", json={"prompts": [[5, 6, 7]]}).raise_for_status().json()
                assert len(states["hidden_states"][0]) == 128
            program.send_signal(signal.SIGTERM)
            assert program.wait(300) == 0
        finally:
            program.kill()
        assert "Stopped." in program.stderr.read()
    assert not [process for process in started if is_alive(process)]
    assert port.is_free("127.0.0.1", httpx.URL(document["base_url"]).port or 0)


def test_vllm_tells_its_memory(engine_server: Server) -> None:
    facts, checkpoint = engine_server.startup, prepare("demo-1m")
    if facts.engine_version is None or facts.kv_cache_bytes is None or facts.kv_cache_tokens is None:
        raise AssertionError(facts)
    assert engine_server.model_name == "demo-1m"
    assert facts.max_model_len == checkpoint.max_model_len
    assert checkpoint.kv_bytes_per_token is not None
    assert facts.kv_cache_tokens * checkpoint.kv_bytes_per_token == pytest.approx(facts.kv_cache_bytes, rel=0.01)


@pytest.mark.server_last
def test_nothing_is_left_when_the_engine_core_is_killed(engine_server: Server) -> None:
    with engine_server:
        assert engine_server.failure() is None
        pids = engine_server.pids()
        names = {pid: " ".join(psutil.Process(pid).cmdline()) for pid in pids}
        core = next(pid for pid, name in names.items() if "EngineCore" in name)
        os.kill(core, signal.SIGKILL)
        assert isinstance(wait_for(engine_server.failure), errors.EngineDied)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert port.is_free("127.0.0.1", engine_server.settings.port)
