"""The journal of requests: one line when a request comes, one when it ends, and what ended lately.

An ASGI layer around the whole app sees arrival, status, first byte and end of every request that may compute or change
something, which is all but the reading ones. What the engine did for it (tokens, queue, first token) comes from
following the engine's own outputs, so that streams have it too. The text of a prompt is in no line unless `log_prompts`
is set.
"""

import asyncio
import contextlib
import contextvars
import json
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.plugin.held import ABORT
from serve.plugin.telemetry import request_line

REMEMBERED = 20_000
PARSED_BYTES = 1 << 20  # of larger bodies the log tells only their size
STATES_ROUTE = "/v1/hidden_states"
ROUTE_LIMIT = 200  # characters of a path that a client may have made up
SWITCHED, REFUSED_SOCKET = 101, 403  # what a WebSocket's client sees as HTTP status
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Exchange:
    """One request from its arrival; durations in seconds from there. What is not known is None."""

    request_id: str
    route: str
    arrived_s: float
    model: str | None = None
    stream: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    status: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    finish_reasons: set[str] = field(default_factory=set)
    error: str | None = None
    answered: bool = False
    seconds: float = 0.0
    ended_s: float = 0.0

    @property
    def outcome(self) -> str:
        """`ok`, `refused` (4xx), `error` (5xx, or broken off by the server) or `cancelled` (the client left)."""
        if self.status == 499 or (self.error is None and not self.answered):
            return "cancelled"
        if self.error is not None or self.status is None or self.status >= 500:
            return "error"
        return "refused" if self.status >= 400 else "ok"


class Journal:
    """The requests in work, and those that ended lately."""

    def __init__(self, *, log_prompts: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_work = 0
        self.log_prompts = log_prompts
        self.clock = clock
        self._ended: deque[Exchange] = deque(maxlen=REMEMBERED)

    def ended_since(self, since_s: float) -> list[Exchange]:
        """The requests that ended after an instant of the journal's clock, oldest first."""
        found: list[Exchange] = []
        for exchange in reversed(self._ended):
            if exchange.ended_s <= since_s:
                break
            found.append(exchange)
        return found[::-1]

    def came(self, exchange: Exchange, body_bytes: int) -> None:
        request_line(
            {"request_id": exchange.request_id, "route": exchange.route, "body_bytes": body_bytes, **exchange.asked},
            "request",
        )

    def ended(self, exchange: Exchange) -> None:
        exchange.ended_s = self.clock()
        exchange.seconds = exchange.ended_s - exchange.arrived_s
        self._ended.append(exchange)
        if exchange.route == STATES_ROUTE:
            return  # has a line of its own, with layers and pooling
        line = {
            "request_id": exchange.request_id,
            "route": exchange.route,
            "model": exchange.model,
            "status": exchange.status,
            "outcome": exchange.outcome,
            "success": exchange.outcome == "ok",
            "stream": exchange.stream,
            "prompt_tokens": exchange.prompt_tokens,
            "cached_tokens": exchange.cached_tokens,
            "output_tokens": exchange.output_tokens,
            "finish_reason": ",".join(sorted(exchange.finish_reasons)) or None,
            "queue_seconds": _rounded(exchange.queue_s),
            "first_token_seconds": _rounded(exchange.ttft_s),
            "seconds": _rounded(exchange.seconds),
            "error": exchange.error,
        }
        request_line(line, "response")


# The request that the running task works for: it is how the engine's outputs find their request.
_current: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("nbridge_request", default=None)


class RequestLog:
    """ASGI middleware around everything else, also around the check of the API key."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_kept(scope):
            await self._app(scope, receive, send)
            return
        journal = self._journal
        exchange = Exchange(_named(scope), scope["path"][:ROUTE_LIMIT], journal.clock())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                _mark(message, exchange.request_id)
            elif message["type"] == "websocket.accept":
                exchange.status, exchange.answered = SWITCHED, True
            elif message["type"] == "websocket.close" and exchange.status is None:
                exchange.status, exchange.answered = REFUSED_SOCKET, True
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                exchange.answered = True

        if abort := getattr(getattr(getattr(receive, "__self__", None), "transport", None), "abort", None):
            scope[ABORT] = abort  # uvicorn's own way to end a connection: an ASGI app has none
        receive = _Reading(receive, exchange, journal)
        token = _current.set(exchange)
        journal.in_work += 1
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            exchange.error = type(error).__name__
            raise
        finally:
            journal.in_work -= 1
            _current.reset(token)
            journal.ended(exchange)


class _Reading:
    """Passes the request's body on, and tells the journal of the request when it is complete."""

    def __init__(self, receive: Receive, exchange: Exchange, journal: Journal) -> None:
        self._receive, self._exchange, self._journal = receive, exchange, journal
        self._parts: list[bytes] = []
        self._size, self._done = 0, False

    async def __call__(self) -> Message:
        message = await self._receive()
        if not self._done and message["type"] == "http.request":
            part = message.get("body", b"")
            self._size += len(part)
            if self._size <= PARSED_BYTES:
                self._parts.append(part)
            if not message.get("more_body", False):
                self._done = True
                if self._size <= PARSED_BYTES:
                    _describe(self._exchange, b"".join(self._parts), log_prompts=self._journal.log_prompts)
                self._journal.came(self._exchange, self._size)
                self._parts.clear()
        return message


def _is_kept(scope: Scope) -> bool:
    """Whether a request is written down: it may compute or change something."""
    return scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _READING)


