"""The least that clients can be: asyncio's own protocols, aiohttp, httpx. Each stamps its reads and parses an answer
when it has ended, so that they differ in how bytes come to them and in nothing else.

    python -m bench.studies.clients.bare KIND URL OUT USERS REQUESTS TOKENS

KIND is one of `KINDS`. One line per request goes to OUT at the end. First every connection is opened, by a short
request that is not counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter as now
from typing import Any
from urllib.parse import urlsplit

from bench.studies.clients.seen import Answer, asked, read_stream

Ask = Callable[[str, dict[str, Any]], Awaitable[Answer]]
LONG_S = 3600.0
_LAST = b"\r\n0\r\n\r\n"


@dataclass
class Load:
    """A closed load that its users share."""

    url: str
    users: int
    requests: int
    tokens: int
    issued: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)

    async def user(self, ask: Ask, opened: asyncio.Barrier) -> None:
        """One user: a short request on a fresh connection, then, with all others, the next until there is none."""
        await ask("warm-up", asked(2))
        await opened.wait()
        while self.issued < self.requests:
            self.issued += 1
            request_id = f"r{self.issued}"
            try:
                answer = await ask(request_id, asked(self.tokens))
            except Exception as error:  # noqa: BLE001 (whatever it is, the request is lost)
                sys.stderr.write(f"{request_id}: {error!r}\n")
                answer = Answer(now(), [], complete=False)
            self.found.append(read_stream(request_id, answer))


class _Reader(asyncio.Protocol):
    """One connection: keeps every read with its time until the last chunk has come."""

    def __init__(self) -> None:
        self.reads: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[bool] | None = None
        self._tail = b""  # the end of a body may come in a read of its own

    def data_received(self, data: bytes) -> None:
        self.reads.append((now(), data))
        self._tail = (self._tail + data[-len(_LAST) :])[-len(_LAST) :]
        if self._tail == _LAST and self.ended is not None and not self.ended.done():
            self.ended.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(False)


async def raw(load: Load) -> None:
    """asyncio's transports and protocols, nothing else."""
    parts, loop = urlsplit(load.url), asyncio.get_running_loop()

    async def user(opened: asyncio.Barrier) -> None:
        transport, reader = await loop.create_connection(_Reader, parts.hostname or "", parts.port or 80)

        async def ask(request_id: str, what: dict[str, Any]) -> Answer:
            body = json.dumps(what).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nX-Request-Id: {request_id}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            reader.reads, reader.ended = [], loop.create_future()
            sent_s = now()
            transport.write(head.encode() + body)
            complete = await reader.ended
            return Answer(sent_s, reader.reads, complete)

        await load.user(ask, opened)
        transport.close()

    opened = asyncio.Barrier(load.users)
    await asyncio.gather(*(user(opened) for _ in range(load.users)))


async def with_aiohttp(load: Load) -> None:
    """aiohttp, which `vllm bench serve` and AIPerf are built on."""
    import aiohttp

    connector, timeout = aiohttp.TCPConnector(limit=load.users), aiohttp.ClientTimeout(total=LONG_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def ask(request_id: str, what: dict[str, Any]) -> Answer:
            headers, sent_s = {"X-Request-Id": request_id}, now()
            async with session.post(f"{load.url}/v1/completions", json=what, headers=headers) as response:
                reads = [(now(), data) async for data in response.content.iter_any()]
            return Answer(sent_s, reads, response.status == 200)

        opened = asyncio.Barrier(load.users)
        await asyncio.gather(*(load.user(ask, opened) for _ in range(load.users)))


async def with_httpx(load: Load) -> None:
    """httpx, which GuideLLM and OpenAI's client are built on."""
    import httpx

    limits = httpx.Limits(max_connections=load.users, max_keepalive_connections=load.users)
    async with httpx.AsyncClient(limits=limits, timeout=LONG_S) as session:

        async def ask(request_id: str, what: dict[str, Any]) -> Answer:
            headers, sent_s = {"X-Request-Id": request_id}, now()
            async with session.stream("POST", f"{load.url}/v1/completions", json=what, headers=headers) as response:
                reads = [(now(), data) async for data in response.aiter_raw()]
            return Answer(sent_s, reads, response.status_code == 200)

        opened = asyncio.Barrier(load.users)
        await asyncio.gather(*(load.user(ask, opened) for _ in range(load.users)))


# kind → (what talks, whether on uvloop)
KINDS = {
    "raw": (raw, True),
    "aiohttp": (with_aiohttp, False),
    "aiohttp-uvloop": (with_aiohttp, True),
    "httpx": (with_httpx, False),
}


def main(kind: str, url: str, out: str, users: str, requests: str, tokens: str) -> None:
    talk, fast = KINDS[kind]
    load = Load(url, int(users), int(requests), int(tokens))
    if fast:
        import uvloop

        uvloop.run(talk(load))
    else:
        asyncio.run(talk(load))
    Path(out).write_text("".join(json.dumps(request) + "\n" for request in load.found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
