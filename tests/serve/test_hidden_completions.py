"""`/v1/completions` with `output_hidden_states`, over a fake engine."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fake_states_engine import FakeEngine, app_of
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve.plugin.held import Held

pytestmark = pytest.mark.xdist_group("vllm imported")  # into this process, which takes ten seconds


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
