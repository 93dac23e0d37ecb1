"""The handlers of /v1/hidden_states and /health over a fake engine: answers, refusals, failures, log and counts."""

import asyncio
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from fake_states_engine import MODEL, FakeEngine, app_of, ask, client_of, post
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from serve.hidden_states.capture import HOLE, failure
from serve.hidden_states.extraction import Model
from serve.plugin import routes
from serve.plugin.telemetry import logger

pytestmark = pytest.mark.xdist_group("vllm imported")  # into this process, which takes ten seconds


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


def test_liveness_is_503_only_for_what_a_restart_mends():
    def live(status: int, hang: str | None) -> Response:
        app = app_of(FakeEngine())
        setattr(app.state, routes.VITALS, SimpleNamespace(hang=hang))

        async def vllm(raw_request: Request) -> Response:
            return Response(status_code=status)

        return asyncio.run(routes.health_live(Request({"type": "http", "headers": [], "app": app}), vllm))

    assert live(200, None).status_code == 200
    assert json.loads(live(200, "no step in 14 s").body) == {"status": "unhealthy", "reasons": ["no step in 14 s"]}
    assert (live(200, "no step in 14 s").status_code, live(503, None).status_code) == (503, 503)
