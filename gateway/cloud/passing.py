"""The door itself: a request in, the provider's answer out, and what it cost written down before its last byte."""

import asyncio
import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.cloud.answers import Stream, TooLong, closed, error, refusal, whole
from gateway.cloud.asking import PATHS, Outgoing, Unusable, outgoing, read
from gateway.cloud.ledger import NANO, Ledger, Standing
from gateway.cloud.prices import Priced
from gateway.cloud.usage import Used

CONNECT_S = 10.0
WHOLE_BYTES = 64 << 20
NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients then do not ask a spent budget twice more


@dataclass(frozen=True)
class Rules:
    """What the settings say: models with their prices, keys by cloud, the longest wait for an answer in one piece."""

    prices: Mapping[str, Priced]
    keys: Mapping[str, str]
    whole_s: float
    body_bytes: int


@dataclass
class Call:
    """One request that has been let in."""

    number: int
    request_id: str | None
    price: Priced
    asked: Outgoing
    began_s: float


class Passing:
    """All requests of the process. `changed` is called whenever money has moved."""

    def __init__(self, ledger: Ledger, rules: Rules, client: httpx.AsyncClient, changed: Callable[[], None]) -> None:
        self.ledger, self.rules, self.client, self.changed = ledger, rules, client, changed
        self.writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self.broken: str | None = None

    async def standing(self, cloud: str) -> Standing:
        found: Standing = await self._write(self.ledger.standing, cloud)
        return found

    async def _write(self, what: Callable[..., Any], *words: Any) -> Any:
        """Done in the ledger's own thread; it is done even when the request that wants it is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.writer, what, *words))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request from HAProxy; what it asks for is named by x-nbridge-model."""
        request = Request(scope, receive)
        try:
            call = await self._let_in(request)
        except ClientDisconnect:
            return
        except _Refused as refused:
            await _send(refused.answer, send)
            return
        await self._pass(call, receive, send)

    async def _let_in(self, request: Request) -> Call:
        """The request as it goes out, its money reserved. Raises _Refused, ClientDisconnect."""
        named = request.headers.get("x-nbridge-model", "").encode("latin-1").decode("utf-8", "replace")
        price = self.rules.prices.get(named)
        if price is None:
            raise _Refused(404, "There is no such model at the cloud door.", "model_not_found")
        if request.url.path not in PATHS or request.method != "POST":
            raise _Refused(404, f"Of a cloud's model there is POST {', '.join(PATHS)}.", "not_found")
        try:
            document = read(await _body(request, self.rules.body_bytes))
            asked = await asyncio.to_thread(outgoing, request.url.path, document, price)
        except RecursionError:
            raise _Refused(400, "The body is nested too deeply.", "bad_request") from None
        except Unusable as problem:
            raise _Refused(400, str(problem), "bad_request") from None
        cloud = price.cloud.name
        try:
            number = await self._write(self.ledger.reserve, cloud, price.model, price.nano_usd(asked.at_most))
        except sqlite3.Error as problem:
            self._is_broken(problem)
            words = "What is spent cannot be written down, so nothing is asked."
            raise _Refused(503, words, "ledger_unavailable", "service_unavailable") from None
        finally:
            self.changed()
        if number is None:
            raise _Refused(closed(cloud, await self.standing(cloud), self.ledger.clock()))
        return Call(number, request.headers.get("x-request-id"), price, asked, time.monotonic())

    def _is_broken(self, problem: sqlite3.Error) -> None:
        self.broken = str(problem)
        log(problem=f"the ledger cannot be written, so clouds are closed: {problem}")

    async def mend(self) -> None:
        """Try again to write what could not be written."""
        try:
            await self._write(self.ledger.settle_late)
            self.broken = None
        except sqlite3.Error as problem:
            self.broken = str(problem)

    async def _pass(self, call: Call, receive: Receive, send: Send) -> None:
        """Ask the provider and pass its answer on. An answer in one piece is waited for although nobody may want it."""
        gone = asyncio.create_task(_gone(receive))
        try:
            answer = await self._ask(call, gone, send)
            if answer is None:
                return
            try:
                media = answer.headers.get("content-type", "")
                if answer.status_code != 200:
                    await self._refused(call, answer, send)
                elif call.asked.stream and media.startswith("text/event-stream"):
                    await self._stream(call, answer, gone, send)
                else:
                    await self._whole(call, answer, media, send)
            finally:
                await answer.aclose()
        finally:
            gone.cancel()

    async def _ask(self, call: Call, gone: "asyncio.Task[None]", send: Send) -> httpx.Response | None:
        """The provider's head; None when there is none, which then is settled and said."""
        cloud = call.price.cloud
        asking = asyncio.create_task(self.client.send(self._request(call), stream=True))
        if call.asked.stream:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                    await asking
                await self._settle(call, "left", Used(call.asked.input_tokens, 0, estimated=True))
                return None
        try:
            return await asking
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as problem:
            await self._settle(call, "failed", Used())
            words = f"The cloud {cloud.name} cannot be reached ({type(problem).__name__})."
            await _send(_failed(502, words, "cloud_unreachable"), send)
        except httpx.HTTPError as problem:
            # It was asked, and nobody knows what it has done: what was reserved counts.
            await self._settle(call, "unknown", call.asked.at_most)
            slow = isinstance(problem, httpx.TimeoutException)
            words = f"The cloud {cloud.name} {'did not answer in time' if slow else 'broke off'}; that is counted."
            await _send(_failed(504 if slow else 502, words, "cloud_failed"), send)
        return None

    def _request(self, call: Call) -> httpx.Request:
        cloud, asked = call.price.cloud, call.asked
        key = self.rules.keys[cloud.name]
        silence_s = cloud.silence_s if asked.stream else self.rules.whole_s
        return self.client.build_request(
            "POST",
            asked.url,
            params=dict(asked.query) or None,
            content=asked.body,
            headers={
                "content-type": "application/json",
                "accept": "text/event-stream, application/json" if asked.stream else "application/json",
                "accept-encoding": "identity",
                cloud.key_header: f"Bearer {key}" if cloud.key_header.lower() == "authorization" else key,
            },
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S, pool=CONNECT_S),
        )

    async def _refused(self, call: Call, answer: httpx.Response, send: Send) -> None:
        body = b""
        with contextlib.suppress(httpx.HTTPError, TooLong):
            body = await _read(answer, 1 << 20)
        await self._settle(call, "refused", Used(), status=answer.status_code)
        cloud = call.price.cloud.name
        key = self.rules.keys[cloud]
        status, said = refusal(answer.status_code, body, cloud=cloud, asked=call.price.asked, key=key)
        after = answer.headers.get("retry-after")
        await _send(JSONResponse(said, status, {"retry-after": after} if after else None), send)

    async def _whole(self, call: Call, answer: httpx.Response, media: str, send: Send) -> None:
        try:
            body = await _read(answer, WHOLE_BYTES)
            document = json.loads(body)
        except (httpx.HTTPError, TooLong, ValueError, RecursionError):
            await self._settle(call, "unknown", call.asked.at_most)
            words = f"The answer of the cloud {call.price.cloud.name} broke off, or is no JSON."
            await _send(_failed(502, words, "cloud_failed"), send)
            return
        cost = await self._settle(call, "answered", whole(document, call.asked.input_tokens, len(body)))
        headers = {"x-nbridge-cost-usd": f"{cost / NANO:.9f}"}
        await _send(Response(body, 200, headers, media or "application/json"), send)

    async def _stream(self, call: Call, answer: httpx.Response, gone: "asyncio.Task[None]", send: Send) -> None:
        """Events as they come. What ends the stream waits until its cost is written."""
        stream = Stream(drop_usage=not call.asked.wants_usage)
        headers = [(b"content-type", answer.headers["content-type"].encode()), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pump = asyncio.create_task(_pump(stream, answer, send))
        await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        outcome = "answered"
        if not pump.done():
            outcome = "left"
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        elif pump.exception() is not None:
            outcome = "cut" if isinstance(pump.exception(), httpx.HTTPError | TooLong) else "left"
        await self._settle(call, outcome, stream.used(call.asked.input_tokens))
        if outcome == "answered":
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if pump.result() else b""})
        elif outcome == "cut":
            words = f"The cloud {call.price.cloud.name} broke off its answer."
            event = f"data: {json.dumps(error(words, 'server_error', 'cloud_failed'))}\n\n"
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            # The answer is not ended here: the connection then ends as a cut one does.

    async def _settle(self, call: Call, outcome: str, used: Used, status: int = 200) -> int:
        """Write down what a request cost; its nano-dollars. Returns when that is on the disk."""
        nano_usd = call.price.nano_usd(used)
        try:
            await self._write(self.ledger.settle, call.number, outcome, used, nano_usd)
        except sqlite3.Error as problem:
            self._is_broken(problem)
        finally:
            self.changed()
        log(
            id=call.request_id,
            cloud=call.price.cloud.name,
            model=call.price.model,
            outcome=outcome,
            status=status,
            input_tokens=used.input,
            cached_tokens=used.cached,
            output_tokens=used.output,
            estimated=used.estimated,
            usd=nano_usd / NANO,
            seconds=round(time.monotonic() - call.began_s, 3),
        )
        return nano_usd


