"""Clients that do not read, against the real HTTP server (uvicorn) over a fake engine: what is made, and who is cut."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fake_states_engine import WIDE, app_of, large, wide_engine

from serve.hidden_states.admission import Admission
from serve.hidden_states.limits import Limits
from serve.plugin import routes
from serve.plugin.journal import Journal, RequestLog

pytestmark = pytest.mark.xdist_group("vllm imported")  # into this process, which takes ten seconds

PATIENCE_S = 120.0
# 600 tokens × 4,096 values as JSON: 4.9 MB, more than the buffers of two sockets hold of what nobody reads.
MUCH = {**large(), "prompts": [[1] * 15] * 40}


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(RequestLog(app, Journal()), port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


def ask_and_do_not_read(port: int) -> socket.socket:
    body = json.dumps(MUCH).encode()
    head = ["POST /v1/hidden_states HTTP/1.1", "Host: test", "Content-Type: application/json"]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    return connection


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.02)


def test_unread_answers_keep_their_places_until_their_clients_leave():
    async def run() -> None:
        app = app_of(wide_engine(), model=WIDE, max_queued_prompts=3 * 40)
        admission = getattr(app.state, routes.STATE).admission
        async with serving(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as ok:
            readers = [await asyncio.to_thread(ask_and_do_not_read, port) for _ in range(3)]
            await until(lambda: admission.prompts == 3 * 40)
            refused = await ok.post("/v1/hidden_states", json=MUCH, timeout=PATIENCE_S)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            readers.pop().close()
            await until(lambda: admission.prompts == 2 * 40)
            answer = await ok.post("/v1/hidden_states", json=MUCH, timeout=PATIENCE_S)
            assert (answer.status_code, answer.json()["shapes"]) == (200, [[15, 4096]] * 40)
            for one in readers:
                one.close()
            await until(lambda: (admission.prompts, admission.values) == (0, 0))

    asyncio.run(run())


def test_a_client_that_takes_nothing_for_too_long_is_cut_off():
    async def run() -> None:
        app = app_of(wide_engine(), model=WIDE)
        extractor = getattr(app.state, routes.STATE)
        extractor.limits = Limits(timeout_s=1)
        extractor.admission = Admission(extractor.limits)
        async with serving(app) as port:
            reader = await asyncio.to_thread(ask_and_do_not_read, port)
            await until(lambda: extractor.admission.prompts == 40)
            await until(lambda: extractor.admission.prompts == 0)

            def rest() -> bytes:
                reader.settimeout(PATIENCE_S)
                taken = b""
                try:
                    while part := reader.recv(1 << 16):
                        taken += part
                except ConnectionResetError:
                    pass
                return taken

            taken = await asyncio.to_thread(rest)
            assert taken.startswith(b"HTTP/1.1 200")
            assert not taken.endswith(b"0\r\n\r\n")  # nobody can take it for a whole answer
            reader.close()

    asyncio.run(run())
