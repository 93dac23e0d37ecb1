"""Gives vLLM's one error without OpenAI's shape, its answer to a wrong API key, that shape."""

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNAUTHORIZED = {
    "error": {
        "message": "The API key is missing or wrong: send the header 'Authorization: Bearer <key>'.",
        "type": "AuthenticationError",
        "param": None,
        "code": 401,
    }
}


class ErrorShape:
    """ASGI middleware around vLLM's own: an unshaped 401 gets a shaped body, all else passes untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: Message | None = None

        async def shaped(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] == 401:
                held = message
                return
            if held is not None and message["type"] == "http.response.body":
                start, held = held, None
                message = _shaped_body(start, message)
                await send(start)
            await send(message)

        await self._app(scope, receive, shaped)


def _shaped_body(start: Message, message: Message) -> Message:
    if message.get("more_body") or _has_shape(message.get("body", b"")):
        return message
    body = json.dumps(_UNAUTHORIZED).encode()
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
    return {"type": "http.response.body", "body": body}


def _has_shape(body: bytes) -> bool:
    try:
        document: Any = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), dict)
