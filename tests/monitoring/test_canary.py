"""The canary and its collector, against small servers that misbehave, each in its own way."""

import json
import re
import threading
from typing import Any

import pytest
from misbehaving import HTML, TOKEN, Answer, FakeServer, free_port, patience_s
from prometheus_client import CollectorRegistry, generate_latest
from waiting import wait_for

from monitoring.errors import SettingsError
from monitoring.scrape.canary import Canaries, Canary


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
