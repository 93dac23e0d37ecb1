"""The handlers of /v1/hidden_states, /v1/completions and /health over a fake engine: limits, failures, disconnects."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve.hidden_states.admission import Admission
from serve.hidden_states.capture import HOLE, failure
from serve.hidden_states.extraction import Extractor, Model
from serve.hidden_states.limits import Limits
from serve.hidden_states.protocol import KEY
from serve.plugin import routes
from serve.plugin.held import Held
from serve.plugin.telemetry import logger

MODEL = Model(
    name="tiny", num_layers=4, hidden_size=2, dtype="float32", max_model_len=16, vocabulary=100, mode="dynamic"
)


class FakeEngine:
    """Answers each prompt with a row of [first token, tap] per tap, unless told to wait or to fail."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.aborted: list[str] = []
        self.wait: asyncio.Event | None = None
        self.answer: Callable[[dict[str, Any], dict[str, Any]], torch.Tensor] = self.states
        self.entered = asyncio.Event()

    @staticmethod
    def states(prompt: dict[str, Any], wish: dict[str, Any]) -> torch.Tensor:
        ids = prompt["prompt_token_ids"]
        rows = torch.tensor([[float(ids[0]), float(tap)] for tap in wish["taps"]])
        return rows if wish["pooling"] != "all" else rows[:, None, :].expand(-1, len(ids), -1)

    async def encode(self, prompt: Any, params: Any, request_id: str, lora_request: Any = None) -> AsyncIterator[Any]:
        self.started.append(request_id)
        self.entered.set()
        try:
            if self.wait is not None:
                await self.wait.wait()
            data = self.answer(prompt, params.extra_args[KEY])
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        assert params.max_tokens == 1
        assert (params.skip_reading_prefix_cache is True) == (params.extra_args[KEY]["pooling"] != "last")
        yield SimpleNamespace(finished=True, outputs=SimpleNamespace(data=data))


class FakeTokenization:
    """One token per character: its code modulo 100; a chat is its contents in a row, and one token more to answer."""

    longest = 0

    async def create_tokenize(self, request: Any, raw_request: Request) -> Any:
        if hasattr(request, "messages"):
            text = "".join(message["content"] for message in request.messages)
            text += "#" if request.add_generation_prompt else ""
        else:
            text = request.prompt
        if "ü" in text:
            raise ValueError("no ü here")
        self.longest = max(self.longest, len(text))
        limit = request.build_tok_params(SimpleNamespace(max_model_len=MODEL.max_model_len)).max_total_tokens
        if len(text) > limit:
            error = ValueError(f"This prompt has {len(text)} tokens (parameter=input_tokens, value={len(text)})")
            error.parameter = "input_tokens"  # type: ignore[attr-defined]
            raise error
        return SimpleNamespace(tokens=[ord(letter) % 100 for letter in text])


class FakeModels:
    def __init__(self) -> None:
        self.lora_requests = {"adapter": "its LoRA request"}

    def is_base_model(self, name: str) -> bool:
        return name == "tiny"


def app_of(engine: FakeEngine, *, model: Model = MODEL, **limits: int) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/v1/hidden_states", routes.hidden_states, methods=["POST"])
    extractor = Extractor(engine, model, Limits(**limits), models=FakeModels(), tokenization=FakeTokenization())
    setattr(app.state, routes.STATE, extractor)
    return app


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fake")


async def post(app: Any, document: Any, **options: Any) -> httpx.Response:
    async with client_of(app) as client:
        return await client.post("/v1/hidden_states", json=document, **options)


