"""One request handed from a replica to its server on the loopback address, and the answer back, piece by piece.

Ray's door is in front and vLLM behind: nothing here reads, changes, counts or holds back what passes.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serve.plugin.first_chunk import HEADER

# Of a connection, not of the message (RFC 9110, 7.6.1); the rest whoever sends puts in anew.
_OF_A_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
    }
    | {b"upgrade", b"proxy-connection"}
)
_ASKED_ANEW = frozenset({b"host", b"content-length", HEADER})
_ANSWERED_ANEW = frozenset({b"date", b"server"})
_INFERENCE = ("/v1/", "/v2/", "/inference/v1/")
_ALSO = frozenset(
    (
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/classify",
        "/score",
        "/rerank",
        "/invocations",
        "/ping",
        "/version",
        "/health",
    )
)
_ADMINISTRATION = "lora_adapter"  # /v1/load_lora_adapter and its opposite change one server of several


def client(base_url: str) -> httpx.AsyncClient:
    """A client of one server. Each request has a connection of its own: one that is kept may be closed by the server
    in the moment in which the next request is sent, which would then be lost."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(None, connect=5.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        trust_env=False,
    )


def is_for_users(path: str) -> bool:
    """Whether a path is inference; what a server shows of itself or what changes it is not for users."""
    return (path.startswith(_INFERENCE) or path in _ALSO) and _ADMINISTRATION not in path and ".." not in path


class InWork:
    """How many requests are at a replica's server now."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


async def passed_on(request: Request, server: httpx.AsyncClient, in_work: InWork) -> Response:
    """The server's answer to a request; 503 when it cannot be reached, or ends before it has begun to answer.

    The head of a stream comes with its first token (the server holds it back), so until then an error can be told.
    """
    if not is_for_users(request.url.path):
        return error(404, "not_found", f"There is nothing at {request.url.path} here.")
    headers = [(name, value) for name, value in request.headers.raw if name not in _OF_A_CONNECTION | _ASKED_ANEW]
    url = httpx.URL(path=request.url.path, query=request.url.query.encode() or None)
    body = await request.body()
    with in_work.one():
        asked = server.build_request(request.method, url, headers=[*headers, (HEADER, b"1")], content=body)
        try:
            answer = await server.send(asked, stream=True)
        except httpx.TransportError as failed:
            return error(
                503, "engine_gone", f"The server of this replica has ended ({type(failed).__name__}); ask again."
            )
    return _Passing(answer, in_work)


def error(status: int, code: str, message: str) -> Response:
    """An error in OpenAI's shape."""
    document = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    return JSONResponse(document, status_code=status, headers={"Retry-After": "1"} if status == 503 else None)


class _Passing(Response):
    """An answer that is passed on while it comes; the server is left when the client leaves."""

    def __init__(self, answer: httpx.Response, in_work: InWork) -> None:
        self._answer, self._in_work = answer, in_work
        self.status_code, self.background = answer.status_code, None
        dropped = _OF_A_CONNECTION | _ANSWERED_ANEW
        self.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in dropped]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's signature)
        with self._in_work.one():
            passing, gone = asyncio.create_task(self._pass(send)), asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
                if passing.done():
                    passing.result()
            finally:
                for task in (passing, gone):
                    task.cancel()
                await asyncio.gather(passing, gone, return_exceptions=True)
                await self._answer.aclose()

    async def _pass(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
