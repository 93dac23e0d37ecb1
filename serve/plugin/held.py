"""A response that holds what it needs until it has been written, and that no reader can keep for ever."""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# Where the journal leaves a function that ends the connection at once; ASGI itself has none.
ABORT = "nbridge_abort"
END = b"\n"  # after the JSON: what is sent last

_log = logging.getLogger("vllm.nbridge.routes")


class Held(StreamingResponse):
    """Writes JSON piece by piece, each when the client has taken the one before; then `held` is closed.

    A client that does not take a piece within `stall_s` is cut off. `cut` is called when the answer was not written
    to its end, whoever ended it.
    """

    def __init__(
        self,
        content: Iterable[bytes] | AsyncIterable[bytes],
        *,
        stall_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type="application/json")
        self.stall_s = stall_s
        self.held = ExitStack()
        self.cut: Callable[[], None] = lambda: None
        self._is_written = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            async with asyncio.timeout(self.stall_s):
                await send(message)

        with self.held:
            try:
                await super().__call__(scope, receive, sending)
            except TimeoutError:
                _log.warning("An answer was cut off: the client took none of it for %g s", self.stall_s)
                scope.get(ABORT, lambda: None)()
            finally:
                if not self._is_written:
                    self.cut()

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.body_iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        # A server's `send` returns when there is room to write more, not when this was written: one more waits for it.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        # Counted and logged before the client has all of it, who may look at once.
        self._is_written = True
        self.held.close()
        await send({"type": "http.response.body", "body": END, "more_body": False})
