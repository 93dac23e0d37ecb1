"""Providers that are none: a server over a real socket which answers in the dialect that a model's name asks for."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from waiting import wait_for

KEY = "sk-of-the-cloud-7c1e"
WORDS = ("one ", "two ", "three ")
OPENAI = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
CACHED = OPENAI | {"prompt_tokens_details": {"cached_tokens": 400}}
ANTHROPIC = {"input_tokens": 600, "cache_read_input_tokens": 400, "output_tokens": 100}
FILTER = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
# Errors as providers word them: status, body.
ERRORS: dict[str, tuple[int, Any]] = {
    "wrong-key": (401, {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}),
    "no-credit": (402, {"error": {"message": "Insufficient credits", "code": 402}}),
    "no-model": (404, {"error": {"message": "The model does not exist", "code": "model_not_found"}}),
    "too-many": (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}}),
    "bad": (400, [{"error": {"code": 400, "message": "max_tokens is too large", "status": "INVALID_ARGUMENT"}}]),
    "overloaded": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
}


class Provider:
    """What was asked of it: bodies, headers, queries; how many streams were left by their reader."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        self.paths: list[str] = []
        self.left = 0
        self.url = ""

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.queries.append(str(request.url.query))
        self.paths.append(request.url.path)
        model = body["model"]
        if model in ERRORS:
            status, said = ERRORS[model]
            return JSONResponse(said, status, {"retry-after": "7"} if status == 429 else None)
        if model == "html":
            return PlainTextResponse("<html>Bad gateway</html>", 502)
        if model == "slow":
            await asyncio.sleep(1.5)
        if request.url.path.endswith("embeddings"):
            return JSONResponse({"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}})
        if body.get("stream"):
            return StreamingResponse(self.stream(model, body), media_type="text/event-stream")
        usage = {"silent": None, "anthropic": ANTHROPIC, "openrouter": OPENAI | {"cost": 0.5}}.get(model, CACHED)
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
        return JSONResponse({"id": "c1", "choices": [choice], **({"usage": usage} if usage else {})})

    async def stream(self, model: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        wants = bool((body.get("stream_options") or {}).get("include_usage"))
        gap = "\r\n\r\n" if model == "openrouter" else "\n\n"

        def event(document: object) -> bytes:
            return f"data: {json.dumps(document)}{gap}".encode()

        if model == "azure":
            yield event(FILTER)
        if model == "openrouter":
            yield b": OPENROUTER PROCESSING\r\n\r\n"
        if model == "anthropic":
            yield event({"message": {"usage": {**ANTHROPIC, "output_tokens": 1}}})
        try:
            for number, word in enumerate(WORDS * (1000 if model == "endless" else 1)):
                if model == "cut" and number == 2:
                    raise ConnectionError
                yield event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
                if model == "endless":
                    await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left += 1
            raise
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if model == "openrouter":
            last |= {"usage": OPENAI | {"cost": 0.5}}
        if model == "groq":
            last |= {"x_groq": {"usage": OPENAI}}
        yield event(last)
        if model == "anthropic":
            yield event({"usage": {"output_tokens": 100}})
        if wants and model not in ("openrouter", "anthropic", "groq", "silent", "no-done", "endless"):
            yield event({"choices": [], "usage": CACHED})
        if model != "no-done":
            yield f"data: [DONE]{gap}".encode()


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider that listens on this machine."""
    one = Provider()
    app = Starlette(routes=[Route("/{path:path}", one.answer, methods=["POST"])])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        one.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        wait_for(lambda: server.started, 20)
        try:
            yield one
        finally:
            server.force_exit = server.should_exit = True
            thread.join()
