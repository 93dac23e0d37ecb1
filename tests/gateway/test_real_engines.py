"""Two real vLLM servers behind the gateway: what passes, clients that others made, an engine that hangs under load."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import forks
import httpx
import psutil
import pytest
from doors import ROOT, Gateway, gateway, needs_haproxy, under_load
from waiting import wait_for

from bench.studies.clients.peers import PEERS
from checkpoints.prepare import prepare
from serve.engine.server import Server, start
from serve.engine.settings import parse

pytestmark = [needs_haproxy, pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Server, Server]]:
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:
        servers = []
        for name in ("a", "b"):
            values = {"model": prepare("demo-1m").path, "served_model_name": "m", "port": 0, "max_num_seqs": 8}
            servers.append(stack.enter_context(start(parse(values, "the tests"), log_path=folder / f"{name}.log")))
        text = "[gateway]\nport = 0\nmetrics_port = 0\n[health]\ncanary_deadline_s = 3\nslow_start_s = 0\n"
        for name, server in zip("ab", servers, strict=True):
            text += f'[[server]]\nname = "{name}"\nurl = "{server.base_url}"\nmodel = "m"\n'
        (folder / "gateway.toml").write_text(text)
        found = stack.enter_context(gateway(folder / "gateway.toml"))
        wait_for(lambda: found.state("a") == found.state("b") == "in", 60)
        yield found, servers[0], servers[1]


def test_everything_of_a_hooked_server_passes(door: tuple[Gateway, Server, Server]) -> None:
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=door[0].url + "/v1", api_key="none")
    assert [one.id for one in client.models.list()] == ["m"]
    said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "def"}], max_tokens=4)
    assert said.usage is not None
    assert said.usage.completion_tokens <= 4
    stream = client.completions.create(model="m", prompt="def main():", max_tokens=5, stream=True)
    assert len(list(stream)) >= 2
    with pytest.raises(NotFoundError, match="The model other is not served here"):
        client.completions.create(model="other", prompt="x")
    asked = {"prompts": ["def main():"], "layer": -2}  # names no model: there is only one
    states = httpx.post(door[0].url + "/v1/hidden_states", json=asked, timeout=60, trust_env=False).json()
    assert len(states["hidden_states"][0]) == 128, states
    assert door[0].ask("/tokenize", prompt="def").json()["count"] >= 1


def test_vllms_own_benchmark_goes_through(door: tuple[Gateway, Server, Server], tmp_path: Path) -> None:
    tokenizer = Path(prepare("demo-1m").path)
    command = PEERS["vllm"].command(sys.executable, door[0].url, tmp_path, 4, 12, tokenizer)
    command[command.index("--model") + 1] = "m"
    done = forks.run(command, timeout_s=600, cwd=tmp_path, beside=forks.VLLM)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads((tmp_path / "vllm.json").read_text())
    assert said["completed"] == 12
    assert not [one for one in said["errors"] if one]
    assert all(one > 0 for one in said["ttfts"])


def test_the_guides_typescript_client_goes_through(door: tuple[Gateway, Server, Server]) -> None:
    done = subprocess.run(
        ["node", ROOT / "tests" / "serve" / "data" / "guide" / "use.js", door[0].url],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "VLLM_BASE_URL": door[0].url, "VLLM_MODEL_NAME": "m"},
    )
    found = json.loads(done.stdout)
    assert found["healthy"]
    assert found["globallyHealthy"]
    assert [len(state["hiddenState"]) for state in found["states"]] == [128] * 3
    assert "HTTP 400" in found["refused"]
    assert found["completion"]["usage"]["completionTokens"] == 5


def test_an_engine_that_hangs_under_load_costs_no_answer(door: tuple[Gateway, Server, Server]) -> None:
    found, a, _ = door
    (core,) = [one for pid in a.pids() if "EngineCore" in (one := psutil.Process(pid)).name()]
    with under_load(found, users=4) as seen:
        wait_for(lambda: len(seen) > 10, 120)
        core.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: found.haproxy("a").startswith("DOWN"), 60)
            before = len(seen)
            wait_for(lambda: len(seen) > before + 10, 120)
        finally:
            core.send_signal(signal.SIGCONT)
        wait_for(lambda: found.haproxy("a").startswith("UP"), 60)
    assert set(seen) == {200}
    assert "hangs" in Path(found.data / "agent.log").read_text()