class _Refused(Exception):
    """A request that is not let in, and the answer that says so."""

    def __init__(self, status: int | dict[str, Any], message: str = "", code: str = "", kind: str = "") -> None:
        super().__init__(message)
        if isinstance(status, dict):
            self.answer: Response = JSONResponse(status, 429, NO_RETRY)
        else:
            self.answer = _failed(status, message, code, kind or "invalid_request_error")


async def _pump(stream: Stream, answer: httpx.Response, send: Send) -> bool:
    """Pass events on until the end; whether `[DONE]` was the end. Raises httpx.HTTPError, TooLong, OSError."""
    async for data in answer.aiter_bytes():
        for event in stream.feed(data):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if stream.ended:
            return True
    if last := stream.rest():
        await send({"type": "http.response.body", "body": last, "more_body": True})
    done, stream.ended = stream.ended, True
    return done


async def _gone(receive: Receive) -> None:
    """Until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(answer: httpx.Response, limit_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > limit_bytes:
            raise TooLong
    return b"".join(parts)


async def _body(request: Request, limit_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > limit_bytes:
            raise Unusable(f"The body is larger than {limit_bytes} bytes.")
    return b"".join(parts)


async def _send(answer: Response, send: Send) -> None:
    """An answer whose request has been read already; a client that has left does not matter any more."""
    with contextlib.suppress(OSError):
        await answer({"type": "http", "method": "POST"}, _nothing, send)


async def _nothing() -> Any:
    return {"type": "http.disconnect"}


def _failed(status: int, message: str, code: str, kind: str = "server_error") -> Response:
    return JSONResponse(error(message, kind, code), status)


def log(**words: Any) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stdout.write(json.dumps({"at": at, **words}, ensure_ascii=False) + "\n")
    sys.stdout.flush()