def follow_engine(engine: Any) -> None:
    """Let every later `engine.generate` also tell the request that it works for what came of it."""
    generate = engine.generate

    def followed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        outputs: AsyncIterator[Any] = generate(*args, **kwargs)
        exchange = _current.get()
        if exchange is None:
            return outputs
        if lora := kwargs.get("lora_request"):
            exchange.model = getattr(lora, "lora_name", exchange.model)
        return _followed(outputs, exchange)

    engine.generate = followed


async def _followed(outputs: Any, exchange: Exchange) -> AsyncIterator[Any]:
    is_first = True
    exchange.output_tokens = exchange.output_tokens or 0
    # Closed as soon as we are: that is how vLLM learns that the client left.
    async with contextlib.aclosing(outputs):
        try:
            async for output in outputs:
                _note(output, exchange, is_first)
                is_first = False
                yield output
        except Exception as error:
            exchange.error = type(error).__name__
            raise


def _note(output: Any, exchange: Exchange, is_first: bool) -> None:
    """Add one of the engine's outputs; each carries the tokens that are new since the last."""
    if is_first:
        exchange.prompt_tokens = (exchange.prompt_tokens or 0) + len(output.prompt_token_ids or ())
        exchange.cached_tokens = (exchange.cached_tokens or 0) + (output.num_cached_tokens or 0)
        stats = output.metrics
        if exchange.ttft_s is None and stats is not None:  # a completion of several prompts tells of the first
            exchange.ttft_s = getattr(stats, "first_token_latency", None) or None
            queued_s, scheduled_s = getattr(stats, "queued_ts", 0.0), getattr(stats, "scheduled_ts", 0.0)
            exchange.queue_s = scheduled_s - queued_s if scheduled_s and queued_s else None
    for part in output.outputs:
        exchange.output_tokens = (exchange.output_tokens or 0) + len(part.token_ids)
        if part.finish_reason:
            exchange.finish_reasons.add(str(part.finish_reason))


def _describe(exchange: Exchange, body: bytes, *, log_prompts: bool) -> None:
    """What the request asks for, as far as its body is a JSON object; a bad one is refused elsewhere."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    model = document.get("model")
    exchange.model = model[:200] if isinstance(model, str) else None
    exchange.stream = document.get("stream") is True
    asked: dict[str, Any] = {"model": exchange.model, "stream": exchange.stream}
    for name in ("max_tokens", "max_completion_tokens", "temperature", "n"):
        if isinstance(document.get(name), int | float):
            asked[name] = document[name]
    prompt = next((document[name] for name in ("prompt", "prompts", "input") if document.get(name) is not None), None)
    texts = [prompt] if isinstance(prompt, str) else prompt if isinstance(prompt, list) else []
    if prompt is not None:
        asked["prompt_count"] = 1 if texts and isinstance(texts[0], int) else len(texts)
        if texts and all(isinstance(text, str) for text in texts):
            asked["mean_prompt_characters"] = round(sum(map(len, texts)) / len(texts), 1)
    if isinstance(document.get("messages"), list):
        asked["message_count"] = len(document["messages"])
    if log_prompts:
        asked["text"] = prompt if prompt is not None else document.get("messages")
    exchange.asked = {name: value for name, value in asked.items() if value is not None}


def _named(scope: Scope) -> str:
    """The request's id: the client's, or a new one, which vLLM then also uses in its own ids."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    made = f"{'hs' if scope['path'] == STATES_ROUTE else 'req'}-{uuid.uuid4().hex}"
    kept = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
    scope["headers"] = [*kept, (b"x-request-id", made.encode())]
    return made


def _mark(start: Message, request_id: str) -> None:
    if not any(name.lower() == b"x-request-id" for name, _ in start.get("headers", ())):
        start["headers"] = [*start.get("headers", ()), (b"x-request-id", request_id.encode())]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