def ask(document: Any, engine: FakeEngine | None = None, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        return await post(app_of(engine or FakeEngine(), **options), document)

    return asyncio.run(run())


def test_an_answer_has_the_guides_fields_and_ours():
    response = ask({"prompts": ["ab", "c"]})
    document = response.json()
    request_id = response.headers["x-request-id"]
    assert document == {
        "object": "hidden_states",
        "id": request_id,
        "model": "tiny",
        "layer": -2,
        "layers": [{"layer": 2, "hf_index": 3}],
        "pooling": "last",
        "encoding_format": "float",
        "prompt_tokens": [2, 1],
        "metadata": {"num_prompts": 2, "hidden_size": 2, "dtype": "float32", "proof": ["next_block"]},
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "shapes": [[2], [2]],
        "hidden_states": [[97.0, 3.0], [99.0, 3.0]],
    }


def test_several_layers_and_all_tokens_add_an_axis_each():
    document = ask({"prompts": [[7, 8, 9]], "layers": [0, "embeddings"]}).json()
    assert document["hidden_states"] == [[[7.0, 1.0], [7.0, 0.0]]]
    document = ask({"prompts": [7, 8, 9], "layers": [0, "embeddings"], "pooling": "all"}).json()
    assert document["hidden_states"] == [[[[7.0, 1.0]] * 3, [[7.0, 0.0]] * 3]]
    assert document["shapes"] == [[2, 3, 2]]


def test_chats_are_rendered_with_and_without_the_place_to_answer():
    chat = [{"role": "user", "content": "ab"}]
    assert ask({"messages": chat}).json()["prompt_tokens"] == [3]
    assert ask({"messages": chat, "add_generation_prompt": False}).json()["prompt_tokens"] == [2]


@pytest.mark.parametrize(
    ("document", "status", "param"),
    [
        ({"prompts": ["a", ""]}, 400, "prompts[1]"),
        ({"prompts": ["a" * 16]}, 400, "prompts[0]"),
        ({"prompts": [[1], [100]]}, 400, "prompts[1]"),
        ({"prompts": ["für"]}, 400, "prompts[0]"),
        ({"prompts": "a", "model": "other"}, 404, "model"),
        ({"prompts": "a", "layer": 9}, 400, "layer"),
        ({"prompts": ["a"] * 5}, 413, "prompts"),
        ({"prompts": [[1] * 15] * 4, "pooling": "all", "layers": "all"}, 413, "pooling"),
    ],
)
def test_bad_requests_never_reach_the_engine(document: Any, status: int, param: str):
    engine = FakeEngine()
    response = ask(document, engine, max_prompts=4, max_values=100)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, status)
    assert error["request_id"] == response.headers["x-request-id"]
    assert not engine.started


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"prompts": ["ab", "a" * 100_000]}, "prompts[1]"),
        ({"messages": [{"role": "user", "content": "a" * 100_000}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 100_000}]}]}, "messages[0]"),
    ],
)
def test_of_a_text_much_too_long_only_the_beginning_is_tokenized(document: Any, name: str):
    app = app_of(FakeEngine())
    response = asyncio.run(post(app, document))
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert response.json()["error"]["message"] == f"{name}: This prompt has 128 tokens"
    assert getattr(app.state, routes.STATE)._tokenization.longest == 128  # 8 characters for each of 16 tokens


def test_an_adapter_is_a_model_too():
    assert ask({"prompts": "a", "model": "adapter"}).json()["model"] == "adapter"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff{}", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"", "application/json", 400),
        (b'{"prompts": "a"}', "text/plain", 415),
        (b'{"prompts": "' + b"a" * 2000 + b'"}', "application/json", 413),
        (b'{"prompts": "' + b"a" * 20000 + b'"}', "application/json; charset=utf-8", 413),
    ],
)
def test_a_body_that_is_no_request(content: bytes, kind: str, status: int):
    async def run() -> httpx.Response:
        limit = 1 << 20 if b"[[" in content else 1000  # that one is to be parsed
        async with client_of(app_of(FakeEngine(), max_body_bytes=limit)) as client:
            return await client.post("/v1/hidden_states", content=content, headers={"content-type": kind})

    response = asyncio.run(run())
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code", "request_id"}


def test_a_failed_capture_is_an_error_and_never_zeros():
    engine = FakeEngine()
    engine.answer = lambda prompt, wish: failure(HOLE)
    response = ask({"prompts": "a"}, engine)
    assert response.status_code == 500
    assert "never computed" in response.json()["error"]["message"]


def test_a_state_that_is_not_finite_is_an_error():
    engine = FakeEngine()
    engine.answer = lambda prompt, wish: torch.full((1, 2), float("nan"))
    response = ask({"prompts": "a"}, engine)
    assert response.status_code == 500
    assert "not finite" in response.json()["error"]["message"]


