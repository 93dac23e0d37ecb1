"""vLLM itself: what it tells of itself when it is ready, and that nothing is left when its engine core is killed."""

import os
import signal

import psutil
import pytest
from waiting import wait_for

from checkpoints.prepare import prepare
from serve import errors
from serve.engine.server import Server
from serve.processes import port

pytestmark = pytest.mark.engine


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
