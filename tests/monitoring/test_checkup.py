"""Scrapes, the whole check-up and the doctor's probe against small servers that misbehave, each in its own way."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from misbehaving import HTML, PAGE, Answer, FakeServer, free_port, patience_s

from monitoring.alerting.thresholds import load
from monitoring.doctor.diagnosis import Probe
from monitoring.doctor.probe import probe
from monitoring.health.checkup import Checkup, unix_time_s
from monitoring.health.verdict import examine
from monitoring.scrape import http_exchange
from monitoring.scrape.metrics import MetricsError, fetch, parse


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HTML, "an HTML page instead of metrics"),
        ((200, "text/plain", "<html>proxy</html>"), "an HTML page instead of metrics"),
        ((503, "text/plain", "no"), "HTTP 503"),
        ((200, "text/plain", " \n"), "an empty page"),
        ((200, "application/json", '{"a": 1}'), "not a Prometheus page"),
        ((200, "text/plain", 'a{b="1" 2\n'), "not a Prometheus page"),
        ((200, "text/plain", "a one\n"), "not a Prometheus page"),
        (None, "no answer within 0.3 s"),
        ("drip", "no answer within 0.3 s"),
    ],
)
def test_each_bad_metrics_page_has_its_own_reason(server: FakeServer, answer: Answer | str | None, reason: str) -> None:
    server.answers["/metrics"] = answer
    with pytest.raises(MetricsError, match=reason):
        parse(fetch(server.url, timeout_s=patience_s(answer)))


def test_an_exchange_also_works_where_an_event_loop_runs(server: FakeServer) -> None:
    async def in_a_notebook() -> int:
        return http_exchange.exchange("GET", f"{server.url}/health", deadline_s=20).status

    assert asyncio.run(in_a_notebook()) == 200


def test_a_port_where_nobody_listens_and_a_name_that_nobody_has() -> None:
    with pytest.raises(MetricsError, match=r"/metrics: no connection \(Connection refused\)"):
        fetch(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(http_exchange.NoAnswer, match="no connection"):
        http_exchange.exchange("GET", "http://name.invalid/", deadline_s=5)


OLD_PAGE = """vllm:gpu_cache_usage_perc{model_name="m"} 0.99
vllm:time_per_output_token_seconds_count{model_name="m"} 7
vllm:gpu_prefix_cache_hits_total{model_name="m"} 3
"""


def test_the_names_of_older_vllm_are_read_as_those_of_today() -> None:
    old = {sample.name: sample.value for sample in parse(OLD_PAGE)}
    assert old == {
        "vllm:kv_cache_usage_perc": 0.99,
        "vllm:inter_token_latency_seconds_count": 7,
        "vllm:prefix_cache_hits_total": 3,
    }
    both = {sample.name: sample.value for sample in parse(OLD_PAGE + 'vllm:kv_cache_usage_perc{model_name="m"} 0.5\n')}
    assert both["vllm:kv_cache_usage_perc"] == 0.5


def check_up(server: FakeServer, **options: Any) -> Any:
    seen = Checkup(server.url, **{"window_s": 0.5, "deadline_s": 20, "read_nvml": lambda: iter(()), **options}).run()
    return examine(seen, load(), stalled_s=0.4), seen


def test_a_check_up_of_a_healthy_server(server: FakeServer) -> None:
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    began_s = time.time()
    health, seen = check_up(server, clock=lambda: now_s[0], sleep=sleep)
    ended_s = time.time()
    assert (health.status, health.reasons) == ("healthy", ())
    # Before the canary and 0.3 s behind it, then every 0.2 s until half a window has passed since.
    assert [round(scrape.at_s, 2) for scrape in seen.scrapes] == [0, 0.3, 0.5, 0.55]
    assert [path for path, _, _ in server.asked].count("/v1/completions") == 1
    # By the server's clock, which it tells in whole seconds.
    assert began_s - 1 <= health.figures["uptime_s"] + 1000 <= ended_s
    health, _ = check_up(server, with_canary=False)
    assert "canary" not in health.figures


def test_a_check_up_finds_the_hang_behind_a_health_of_200(server: FakeServer) -> None:
    server.answers["/v1/completions"] = None
    health, seen = check_up(server, deadline_s=0.3)
    assert (seen.health_status, health.status) == (200, "unhealthy")
    assert health.reasons[0].text.endswith("and the engine did no step meanwhile.")
    server.answers["/metrics"] = (
        200,
        "text/plain",
        PAGE.replace('running{engine="0",model_name="m"} 0', 'running{engine="0",model_name="m"} 3'),
    )
    health, _ = check_up(server, with_canary=False)
    assert health.reasons[0].text.startswith("Engine 0 hangs: 3 requests running")


def test_a_clock_that_is_wrong_changes_no_figure(server: FakeServer) -> None:
    server.clock_ahead_s = 3600
    health, _ = check_up(server)
    assert health.status == "healthy"
    assert any(note.startswith("The server's clock is 3600 s ahead") for note in health.notes)
    assert unix_time_s("yesterday") is None


def test_gpus_come_from_the_exporters_page(server: FakeServer) -> None:
    labels = 'gpu="0",mig="",name="Fake",uuid="u"'
    server.answers["/metrics"] = (
        200,
        "text/plain",
        PAGE + f"nbridge_gpu_up{{{labels}}} 1\nnbridge_gpu_temperature_celsius{{{labels}}} 90\n"
        f'nbridge_gpu_up{{gpu="0",mig="1",name="Slice",uuid="v"}} 1\n',
    )
    health, seen = check_up(server, exporter=server.url)
    assert [(gpu.gpu, gpu.name) for gpu in seen.gpus] == [("0", "Fake")]
    assert health.reasons[0].text == "GPU 0 is at 90 °C (limit 85 °C)."
    nobody = f"http://127.0.0.1:{free_port()}"
    health, seen = check_up(server, exporter=nobody)
    assert (health.status, seen.gpus) == ("healthy", [])
    assert any("Connection refused" in note for note in health.notes)


def test_an_nvml_that_hangs_does_not_hang_the_check_up(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitoring.health.checkup.NVML_DEADLINE_S", 0.2)

    def hang() -> Iterator[Any]:
        server.ended.wait()
        yield

    _, seen = check_up(server, read_nvml=hang)
    assert "NVML did not answer" in str(seen.gpu_problem)


def test_the_command_says_who_is_down_in_its_exit_code(
    nbridge: Callable[..., subprocess.CompletedProcess[str]], server: FakeServer
) -> None:
    down = nbridge("health", f"http://127.0.0.1:{free_port()}", "--json")
    document = json.loads(down.stdout)
    assert (down.returncode, document["status"]) == (1, "unhealthy")
    assert document["reasons"] == ["The server does not answer: no connection (Connection refused)."]
    server.answers["/health"] = (200, "application/json", json.dumps({"status": "degraded", "reasons": ["No states."]}))
    degraded = nbridge("health", server.url, "--window", "1")
    assert degraded.returncode == 0
    assert "DEGRADED" in degraded.stdout
    assert "Its own /health says: No states." in degraded.stderr
    assert nbridge("health", "http://").returncode == 2


def test_a_probe_brings_back_words_and_a_state(server: FakeServer) -> None:
    server.answers["/v1/completions"] = (200, "application/json", json.dumps({"choices": [{"text": " Paris"}]}))
    server.answers["/v1/hidden_states"] = (200, "application/json", json.dumps({"hidden_states": [[0.5, -1]]}))
    found = probe(server.url, deadline_s=20, with_states=True)
    assert found == Probe(text=" Paris", state=(0.5, -1.0))
    assert not any("logprobs" in document for _, document, _ in server.asked if document)
    server.answers["/v1/completions"] = (200, "application/json", "[]")
    server.answers["/v1/hidden_states"] = (500, "application/json", '{"error": {"message": "is not finite"}}')
    found = probe(server.url, deadline_s=20, with_states=True)
    assert found == Probe(
        text_problem="the answer to a completion has no text", state_problem="HTTP 500: is not finite"
    )
    assert probe(server.url, deadline_s=20, with_states=False).state_problem is None
