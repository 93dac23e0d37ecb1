"""A real server, well, then with an engine that hangs, then let go: what is seen of it from inside and outside."""

import json
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from waiting import wait_for

from serve.engine.server import Server
from serve.plugin.engine_health import DEFAULT_STALL_S

pytestmark = [pytest.mark.engine, pytest.mark.server_first]
ASK = {"model": "demo-1m", "prompt": "def main():", "max_tokens": 8, "ignore_eos": True}


@pytest.fixture
def server(engine_server: Server) -> Server:
    return engine_server


def engine_of(server: Server) -> psutil.Process:
    (core,) = [process for pid in server.pids() if "EngineCore" in (process := psutil.Process(pid)).name()]
    return core


def lines_of(server: Server, request_id: str) -> dict[str, dict[str, Any]]:
    """The journal's lines of one request by event; waits for the one that ends it."""

    def found() -> dict[str, dict[str, Any]]:
        # The last line may be half written: what is whole ends with a newline.
        whole = server.log_path.read_text(encoding="utf-8").rpartition("\n")[0]
        lines = map(json.loads, (line for line in whole.splitlines() if line.startswith("{")))
        of_it = {line["event"]: line for line in lines if line["request_id"] == request_id}
        return of_it if "response" in of_it else {}

    return dict(wait_for(found))


def test_a_healthy_server_tells_figures_and_logs_every_request(server: Server) -> None:
    with httpx.Client(base_url=server.base_url, timeout=300) as client:
        for number in range(5):
            client.post("/v1/completions", json=ASK, headers={"X-Request-Id": f"mine-{number}"}).raise_for_status()
        chat = {"model": "demo-1m", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 4}
        stream = {**chat, "stream": True, "ignore_eos": True}
        with client.stream("POST", "/v1/chat/completions", json=stream) as answer:
            assert answer.read().rstrip().endswith(b"[DONE]")
            chat_id = answer.headers["x-request-id"]
        refused = client.post("/v1/completions", json={**ASK, "model": "other"}, headers={"X-Request-Id": "wrong"})
        assert refused.status_code == 404
        states = client.post("/v1/completions", json={**ASK, "output_hidden_states": True})

        def counted() -> httpx.Response | None:
            """The detail that counts all eight; a look may be from just before the last request ended."""
            seen = client.get("/health/detail")
            return seen if seen.json()["requests"]["total"] >= 8 else None

        detail = wait_for(counted)
    mine = lines_of(server, "mine-3")
    assert mine["request"] | {"timestamp": ""} == {
        "event": "request",
        "timestamp": "",
        "request_id": "mine-3",
        "route": "/v1/completions",
        "body_bytes": len(json.dumps(ASK, separators=(",", ":"))),
        "model": "demo-1m",
        "stream": False,
        "max_tokens": 8,
        "prompt_count": 1,
        "mean_prompt_characters": 11.0,
    }
    response = mine["response"]
    assert (response["outcome"], response["output_tokens"], response["finish_reason"]) == ("ok", 8, "length")
    assert 0 < response["first_token_seconds"] < response["seconds"]
    streamed = lines_of(server, chat_id)["response"]
    assert (streamed["stream"], streamed["output_tokens"], streamed["prompt_tokens"] > 0) == (True, 4, True)
    assert lines_of(server, "wrong")["response"]["outcome"] == "refused"
    assert lines_of(server, states.headers["x-request-id"])["response"]["output_tokens"] == 8
    assert "a secret" not in server.log_path.read_text(encoding="utf-8")

    document = detail.json()
    assert (detail.status_code, document["status"], document["reasons"]) == (200, "healthy", [])
    # Seven were generated and answered; the state of one was an eighth request for the engine, but not for a client.
    assert document["requests"]["successful"] == document["requests"]["total"] == 8
    assert document["latency"]["e2e"]["count"] == 7
    assert 0 < document["latency"]["e2e"]["p50_s"] < 60
    assert document["uptime_s"] > 1


