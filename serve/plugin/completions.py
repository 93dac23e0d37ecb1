"""`POST /v1/completions` with the deployment guide's `output_hidden_states`: vLLM's own answer plus the states."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve.hidden_states.answer import States
from serve.hidden_states.extraction import Extractor
from serve.hidden_states.protocol import DEFAULT_LAYER, ApiError, resolve
from serve.hidden_states.request import Ask, parse
from serve.plugin.routes import answered, extractor_of, unless_gone, written
from serve.plugin.telemetry import RequestRecord

ROUTE = "/v1/completions"
_WANTED = ("output_hidden_states", "outputHiddenStates")
_LAYER = ("hidden_state_layer", "hiddenStateLayer")


def wants_states(request: Any) -> bool:
    """Whether a parsed vLLM completion request carries `output_hidden_states`; vLLM keeps fields it does not know."""
    extra = request.model_extra
    return bool(extra) and any(extra.get(name) not in (None, False) for name in _WANTED)


async def with_states(
    request: Any, raw_request: Request, complete: Callable[[Any, Request], Awaitable[Response | None]]
) -> Response:
    """vLLM's completion with `hidden_states` of each prompt's last token: one vector, or one per prompt of a list.

    The states come first: what they refuse is refused before anything is generated, and they leave the prompt in the
    prefix cache for the completion.
    """

    async def work(record: RequestRecord, held: ExitStack) -> Response:
        extractor = extractor_of(raw_request)
        layer, ask = await asyncio.to_thread(_ask, request, extractor)
        record.model, record.layers = ask.model or extractor.model.name, [ask.layers[0].layer]
        vectors: list[States] = []

        async def capture() -> Response:
            adapter = extractor.adapter(ask.model)
            extractor.check_layers(ask.layers, "hidden_state_layer")
            held.enter_context(extractor.admission.place(len(ask.prompts), "prompt"))
            prompts = await extractor.tokens(ask, raw_request)
            record.prompt_tokens = [len(ids) for ids in prompts]
            states = await extractor.states(
                prompts, ask.layers, "last", held=held, adapter=adapter, field="prompt", request_id=record.request_id
            )
            vectors.extend(array[0] for array in states)
            return Response()

        await unless_gone(raw_request, capture())
        response = await complete(request, raw_request)
        if response is None:
            return Response(status_code=499)
        if response.status_code != 200:
            return response
        document = json.loads(bytes(response.body)) | {"hidden_state_layer": layer}
        states = vectors[0] if _is_single(request.prompt) else vectors
        return written(document, states, stall_s=extractor.limits.timeout_s)

    return await answered(raw_request, ROUTE, work)


def _ask(request: Any, extractor: Extractor) -> tuple[Any, Ask]:
    """The layer as asked for, and the prompts as a request for states. Raises ApiError 400 or 413."""
    extra = request.model_extra
    flag = next(extra[name] for name in _WANTED if extra.get(name) is not None)
    if flag is not True:
        raise ApiError(400, "output_hidden_states must be true or false.", "output_hidden_states")
    if request.stream:
        raise ApiError(400, "output_hidden_states does not go with stream = true.", "output_hidden_states")
    if getattr(request, "prompt_embeds", None) is not None:
        raise ApiError(400, "output_hidden_states does not go with prompt_embeds.", "prompt_embeds")
    if getattr(request, "truncate_prompt_tokens", None) is not None:
        raise ApiError(400, "output_hidden_states does not go with truncate_prompt_tokens.", "truncate_prompt_tokens")
    asked = next((extra[name] for name in _LAYER if extra.get(name) is not None), DEFAULT_LAYER)
    layer = resolve(asked, extractor.model.num_layers, "hidden_state_layer")
    document = {
        "prompts": request.prompt,
        "model": request.model,
        "add_special_tokens": getattr(request, "add_special_tokens", True),
        "layers": [layer.layer],
    }
    try:
        ask = parse(document, num_layers=extractor.model.num_layers, max_prompts=extractor.limits.max_prompts)
    except ApiError as error:
        raise ApiError(error.status, error.message.replace("prompts", "prompt", 1), "prompt") from None
    return asked, replace(ask, field="prompt")


def _is_single(prompt: Any) -> bool:
    return isinstance(prompt, str) or isinstance(prompt[0], int)
