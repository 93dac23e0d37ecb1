"""What requests for hidden states may take: places in the queue, values being read, time; and clients that leave."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fake_states_engine import WIDE, FakeEngine, app_of, ask, large, post, wide_engine
from prometheus_client import REGISTRY
from starlette.requests import Request

from serve.hidden_states.admission import Admission
from serve.hidden_states.limits import Limits
from serve.plugin import routes

pytestmark = pytest.mark.xdist_group("vllm imported")  # into this process, which takes ten seconds


def test_a_full_queue_says_when_to_come_back_and_empties_again():
    engine = FakeEngine()

    async def run() -> list[httpx.Response]:
        engine.wait = asyncio.Event()
        app = app_of(engine, max_queued_prompts=3)
        first = asyncio.create_task(post(app, {"prompts": ["a", "b"]}))
        await engine.entered.wait()
        refused = await post(app, {"prompts": ["c", "d"]})
        never = await post(app, {"prompts": ["c"] * 4})
        engine.wait.set()
        return [refused, never, await first, await post(app, {"prompts": ["c", "d", "e"]})]

    refused, never, first, later = asyncio.run(run())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "limit of 3" in refused.json()["error"]["message"]
    assert never.status_code == 413
    assert (first.status_code, later.status_code) == (200, 200)


async def begin(app: Any, document: Any, wait: asyncio.Event) -> tuple[asyncio.Task[None], list[dict[str, Any]]]:
    """A request whose client takes no part of the answer's body before `wait` is set; its messages so far."""
    body = json.dumps(document).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/hidden_states",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    messages: list[dict[str, Any]] = []
    started = asyncio.Event()
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)
        if message["type"] == "http.response.body":
            started.set()
            await wait.wait()

    task = asyncio.create_task(app(scope, receive, send))
    await started.wait()
    return task, messages


def test_a_place_is_kept_until_the_answer_has_been_written():
    async def run() -> None:
        app = app_of(FakeEngine(), max_queued_prompts=2)
        reads = asyncio.Event()
        first, messages = await begin(app, {"prompts": ["a", "b"]}, reads)
        assert (await post(app, {"prompts": ["c"]})).status_code == 429
        reads.set()
        await first
        assert messages[-1] == {"type": "http.response.body", "body": b"\n", "more_body": False}
        assert (await post(app, {"prompts": ["c"]})).status_code == 200
        assert getattr(app.state, routes.STATE).admission.prompts == 0

    asyncio.run(run())


def test_large_answers_that_nobody_reads_leave_no_room_for_more_but_for_small_ones():
    async def run() -> None:
        app = app_of(wide_engine(), model=WIDE, max_queued_values=2 * 15 * 4096)
        admission = getattr(app.state, routes.STATE).admission
        reads = asyncio.Event()
        begun = [await begin(app, large(), reads) for _ in range(2)]
        refused = await post(app, large())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "122880 values are being computed or read" in refused.json()["error"]["message"]
        small = await post(app, large(tokens=2))
        assert (small.status_code, "content-length" in small.headers) == (200, True)
        # Of each large answer only the first piece has been made.
        assert [len(messages) for _, messages in begun] == [2, 2]
        reads.set()
        await asyncio.gather(*(task for task, _ in begun))
        bodies = [b"".join(one.get("body", b"") for one in messages) for _, messages in begun]
        assert [json.loads(body)["shapes"] for body in bodies] == [[[15, 4096]]] * 2
        assert (admission.prompts, admission.values) == (0, 0)
        assert (await post(app, large())).status_code == 200

    asyncio.run(run())


def test_an_answer_alone_always_has_room():
    assert ask(large(), wide_engine(), model=WIDE, max_queued_values=1).status_code == 200


def test_a_client_that_takes_nothing_is_cut_off_and_counted_as_gone():
    labels = {"pooling": "all", "outcome": "cancelled"}

    async def run() -> None:
        app = app_of(wide_engine(), model=WIDE)
        extractor = getattr(app.state, routes.STATE)
        extractor.limits = SimpleNamespace(**{**vars(extractor.limits), "timeout_s": 0.05})
        extractor.admission = Admission(Limits())
        task, messages = await begin(app, large(), asyncio.Event())
        await task
        assert messages[-1]["more_body"]
        assert (extractor.admission.prompts, extractor.admission.values) == (0, 0)

    before = REGISTRY.get_sample_value("nbridge_hidden_states_requests_total", labels) or 0.0
    asyncio.run(run())
    assert REGISTRY.get_sample_value("nbridge_hidden_states_requests_total", labels) == before + 1
    assert REGISTRY.get_sample_value("nbridge_hidden_states_in_flight") == 0


def test_a_request_that_takes_too_long_is_given_up():
    engine = FakeEngine()

    async def run() -> httpx.Response:
        engine.wait = asyncio.Event()
        app = app_of(engine)
        extractor = getattr(app.state, routes.STATE)
        extractor.limits = SimpleNamespace(**{**vars(extractor.limits), "timeout_s": 0})
        response = await post(app, {"prompts": ["a", "b"]})
        assert extractor.admission.prompts == 0
        return response

    assert asyncio.run(run()).status_code == 504
    assert sorted(engine.aborted) == sorted(engine.started)


def test_a_client_that_goes_away_takes_its_prompts_with_it():
    engine = FakeEngine()

    async def run() -> int:
        engine.wait = asyncio.Event()
        app = app_of(engine)
        body = json.dumps({"prompts": ["a", "b"]}).encode()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/hidden_states",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "app": app,
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await engine.entered.wait()
            return {"type": "http.disconnect"}

        response = await routes.hidden_states(Request(scope, receive))
        assert getattr(app.state, routes.STATE).admission.prompts == 0
        return response.status_code

    assert asyncio.run(run()) == 499
    assert sorted(engine.aborted) == sorted(engine.started) != []
