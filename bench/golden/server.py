"""The golden server: one process, one event loop; every byte leaves at its scheduled time, and the log says when.

Instants are seconds of CLOCK_MONOTONIC, which a client on this machine reads, too. `sent_s` is taken right before the
bytes are handed to the kernel: with an empty buffer, asyncio's transports hand them over within the call.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
from collections.abc import Callable
from time import monotonic as now
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from bench.client.probe import PROBE_ID
from bench.errors import PlanError
from bench.golden.answer import Answer
from bench.golden.behaviour import Behaviour, Behaviours
from bench.golden.dialects import DIALECTS, refusal
from bench.golden.playback import Playing
from bench.golden.state import Server, Settings

BODY_LIMIT_BYTES = 64 * 2**20
BACKLOG = 4096
_ENDPOINTS = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}


class Refusal(Exception):
    """A request that gets (status, words) instead of an answer."""


class Connection(asyncio.Protocol):
    """One connection: requests are answered in turn."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.close_on_next = False
        self.answering: Playing | None = None
        self._url, self._headers, self._body = b"", dict[str, str](), bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.connections += 1
        self.number = self.server.connections
        self.server.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.server.open.discard(self)
        self.abandon("client left")

    def abandon(self, why: str) -> None:
        """Ends the answer under way, if there is one."""
        if self.answering is not None:
            self.answering.over(why, now())

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.plain(400, _error("This is no HTTP request that the golden server can read."))
            self.transport.close()

    # What llhttp calls, by the names that httptools gives them.

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        if len(self._body) + len(data) > BODY_LIMIT_BYTES:
            self.plain(413, _error(f"A body may have {BODY_LIMIT_BYTES} bytes."))
            self.transport.close()
        elif not self.transport.is_closing():
            self._body += data

    def on_message_complete(self) -> None:
        received_s = now()
        if self.close_on_next or self.answering is not None or self.transport.is_closing():
            self.transport.close()  # a second request before the answer to the first has ended is nobody's way to ask
            return
        method, path = self.parser.get_method().decode("latin-1"), self._url.decode("latin-1")
        server, headers = self.server, self._headers
        key = server.settings.api_key
        entry = {
            "connection": self.number,
            "method": method,
            "path": path,
            "request_id": headers.get("x-request-id"),
            "received_s": received_s,
            "authorized": key is None or headers.get("authorization") == f"Bearer {key}",
            "headers": sorted(set(headers) - {"authorization"}),
        }
        try:
            if page := self._page(method, urlsplit(path).path):
                self.plain(200, *page)
                return
            answer, behaviour = self._asked(method, urlsplit(path).path, entry)
        except Refusal as refused:
            status, words, *more = refused.args
            if "body" in entry:
                server.log({**entry, "status": status, "events": [], "tokens": 0, "end": "refused"})
            self.plain(status, words, *more)
            return
        if server.turns.full(server.settings.queue_limit):
            server.log({**entry, "status": 429, "events": [], "tokens": 0, "end": "refused"})
            self.plain(429, _error("The queue is full."), more=_retry_after(behaviour.retry_after_s))
            return
        self.answering = Playing(self, answer, behaviour, entry)

    def _page(self, method: str, path: str) -> tuple[str, ...] | None:
        """What every server has beside its answers; None for other paths."""
        if method != "GET":
            return None
        if path.endswith("/health"):
            return ("{}",)
        if path.endswith("/metrics") and self.server.settings.metrics:
            return self.server.metrics.page(), "text/plain; version=0.0.4; charset=utf-8"
        if path.endswith("/v1/models"):
            self._key_is_right()
            dialect = DIALECTS.get(path.split("/")[1])
            if dialect is not None and dialect.status == 401:
                raise Refusal(401, _error("a key is wanted"))
            model = {"id": self.server.settings.model, "object": "model", "created": 0, "owned_by": "golden"}
            return (json.dumps({"object": "list", "data": [model]}),)
        return None

    def _key_is_right(self) -> None:
        key, shown = self.server.settings.api_key, self._headers.get("authorization")
        if key is not None and shown != f"Bearer {key}":
            raise Refusal(401, _error(f"Incorrect API key: {shown}"))

    def _asked(self, method: str, path: str, entry: dict[str, Any]) -> tuple[Answer, Behaviour]:
        """The answer to a request for a completion, unless it is to be refused."""
        first = path.split("/")[1] if path.count("/") else ""
        dialect = first if first in DIALECTS else None
        endpoint = next((name for end, name in _ENDPOINTS.items() if path.endswith(end)), None)
        if method != "POST" or endpoint is None:
            raise Refusal(404, _error(f"no such path {path}"))
        try:
            asked = entry["body"] = json.loads(self._body)
            if not isinstance(asked, dict) or int(asked.get("max_tokens") or 1) < 1:
                raise ValueError
        except (ValueError, TypeError):
            raise Refusal(400, _error("The body is no JSON object with a max_tokens above 0.")) from None
        self._key_is_right()
        self.server.requests += 1
        number = self.server.requests
        try:
            behaviour = self.server.behaviours.of(str(asked.get("model")), dialect)
        except PlanError as error:
            raise Refusal(400, _error(str(error))) from None
        # A probe learns the dialect of a server that is well; what goes wrong goes wrong under the load.
        if (self._headers.get("x-request-id") or "").startswith(PROBE_ID) or not behaviour.faulty(number):
            behaviour = behaviour.sound()
        entry |= {"request": number, "dialect": behaviour.dialect}
        if refused := refusal(behaviour.speaks, endpoint, asked, self._headers):
            status, words = refused
            raise Refusal(status, _error(words), "application/json", _retry_after(7.0) if status != 400 else "")
        self._refuse_as_asked(behaviour)
        return Answer(behaviour, asked, number, self.server.settings.model), behaviour

    def _refuse_as_asked(self, behaviour: Behaviour) -> None:
        if behaviour.status != 200:
            more = _retry_after(behaviour.retry_after_s)
            raise Refusal(behaviour.status, _error(f"status {behaviour.status} as asked"), "application/json", more)
        if behaviour.then == "die":
            os._exit(0)
        if behaviour.then == "redirect":
            raise Refusal(307, "", "application/json", "Location: http://elsewhere/v1/completions\r\n")
        if behaviour.then == "plain":
            raise Refusal(200, json.dumps({"choices": [{"text": "all at once"}]}))

    def plain(self, status: int, text: str, media: str = "application/json", more: str = "") -> None:
        """A whole response."""
        body = text.encode()
        head = f"HTTP/1.1 {status} Golden\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        self.transport.write(head.encode() + body)

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def _error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "golden", "param": None, "code": None}})


def _retry_after(seconds: float | None) -> str:
    return "" if seconds is None else f"Retry-After: {seconds:g}\r\n"


async def serve(
    settings: Settings,
    behaviours: Behaviours,
    ready: Callable[[int], None],
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves until it is cancelled; `ready` is told the port."""
    server = Server(settings, behaviours)
    listener = await server.loop.create_server(
        lambda: Connection(server), host, port, ssl=tls, backlog=BACKLOG, reuse_address=True
    )
    try:
        ready(listener.sockets[0].getsockname()[1])
        await asyncio.Future()
    finally:
        listener.close()
        server.close()
