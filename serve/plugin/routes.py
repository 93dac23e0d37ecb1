"""The HTTP handlers of the plugin: what a request is, how long it may live, and how it is answered and logged."""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve.hidden_states import answer
from serve.hidden_states.admission import SMALL_VALUES
from serve.hidden_states.extraction import Extractor
from serve.hidden_states.protocol import ApiError, Encoding
from serve.hidden_states.request import Ask, parse
from serve.plugin.engine_health import Vitals
from serve.plugin.held import END, Held
from serve.plugin.telemetry import IN_FLIGHT, RequestRecord

STATE = "nbridge_hidden_states"
VITALS = "nbridge_vitals"
ROUTE = "/v1/hidden_states"
# A body of more bytes is read in a thread, so that no other request waits for it.
INLINE_BYTES = 1 << 16
# A client that sends too large a body gets to read the answer only if its body is read; for so many times the limit.
DRAIN_FACTOR = 8
CLIENT_GONE = 499

_log = logging.getLogger("vllm.nbridge.routes")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class _ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


def extractor_of(request: Request) -> Extractor:
    extractor: Extractor = getattr(request.app.state, STATE)
    return extractor


async def hidden_states(raw_request: Request) -> Response:
    """The hidden states of prompts, at any layers, pooled or of every token."""

    async def work(record: RequestRecord, held: ExitStack) -> Response:
        extractor = extractor_of(raw_request)
        body = await _body(raw_request, extractor.limits.max_body_bytes)
        ask = _ask(body, extractor) if len(body) <= INLINE_BYTES else await asyncio.to_thread(_ask, body, extractor)
        record.pooling, record.layers = ask.pooling, [layer.layer for layer in ask.layers]
        record.model = ask.model or extractor.model.name
        return await unless_gone(raw_request, _answer(extractor, ask, record, raw_request, held))

    return await answered(raw_request, ROUTE, work)


async def health(raw_request: Request, vllm_health: Callable[[Request], Awaitable[Response]]) -> Response:
    """vLLM's own verdict as the HTTP status, with a body that says what is served and whether the engine lives."""
    http_status = await _verdict(raw_request, vllm_health)
    model = extractor_of(raw_request).model
    states = model.describe()
    vitals: Vitals | None = getattr(raw_request.app.state, VITALS, None)
    status, reasons = "healthy", []
    if http_status != 200:
        status, reasons = "unhealthy", ["vLLM says that its engine has failed."]
    elif vitals is not None and (hang := vitals.hang):
        status, reasons = "unhealthy", [hang]
    elif states["mode"] == "off":
        status, reasons = "degraded", [f"No hidden states: {model.reason}."]
    document = {
        "status": status,
        **({"reasons": reasons} if reasons else {}),
        "model": model.name,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
        "hidden_states": states,
    }
    return JSONResponse(document, status_code=http_status)


async def health_detail(raw_request: Request, vllm_health: Callable[[Request], Awaitable[Response]]) -> Response:
    """The verdict on this server with its reasons and figures; HTTP 503 when it is unhealthy."""
    vitals: Vitals = getattr(raw_request.app.state, VITALS)
    verdict = await vitals.examine(await _verdict(raw_request, vllm_health))
    return JSONResponse(verdict.document(), status_code=503 if verdict.status == "unhealthy" else 200)


async def health_live(raw_request: Request, vllm_health: Callable[[Request], Awaitable[Response]]) -> Response:
    """Whether a restart is called for: HTTP 503 when the engine has failed or hangs, 200 however busy it is."""
    http_status = await _verdict(raw_request, vllm_health)
    vitals: Vitals | None = getattr(raw_request.app.state, VITALS, None)
    hang = vitals.hang if vitals is not None else None
    reason = "vLLM says that its engine has failed." if http_status != 200 else hang
    if reason is None:
        return JSONResponse({"status": "alive"})
    return JSONResponse({"status": "unhealthy", "reasons": [reason]}, status_code=503)


async def _verdict(raw_request: Request, vllm_health: Callable[[Request], Awaitable[Response]]) -> int:
    try:
        return (await vllm_health(raw_request)).status_code
    except Exception:  # noqa: BLE001 - a check that fails is an answer, not an error of the server
        _log.exception("vLLM's health check failed")
        return 503


@dataclass
class _End:
    """How a request has ended, written down once: when its answer is written, or will not be."""

    record: RequestRecord
    started_s: float
    status: int = CLIENT_GONE
    param: str | None = None

    def write_down(self) -> None:
        self.record.log(seconds=time.perf_counter() - self.started_s, status=self.status, param=self.param)

    def is_cut(self) -> None:
        self.status = CLIENT_GONE