def test_the_commands_find_a_real_server_well(
    server: Server, nbridge: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    answer = nbridge("health", server.base_url, "--window", 2, "--deadline", 60, "--json")
    health = json.loads(answer.stdout)
    assert (answer.returncode, health["status"], health["reasons"]) == (0, "healthy", [])
    assert (health["model"], health["canary"]["up"]) == ("demo-1m", True)
    answer = nbridge("doctor", "--server", server.base_url, "--window", 2, "--json")
    findings = {finding["check"]: finding for finding in json.loads(answer.stdout)}
    assert answer.returncode == 0, findings
    assert [findings[check]["verdict"] for check in ("Health", "Model output", "Hidden states", "Batch")] == ["ok"] * 4
    assert "requests of full length" in findings["KV cache"]["seen"]


def test_a_hanging_engine_is_unhealthy_though_vllm_says_200(
    server: Server, nbridge: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    engine = engine_of(server)
    with httpx.Client(base_url=server.base_url, timeout=300) as client, ThreadPoolExecutor() as pool:
        assert client.get("/health").json()["status"] == "healthy"
        engine.send_signal(signal.SIGSTOP)

        def unhealthy() -> httpx.Response | None:
            seen = client.get("/health/detail")
            return seen if seen.json()["status"] == "unhealthy" else None

        try:
            waiting = pool.submit(client.post, "/v1/completions", json=ASK)
            outside = pool.submit(nbridge, "health", server.base_url, "--json")
            inside = wait_for(unhealthy)
            short, live = client.get("/health"), client.get("/health/live")
            answer = outside.result()
        finally:
            engine.send_signal(signal.SIGCONT)
        assert live.status_code == 503
        assert waiting.result().status_code == 200
        assert inside.status_code == 503
        assert "hangs: no sign of life" in inside.json()["reasons"][0]
        assert (short.status_code, short.json()["status"]) == (200, "unhealthy")
        verdict = json.loads(answer.stdout)
        assert (answer.returncode, verdict["status"]) == (1, "unhealthy"), verdict
        assert "no token within 5 s" in verdict["reasons"][0]
        wait_for(lambda: client.get("/health").json()["status"] == "healthy")


@pytest.mark.parametrize("holds", [True, False])
def test_a_hung_engine_sends_no_head_to_who_asks_for_it(server: Server, holds: bool) -> None:
    engine = engine_of(server)
    headers = {"x-nbridge-hold-head": "1"} if holds else {}
    with httpx.Client(base_url=server.base_url, timeout=300) as client, ThreadPoolExecutor() as pool:
        client.post("/v1/completions", json=ASK).raise_for_status()
        engine.send_signal(signal.SIGSTOP)
        try:
            asked = client.build_request("POST", "/v1/completions", json={**ASK, "stream": True}, headers=headers)
            answer = pool.submit(client.send, asked, stream=True)
            if not holds:
                assert answer.result(timeout=60).status_code == 200  # vLLM's own way: a head, and nothing behind it
            else:
                with pytest.raises(TimeoutError):
                    answer.result(timeout=3)
        finally:
            engine.send_signal(signal.SIGCONT)
        assert answer.result().read().rstrip().endswith(b"[DONE]")


def test_the_metrics_tell_of_the_silence(server: Server) -> None:
    def silence_s() -> float:
        page = httpx.get(f"{server.base_url}/metrics", timeout=300).text
        (line,) = [line for line in page.splitlines() if line.startswith("nbridge_engine_silence_seconds ")]
        return float(line.split()[1])

    wait_for(lambda: silence_s() < DEFAULT_STALL_S)


def test_the_log_of_the_server_has_no_errors_of_ours(server: Server) -> None:
    text = Path(server.log_path).read_text(encoding="utf-8")
    assert "nbridge.vitals" not in text
    assert "Traceback" not in text
