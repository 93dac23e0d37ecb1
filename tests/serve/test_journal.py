"""The journal over a small app and a fake engine: what is logged of each kind of request, and what never is."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from monitoring.logs.reading import read, says_engine_is_dead
from serve.engine.command import build
from serve.engine.settings import parse
from serve.errors import SettingsError
from serve.plugin import telemetry
from serve.plugin.journal import Journal, RequestLog, follow_engine

SECRET = "tell nobody"


class FakeEngine:
    """Gives two tokens at a time, three times, and may fail after the first; closed streams are noted."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.closed = 0

    async def generate(self, prompt: str, request_id: str, lora_request: Any = None) -> AsyncIterator[Any]:
        stats = SimpleNamespace(first_token_latency=0.25, queued_ts=10.0, scheduled_ts=10.125)
        try:
            for number in range(3):
                if number and self.failure:
                    raise self.failure
                part = SimpleNamespace(token_ids=[1, 2], finish_reason="length" if number == 2 else None)
                yield SimpleNamespace(
                    prompt_token_ids=list(prompt),
                    num_cached_tokens=1,
                    metrics=stats,
                    outputs=[part],
                    finished=number == 2,
                )
        finally:
            self.closed += 1


def app_of(engine: FakeEngine, journal: Journal) -> RequestLog:
    app = FastAPI()
    follow_engine(engine)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        document = await request.json()
        if document.get("model") == "other":
            return JSONResponse({"error": {"message": SECRET}}, status_code=404)
        prompts = [document["prompt"]] if isinstance(document["prompt"], str) else document["prompt"]
        generators = [engine.generate(prompt, "id", lora_request=None) for prompt in prompts]
        if document.get("stream"):

            async def chunks() -> AsyncIterator[bytes]:
                async for _ in generators[0]:
                    yield b"data: {}\n\n"

            return StreamingResponse(chunks())
        for generator in generators:
            async for _ in generator:
                pass
        return JSONResponse({"choices": []})

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({})

    return RequestLog(app, journal)


