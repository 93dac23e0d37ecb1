"""Canary, scrapes and the whole check-up against small servers that misbehave, each in its own way."""

import asyncio
import http.server
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from waiting import wait_for

from monitoring.alerting.thresholds import load
from monitoring.doctor.diagnosis import Probe
from monitoring.doctor.probe import probe
from monitoring.errors import SettingsError
from monitoring.health.checkup import Checkup, unix_time_s
from monitoring.health.verdict import examine
from monitoring.scrape import http_exchange
from monitoring.scrape.canary import Canaries, Canary
from monitoring.scrape.metrics import MetricsError, fetch, parse

PAGE = """# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 7
vllm:num_requests_running{engine="0",model_name="m"} 0
vllm:num_requests_waiting{engine="0",model_name="m"} 0
process_start_time_seconds 1000
"""
TOKEN = json.dumps({"choices": [{"text": "a"}]})
Answer = tuple[int, str, str]  # status, content type, body


class FakeServer:
    """Answers by path; None as an answer hangs until the test ends, "drip" gives a byte now and then."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | str | None] = {
            "/metrics": (200, "text/plain", PAGE),
            "/health": (200, "application/json", ""),
            "/v1/models": (200, "application/json", json.dumps({"data": [{"id": "m"}]})),
            "/v1/completions": (200, "application/json", TOKEN),
        }
        self.asked: list[tuple[str, Any, str | None]] = []
        self.clock_ahead_s = 0.0
        self.ended = threading.Event()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, document: Any) -> None:
                fake.asked.append((self.path, document, self.headers.get("Authorization")))
                answer = fake.answers.get(self.path, (404, "text/plain", "no"))
                if answer is None:
                    fake.ended.wait()
                    return
                if isinstance(answer, str):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
                    while not fake.ended.wait(0.05):
                        self.wfile.write(b"#")
                        self.wfile.flush()
                    return
                status, kind, body = answer
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + fake.clock_ahead_s, usegmt=True))
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def patience_s(answer: Answer | str | None) -> float:
    """Little with a server that will not answer; with one that does, as much as a busy machine may need."""
    return 20 if isinstance(answer, tuple) else 0.3


HTML = (200, "text/html; charset=utf-8", "<!DOCTYPE html><html><body>Login</body></html>")


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


def test_a_canary_asks_for_one_token_with_its_key(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    canary = Canary(server.url, api_key_env="SOME_KEY", deadline_s=60)
    beat = canary.ask()
    assert beat.up
    assert beat.latency_s is not None
    assert 0 < beat.latency_s < 60
    canary.ask()
    paths = [path for path, _, _ in server.asked]
    assert paths == ["/v1/models", "/v1/completions", "/v1/completions"]  # the model's name is asked for once
    assert server.asked[1][1] == {"model": "m", "prompt": "1", "max_tokens": 1, "temperature": 0}
    assert {key for _, _, key in server.asked} == {"Bearer secret"}
    with pytest.raises(SettingsError, match="NO_SUCH_KEY"):
        Canary(server.url, api_key_env="NO_SUCH_KEY")


@pytest.mark.parametrize(
    ("answer", "failed", "reason"),
    [
        (None, "late", "no token within 0.3 s"),
        ("drip", "late", "no token within 0.3 s"),
        ((500, "application/json", '{"error": {"message": "engine dead"}}'), "error", "HTTP 500: engine dead"),
        ((401, "application/json", '{"error": {"message": "no key"}}'), "refused", "HTTP 401: no key"),
        ((502, *HTML[1:]), "error", "HTTP 502: an HTML page"),
        (HTML, "bad", "not one of an OpenAI-compatible server"),
        ((200, "application/json", '{"choices": []}'), "bad", "not one of an OpenAI-compatible server"),
    ],
)
def test_a_canary_that_fails_says_how(
    server: FakeServer, answer: Answer | str | None, failed: str, reason: str
) -> None:
    server.answers["/v1/completions"] = answer
    canary = Canary(server.url, deadline_s=patience_s(answer), model="m")
    beat = canary.ask()
    assert (beat.failed, beat.latency_s) == (failed, None)
    assert reason in str(beat.reason)
    server.answers["/v1/completions"] = (200, "application/json", TOKEN)
    canary.deadline_s = 20
    assert canary.ask().up


VECTOR = json.dumps({"data": [{"embedding": [0.5, 0.25]}]})
CHAT = json.dumps({"choices": [{"message": {"content": "a"}}]})
NO_COMPLETIONS = json.dumps({"error": {"message": "The model does not support Completions API", "code": 501}})


@pytest.mark.parametrize(
    ("answers", "path"),
    [
        ({"/v1/completions": (404, "application/json", "{}"), "/v1/embeddings": VECTOR}, "/v1/embeddings"),
        ({"/v1/completions": (501, "application/json", NO_COMPLETIONS), "/v1/embeddings": VECTOR}, "/v1/embeddings"),
        ({"/v1/completions": (404, "text/plain", "no"), "/v1/chat/completions": CHAT}, "/v1/chat/completions"),
        ({"/v1/completions": (405, "text/plain", "no"), "/pooling": '{"data": [{"data": [1.0]}]}'}, "/pooling"),
    ],
)  # fmt: skip
def test_a_canary_asks_for_what_is_served(server: FakeServer, answers: dict[str, Any], path: str) -> None:
    server.answers |= {
        route: (200, "application/json", said) if isinstance(said, str) else said for route, said in answers.items()
    }
    canary = Canary(server.url, model="m", deadline_s=60)
    assert canary.ask().up
    server.asked.clear()
    assert canary.ask().up
    assert [asked[0] for asked in server.asked] == [path]  # what it has learnt, it does not ask again


def test_a_server_that_serves_nothing_a_canary_knows_is_not_down(server: FakeServer) -> None:
    del server.answers["/v1/completions"]
    canaries = Canaries([server.url], model="m", deadline_s=60)
    beat = canaries.canaries[0].ask()
    assert (beat.failed, beat.up) == ("unserved", False)
    assert "/v1/embeddings" in str(beat.reason)
    registry = CollectorRegistry()
    registry.register(canaries)
    assert "nbridge_canary_up{" not in generate_latest(registry).decode()
    server.answers["/v1/completions"] = (
        404,
        "application/json",
        '{"error":{"message":"The model `m` does not exist."}}',
    )
    assert canaries.canaries[0].ask().failed == "refused"


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


def test_a_canary_asks_anew_for_the_model_after_a_failure(server: FakeServer) -> None:
    canary = Canary(server.url, deadline_s=20)
    assert canary.ask().up
    server.answers["/v1/completions"] = (404, "application/json", '{"error": {"message": "no model m"}}')
    assert canary.ask().failed == "refused"
    server.answers["/v1/completions"] = (200, "application/json", TOKEN)
    server.answers["/v1/models"] = (200, "application/json", json.dumps({"data": [{"id": "another"}]}))
    assert canary.ask().up
    assert server.asked[-1][1]["model"] == "another"


def test_canaries_are_a_collector_whose_scrape_never_waits(server: FakeServer) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    canaries = Canaries([server.url, nobody, f"{server.url}/v1"], interval_s=0.05, deadline_s=20)
    registry = CollectorRegistry()
    registry.register(canaries)
    assert b"nbridge_canary_up{" not in generate_latest(registry)  # nothing is known yet
    canaries.start()
    try:
        # "2.0", "3.0" …: of the server that answers at least the first round has ended by then, too.
        def failed_twice() -> str | None:
            text = generate_latest(registry).decode()
            told = f'nbridge_canary_up{{server="{server.url}"}}' in text
            counted = re.search(rf'nbridge_canary_failures_total{{server="{nobody}"}} ([2-9]|\d\d)', text)
            return text if told and counted else None

        text = wait_for(failed_twice)
    finally:
        canaries.stop()
    assert text.count(f'nbridge_canary_up{{server="{server.url}"}} 1.0') == 1  # named twice, asked once
    assert f'nbridge_canary_up{{server="{nobody}"}} 0.0' in text
    assert f'nbridge_canary_latency_seconds{{server="{server.url}"}}' in text
    assert f'nbridge_canary_latency_seconds{{server="{nobody}"}}' not in text


def test_canaries_follow_a_list_that_changes(server: FakeServer) -> None:
    nobody, told = f"http://127.0.0.1:{free_port()}", []
    listed = [nobody]

    def names() -> list[str]:
        if not listed:
            raise SettingsError("The file is broken.")
        return listed

    canaries = Canaries((), listed=names, follow_s=0.02, tell=told.append, interval_s=0.05, deadline_s=20)
    canaries.start()

    def seen(*servers: str) -> bool:
        return {sample.labels["server"] for sample in next(iter(canaries.collect())).samples} == set(servers)

    try:
        wait_for(lambda: seen(nobody))
        listed[:] = [nobody, server.url]
        wait_for(lambda: seen(nobody, server.url))
        (kept,) = [canary for canary in canaries.canaries if canary.server == nobody]
        failures = kept.failures
        listed[:] = []  # written at this moment, or wrong: whom it named before is still asked
        wait_for(lambda: bool(told) and kept.failures > failures + 2)
        assert seen(nobody, server.url)
        assert told == ["The file is broken. Canaries go on as before."]
        listed[:] = [server.url]
        wait_for(lambda: seen(server.url))
        wait_for(lambda: not any(thread.name == f"canary {nobody}" for thread in threading.enumerate()))
    finally:
        canaries.stop()


def test_a_canary_that_does_not_come_back_is_late(server: FakeServer) -> None:
    now_s = [0.0]
    canary = Canary(server.url, interval_s=10, deadline_s=5, clock=lambda: now_s[0])
    canary.ask()
    canary._thread = threading.Thread()  # as if it were running, and hung in its next round
    assert canary.last() is not None
    now_s[0] = 21
    late = canary.last()
    assert late is not None
    assert (late.up, late.failed) == (False, "late")


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