async def answered(
    raw_request: Request, route: str, work: Callable[[RequestRecord, ExitStack], Awaitable[Response]]
) -> Response:
    """The response of `work`, or its error in OpenAI's shape; counted, logged and marked with the request's id.

    What `work` enters into its stack is left when the response has been written, or cannot be.
    """
    given = raw_request.headers.get("x-request-id", "")
    record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else f"hs-{uuid.uuid4().hex}", route)
    end = _End(record, time.perf_counter())
    response = Response(status_code=CLIENT_GONE)
    with ExitStack() as held:
        held.callback(end.write_down)  # also when the server itself cancels the request
        held.enter_context(IN_FLIGHT.track_inprogress())
        try:
            response = await work(record, held)
        except (_ClientGone, ClientDisconnect):
            pass
        except ApiError as error:
            response, end.param = error_response(error, record.request_id), error.param
        except Exception:  # noqa: BLE001 - whatever happened, the client gets an answer in the one shape
            _log.exception("Request %s failed", record.request_id)
            response = error_response(ApiError(500, "The server failed; its log has the reason."), record.request_id)
        end.status = response.status_code
        if isinstance(response, Held):
            response.held, response.cut = held.pop_all(), end.is_cut
    response.headers["X-Request-Id"] = record.request_id
    return response


def error_response(error: ApiError, request_id: str) -> Response:
    response = JSONResponse(error.document(request_id), status_code=error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


async def unless_gone(raw_request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`, which is cancelled when the client closes the connection; its body must have been read."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(raw_request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _ClientGone
    finally:
        for unfinished in (task, gone):
            unfinished.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def written(document: dict[str, Any], states: Any, *, encoding: Encoding = "float", stall_s: float) -> Held:
    """The response with `document` and `states` (see answer.pieces): a small one whole, a large one piece by piece."""
    arrays: Sequence[answer.States] = (states,) if isinstance(states, np.ndarray) else states
    pieces = answer.pieces(document, states, encoding)
    if sum(array.size for array in arrays) > SMALL_VALUES:
        return Held(answer.in_threads(pieces), stall_s=stall_s)
    body = b"".join(pieces)
    return Held(answer.at_once(body), stall_s=stall_s, headers={"Content-Length": str(len(body) + len(END))})


def _ask(body: bytes, extractor: Extractor) -> Ask:
    """The valid request that a body holds. Raises ApiError 400 or 413."""
    try:
        document = json.loads(body)
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
    except ValueError as error:
        raise ApiError(400, f"The body is no valid JSON: {error}") from None
    return parse(document, num_layers=extractor.model.num_layers, max_prompts=extractor.limits.max_prompts)


async def _answer(
    extractor: Extractor, ask: Ask, record: RequestRecord, raw_request: Request, held: ExitStack
) -> Response:
    adapter = extractor.adapter(ask.model)
    extractor.check_layers(ask.layers, "layer" if ask.one_layer else "layers")
    held.enter_context(extractor.admission.place(len(ask.prompts) + len(ask.chats), ask.field))
    prompts = await extractor.tokens(ask, raw_request)
    lengths = record.prompt_tokens = [len(ids) for ids in prompts]
    found = await extractor.states(
        prompts, ask.layers, ask.pooling, held=held, adapter=adapter, field=ask.field, request_id=record.request_id
    )
    states = [array[0] for array in found] if ask.one_layer else found
    document = {
        "object": "hidden_states",
        "id": record.request_id,
        "model": record.model,
        "layer": ask.asked,
        "layers": [layer.document() for layer in ask.layers],
        "pooling": ask.pooling,
        "encoding_format": ask.encoding,
        "prompt_tokens": lengths,
        "metadata": {
            "num_prompts": len(prompts),
            "hidden_size": extractor.model.hidden_size,
            "dtype": extractor.model.dtype,
            "proof": [layer.proof for layer in ask.layers],
        },
        "usage": {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)},
        "shapes": [list(array.shape) for array in states],
    }
    return written(document, states, encoding=ask.encoding, stall_s=extractor.limits.timeout_s)


async def _body(request: Request, max_body_bytes: int) -> bytes:
    """The request's body, said to be JSON. Raises ApiError 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"The content type must be application/json, not {kind[:64]!r}.")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_body_bytes:
            chunks.append(chunk)
        elif size > DRAIN_FACTOR * max_body_bytes:
            break
    if size > max_body_bytes:
        raise ApiError(413, f"The body has {size} bytes or more; this server reads {max_body_bytes} at most.")
    return b"".join(chunks)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