async def post(app: Any, document: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
        return await client.post("/v1/completions", json=document, headers=headers)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    found = [record.message for record in caplog.records if record.name == telemetry.requests_logger.name]
    return [json.loads(line) for line in found]


@pytest.fixture(autouse=True)
def _caught(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry.requests_logger, "propagate", True)
    caplog.set_level(logging.INFO, telemetry.requests_logger.name)


def test_a_request_and_its_answer_have_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(clock=iter((100.0, 100.5)).__next__)
    asked = {"model": "tiny", "prompt": [SECRET, "abc"], "max_tokens": 6, "temperature": 0.5, "user": SECRET}
    answer = asyncio.run(post(app_of(FakeEngine(), journal), asked, {"X-Request-Id": "mine"}))
    assert answer.headers["x-request-id"] == "mine"
    request, response = lines_of(caplog)
    del request["timestamp"], response["timestamp"]
    assert request == {
        "event": "request",
        "request_id": "mine",
        "route": "/v1/completions",
        "body_bytes": int(answer.request.headers["content-length"]),
        "model": "tiny",
        "stream": False,
        "max_tokens": 6,
        "temperature": 0.5,
        "prompt_count": 2,
        "mean_prompt_characters": 7.0,
    }
    assert response == {
        "event": "response",
        "request_id": "mine",
        "route": "/v1/completions",
        "model": "tiny",
        "status": 200,
        "outcome": "ok",
        "success": True,
        "stream": False,
        "prompt_tokens": 14,
        "cached_tokens": 2,
        "output_tokens": 12,
        "finish_reason": "length",
        "queue_seconds": 0.125,
        "first_token_seconds": 0.25,
        "seconds": 0.5,
    }
    assert SECRET not in caplog.text
    assert (journal.in_work, len(journal.ended_since(100.0)), journal.ended_since(100.5)) == (0, 1, [])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "route", ["/invocations", "/tokenize", "/scale_elastic_ep", "/v1/load_lora_adapter", "/" + "x" * 999]
)
def test_every_route_that_may_change_something_is_written_down(
    method: str, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()

    async def run() -> None:
        transport = httpx.ASGITransport(app_of(FakeEngine(), journal))
        async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
            assert (await client.request(method, route, json={"prompt": SECRET})).status_code == 404
            for reading in ("GET", "HEAD", "OPTIONS"):
                await client.request(reading, route)

    asyncio.run(run())
    last = lines_of(caplog)[-1]
    assert (last["route"], last["status"], last["outcome"]) == (route[:200], 404, "refused")
    assert len(journal.ended_since(0)) == 1
    assert SECRET not in caplog.text


def test_a_websocket_is_written_down_too(caplog: pytest.LogCaptureFixture) -> None:
    async def socket(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"} if scope["path"] == "/v1/realtime" else {"type": "websocket.close"})

    async def nothing(*_: Any) -> Any:
        return {"type": "websocket.connect"}

    for path in ("/v1/realtime", "/elsewhere"):
        asyncio.run(RequestLog(socket, Journal())({"type": "websocket", "path": path, "headers": []}, nothing, nothing))
    assert [(one["route"], one["status"], one["outcome"]) for one in lines_of(caplog)] == [
        ("/v1/realtime", 101, "ok"),
        ("/elsewhere", 403, "refused"),
    ]


def test_prompts_are_logged_only_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(post(app_of(FakeEngine(), Journal(log_prompts=True)), {"prompt": SECRET}))
    assert lines_of(caplog)[0]["text"] == SECRET


def test_a_stream_is_counted_without_its_usage(caplog: pytest.LogCaptureFixture) -> None:
    answer = asyncio.run(post(app_of(FakeEngine(), Journal()), {"prompt": "ab", "stream": True}))
    response = lines_of(caplog)[1]
    assert answer.text.count("data:") == 3
    assert (response["stream"], response["output_tokens"], response["outcome"]) == (True, 6, "ok")
    assert response["request_id"] == answer.headers["x-request-id"]


def test_refusals_and_failures_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(post(app_of(FakeEngine(), Journal()), {"model": "other"}))
    refused = lines_of(caplog)[1]
    assert (refused["outcome"], refused["status"], refused["success"]) == ("refused", 404, False)
    caplog.clear()
    engine = FakeEngine()
    engine.failure = RuntimeError(SECRET)
    assert asyncio.run(post(app_of(engine, Journal()), {"prompt": "ab"})).status_code == 500
    failed = lines_of(caplog)[1]
    assert (failed["outcome"], failed["error"], failed["output_tokens"]) == ("error", "RuntimeError", 2)
    assert SECRET not in json.dumps(lines_of(caplog))


def test_a_client_that_leaves_cancels_and_the_engine_learns_of_it(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    journal = Journal()

    async def run() -> None:
        body = json.dumps({"prompt": "ab", "stream": True}).encode()
        inbox = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()

        async def receive() -> Any:
            if inbox:
                return inbox.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                left.set()
                await asyncio.sleep(30)  # the client reads no further; cancelled when it is seen to have left

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        await app_of(engine, journal)(scope, receive, send)

    asyncio.run(run())
    assert lines_of(caplog)[-1]["outcome"] == "cancelled"
    assert (engine.closed, journal.in_work) == (1, 0)


def test_other_routes_and_bad_bodies_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> tuple[int, int]:
        app = app_of(FakeEngine(), Journal())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://fake") as client:
            listed = await client.get("/v1/models")
            missing = await client.post("/v1/nothing", content=b"\xff[", headers={"X-Request-Id": "no\tid"})
        return listed.status_code, missing.status_code

    assert asyncio.run(run()) == (200, 404)
    (response,) = lines_of(caplog)  # the listing is no request for the engine, and nobody read the other's body
    assert (response["status"], response["outcome"]) == (404, "refused")
    assert response["request_id"].startswith("req-")
    caplog.clear()
    asyncio.run(post(app_of(FakeEngine(), Journal()), ["no object"]))
    assert [line["event"] for line in lines_of(caplog)] == ["request", "response"]


def test_lines_for_a_person_cannot_be_forged() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "%s", (), None)
    line = {"timestamp": "now", "event": "response", "request_id": "a", "route": "/v1/x\nERROR", "seconds": 0.5}
    record.msg, record.args = json.dumps(line | {"model": "a b=c"}), None
    assert telemetry.TextLines().format(record) == r'nbridge now response a "/v1/x\nERROR" seconds=0.5 model="a b=c"'


@pytest.mark.parametrize(
    "line",
    [
        'INFO:     127.0.0.1:5 - "POST /v1/EngineDeadError HTTP/1.1" 404 Not Found',
        '{"event": "request", "model": "EngineDeadError"}',
        "nbridge now request a /v1/x model=EngineDeadError",
        "(APIServer pid=7) INFO 11-22 08:35:04 [logger.py:1] Received request x: prompt: 'died unexpectedly'",
    ],
)
def test_what_a_client_wrote_is_not_taken_for_the_engines_death(line: str) -> None:
    assert not says_engine_is_dead(line)
    assert says_engine_is_dead("(APIServer pid=7) ERROR 11-22 08:35:04 [a.py:1] EngineDeadError: it died")


def test_the_journal_is_no_cause_of_a_failure() -> None:
    assert read(['{"model": "x: error: y"}', "nbridge x: error: y", "vllm: error: real"]).matter == (
        "vllm: error: real",
    )


def test_a_log_that_is_switched_off_has_no_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (telemetry.requests_logger, telemetry.logger):
        monkeypatch.setattr(one, "handlers", [logging.NullHandler()])
    journal = Journal()
    telemetry.set_up_logging("none")
    try:
        assert asyncio.run(post(app_of(FakeEngine(), journal), {"prompt": "ab"})).status_code == 200
    finally:
        telemetry.set_up_logging("json")
    assert (lines_of(caplog), len(journal.ended_since(0))) == ([], 1)


def test_the_terms_of_the_log_come_from_the_environment() -> None:
    assert telemetry.log_terms({}) == ("json", False)
    assert telemetry.log_terms({"NBRIDGE_LOG_FORMAT": "text", "NBRIDGE_LOG_PROMPTS": "1"}) == ("text", True)
    for wrong in ({"NBRIDGE_LOG_FORMAT": "xml"}, {"NBRIDGE_LOG_PROMPTS": "yes"}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            telemetry.log_terms(wrong)


def test_the_settings_reach_the_server_by_its_environment() -> None:
    settings = parse({"model": "m", "log_format": "text", "log_prompts": True}, "the test")
    environment = build(settings, device="cpu").environment
    assert telemetry.log_terms(environment) == ("text", True)
    assert telemetry.log_terms(build(parse({"model": "m"}, "the test"), device="cpu").environment) == ("json", False)
    with pytest.raises(SettingsError, match="log_format"):
        parse({"model": "m", "log_format": "xml"}, "the test")
