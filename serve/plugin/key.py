"""The API key for the whole server: every route asks for it, but the few that only say how the server is.

vLLM's own check knows some path prefixes and leaves all else open, /invocations with the same inference among it
(vllm-project/vllm#58144; its security guide lists what is open). Here the list is of the open routes, so that what a
later vLLM adds is closed.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import SettingsError

KEY_VARIABLE = "VLLM_API_KEY"
# What probes and monitoring ask. They compute nothing, change nothing and tell no prompt.
OPEN_ROUTES = frozenset({"/health", "/health/detail", "/health/live", "/metrics", "/metrics/", "/ping", "/version"})
READING = frozenset({"GET", "HEAD"})
_POLICY_VIOLATION = 1008
_REFUSAL = json.dumps(
    {
        "error": {
            "message": "The API key is missing or wrong: send the header 'Authorization: Bearer <key>'.",
            "type": "AuthenticationError",
            "param": None,
            "code": 401,
        }
    }
).encode()


class KeyGuard:
    """ASGI middleware that answers 401 to every request without one of the keys, unless its route is open.

    By itself (vLLM's --middleware) it takes the key from $VLLM_API_KEY. Raises SettingsError when there is none.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str] | None = None) -> None:
        found = [os.environ.get(KEY_VARIABLE, "")] if keys is None else list(keys)
        if not all(found):
            raise SettingsError(f"The API key is to guard the server, and {KEY_VARIABLE} is not set.")
        self._app = app
        # Digests of equal length: the time that a comparison takes tells nothing about the key.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in found]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(scope) or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "no valid API key"})
        else:
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(_REFUSAL)).encode()),
                (b"www-authenticate", b"Bearer"),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _has_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        digest = hashlib.sha256(key).digest()
        return any(hmac.compare_digest(digest, one) for one in self._digests)


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key: it reads an open route, or is a browser's question before the real one."""
    method = scope.get("method")
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return method == "OPTIONS" or (method in READING and path in OPEN_ROUTES)