def test_failures_of_the_engine_have_a_status_each():
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    for problem, status in [(EngineDeadError(), 503), (EngineGenerateError(), 500), (ValueError("too long"), 400)]:
        engine = FakeEngine()

        def fail(prompt: Any, wish: Any, problem: Exception = problem) -> torch.Tensor:
            raise problem

        engine.answer = fail
        assert ask({"prompts": ["a", "b"]}, engine).status_code == status


def test_one_prompt_that_fails_aborts_the_others():
    engine = FakeEngine()

    async def run() -> httpx.Response:
        engine.wait = asyncio.Event()
        never = engine.wait.wait

        async def wait() -> Any:
            if len(engine.started) == 3:
                raise ValueError("no")
            return await never()

        engine.wait.wait = wait  # type: ignore[method-assign]
        return await post(app_of(engine), {"prompts": ["a", "b", "c"]})

    assert asyncio.run(run()).status_code == 400
    assert len(engine.started) == 3
    assert len(engine.aborted) == 2


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


def large(tokens: int = 15) -> dict[str, Any]:
    """A request for `tokens` × 4,096 values: with 15 tokens more than a small answer."""
    return {"prompts": [[1] * tokens], "pooling": "all", "layer": 0}


WIDE = Model(**{**vars(MODEL), "hidden_size": 4096})


def wide_engine() -> FakeEngine:
    engine = FakeEngine()
    engine.answer = lambda prompt, wish: torch.ones(1, len(prompt["prompt_token_ids"]), 4096)
    return engine


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


def test_a_server_without_states_says_why():
    off = Model(**{**vars(MODEL), "mode": "off", "reason": "vLLM runs without our worker"})
    response = ask({"prompts": "a"}, model=off)
    assert response.status_code == 501
    assert "without our worker" in response.json()["error"]["message"]


def test_a_compiled_server_names_the_layer_it_has_not():
    compiled = Model(**{**vars(MODEL), "mode": "compiled", "taps": (3,)})
    assert ask({"prompts": "a", "layers": [-2, "final_norm"]}, model=compiled).status_code == 200
    response = ask({"prompts": "a", "layers": [-2, 0]}, model=compiled)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "layers")
    assert "Layer 0 is not compiled in" in response.json()["error"]["message"]
    assert compiled.describe() == {"mode": "compiled", "layers": [2, "final_norm"]}


def test_the_log_has_a_line_per_request_without_its_text(caplog: pytest.LogCaptureFixture):
    secret = "tell nobody"
    with caplog.at_level(logging.INFO, logger.name):

        async def run() -> None:
            app = app_of(FakeEngine())
            await post(app, {"prompts": [secret, "a"]}, headers={"X-Request-Id": "mine-1"})
            await post(app, {"prompts": [secret], "layer": 9}, headers={"X-Request-Id": "not a valid id"})

        logger.propagate = True
        asyncio.run(run())
    lines = [json.loads(record.message) for record in caplog.records if record.name == logger.name]
    assert lines[0] | {"timestamp": "", "seconds": 0} == {
        "event": "hidden_states",
        "timestamp": "",
        "request_id": "mine-1",
        "route": "/v1/hidden_states",
        "model": "tiny",
        "prompt_count": 2,
        "mean_prompt_tokens": 6.0,
        "layers": [2],
        "pooling": "last",
        "seconds": 0,
        "success": True,
        "status": 200,
    }
    assert (lines[1]["success"], lines[1]["status"], lines[1]["param"]) == (False, 400, "layer")
    assert lines[1]["request_id"].startswith("hs-")
    assert secret not in caplog.text


def test_requests_are_counted_by_outcome():
    def count(outcome: str) -> float:
        labels = {"pooling": "mean", "outcome": outcome}
        return REGISTRY.get_sample_value("nbridge_hidden_states_requests_total", labels) or 0.0

    tokens = "nbridge_hidden_states_prompt_tokens_total"
    before = count("ok"), count("refused"), REGISTRY.get_sample_value(tokens) or 0.0
    ask({"prompts": "abc", "pooling": "mean"})
    ask({"prompts": "abc", "pooling": "mean", "model": "other"})
    after = count("ok"), count("refused"), REGISTRY.get_sample_value(tokens) or 0.0
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 3]
    assert REGISTRY.get_sample_value("nbridge_hidden_states_in_flight") == 0


def completion(request: Any, wanted: dict[str, Any]) -> Any:
    return SimpleNamespace(
        model_extra=wanted, prompt=request, stream=False, model=None, add_special_tokens=True, prompt_embeds=None
    )


