"""vLLM itself: one start, then its engine core is killed."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from checkpoints.prepare import prepare
from serve import errors, port, server
from serve.settings import EngineSettings


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_vllm_starts_tells_its_memory_and_leaves_nothing_when_its_engine_core_is_killed(tmp_path: Path):
    checkpoint = prepare("demo-100m")
    settings = EngineSettings(model="demo-100m", port=0, max_model_len=1024, max_num_seqs=4).resolved(
        path=checkpoint.path,
        name=checkpoint.name,
        load_format=checkpoint.load_format,
        quantization=checkpoint.vllm_quantization,
    )
    running = server.start(settings, log_path=tmp_path / "server.log", timeout_s=500)
    with running:
        facts = running.startup
        if facts.engine_version is None or facts.kv_cache_bytes is None or facts.kv_cache_tokens is None:
            raise AssertionError(facts)
        assert running.model_name == "demo-100m"
        assert facts.max_model_len == 1024
        assert checkpoint.kv_bytes_per_token is not None
        assert facts.kv_cache_tokens * checkpoint.kv_bytes_per_token == pytest.approx(facts.kv_cache_bytes, rel=0.01)
        pids = running.pids()
        names = {pid: " ".join(psutil.Process(pid).cmdline()) for pid in pids}
        core = next(pid for pid, name in names.items() if "EngineCore" in name)
        os.kill(core, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while (died := running.failure()) is None:
            assert time.monotonic() < deadline, "the death was not noticed"
            time.sleep(0.1)
        assert isinstance(died, errors.EngineDied)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert port.is_free("127.0.0.1", running.settings.port)