def complete(text: Any, wanted: dict[str, Any], engine: FakeEngine | None = None, **changes: Any) -> Response:
    from serve.plugin import completions

    async def run() -> Response:
        app = app_of(engine or FakeEngine())

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        request = completion(text, wanted)
        vars(request).update(changes)
        raw = Request({"type": "http", "headers": [], "app": app}, receive)

        async def vllm(request: Any, raw_request: Request) -> Response:
            return JSONResponse({"choices": [{"text": "!"}]})

        assert completions.wants_states(request)
        response = await completions.with_states(request, raw, vllm)
        if isinstance(response, Held):
            parts = [part async for part in response.body_iterator]
            response.held.close()
            return Response(b"".join(parts))
        return response

    return asyncio.run(run())


def test_a_completion_carries_a_vector_or_one_per_prompt():
    wanted = {"output_hidden_states": True, "hidden_state_layer": 0}
    document = json.loads(complete("ab", wanted).body)
    assert document == {"choices": [{"text": "!"}], "hidden_states": [97.0, 1.0], "hidden_state_layer": 0}
    assert json.loads(complete([5, 6], wanted).body)["hidden_states"] == [5.0, 1.0]
    assert json.loads(complete(["ab"], wanted).body)["hidden_states"] == [[97.0, 1.0]]
    camel = {"outputHiddenStates": True}
    assert json.loads(complete([[5], [6]], camel).body)["hidden_states"] == [[5.0, 3.0], [6.0, 3.0]]


@pytest.mark.parametrize(
    ("wanted", "changes", "param"),
    [
        ({"output_hidden_states": True}, {"stream": True}, "output_hidden_states"),
        ({"output_hidden_states": "yes"}, {}, "output_hidden_states"),
        ({"output_hidden_states": True, "hidden_state_layer": 7}, {}, "hidden_state_layer"),
        ({"output_hidden_states": True, "hidden_state_layer": [1]}, {}, "hidden_state_layer"),
        ({"output_hidden_states": True}, {"prompt": []}, "prompt"),
        ({"output_hidden_states": True}, {"prompt": ["a", ""]}, "prompt[1]"),
        ({"output_hidden_states": True}, {"prompt_embeds": "…"}, "prompt_embeds"),
    ],
)
def test_a_completion_that_cannot_carry_states_is_refused_before_it_is_made(
    wanted: dict[str, Any], changes: dict[str, Any], param: str
):
    engine = FakeEngine()
    response = complete("ab", wanted, engine, **changes)
    assert (response.status_code, json.loads(response.body)["error"]["param"]) == (400, param)
    assert not engine.started


def test_an_ordinary_completion_is_left_alone():
    from serve.plugin import completions

    for extra in (None, {}, {"output_hidden_states": False}, {"something": 1}):
        assert not completions.wants_states(completion("a", extra))  # type: ignore[arg-type]


def health(verdict: Callable[[], Response], model: Model = MODEL) -> Response:
    async def run() -> Response:
        async def vllm(raw_request: Request) -> Response:
            return verdict()

        return await routes.health(
            Request({"type": "http", "headers": [], "app": app_of(FakeEngine(), model=model)}), vllm
        )

    return asyncio.run(run())


def test_health_has_vllms_status_and_the_guides_body():
    response = health(lambda: Response(status_code=200))
    assert response.status_code == 200
    assert json.loads(response.body) == {
        "status": "healthy",
        "model": "tiny",
        "num_layers": 4,
        "hidden_size": 2,
        "dtype": "float32",
        "max_model_len": 16,
        "hidden_states": {"mode": "dynamic", "layers": "all"},
    }

    def broken() -> Response:
        raise RuntimeError("the check itself failed")

    for verdict in (lambda: Response(status_code=503), broken):
        response = health(verdict)
        assert (response.status_code, json.loads(response.body)["status"]) == (503, "unhealthy")
    off = Model(**{**vars(MODEL), "mode": "off", "reason": "because"})
    response = health(lambda: Response(status_code=200), off)
    assert (response.status_code, json.loads(response.body)["status"]) == (200, "degraded")
    assert json.loads(response.body)["hidden_states"] == {"mode": "off", "layers": [], "reason": "because"}
