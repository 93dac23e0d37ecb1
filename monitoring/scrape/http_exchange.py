"""One HTTP exchange with one deadline for all of it: connecting, headers, and a body that comes in drops."""

import asyncio
import contextlib
import errno
import functools
import os
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from monitoring.errors import MonitoringError, SettingsError
from monitoring.scrape.address import alternatives, normalised

MAX_BODY_BYTES = 32 << 20


@dataclass(frozen=True)
class Answer:
    """What a server answered. `seconds` from before the connection to the body's end; `date` is its Date header."""

    status: int
    kind: str
    text: str
    seconds: float
    date: str | None = None

    @property
    def is_html(self) -> bool:
        return self.kind == "text/html" or self.text.lstrip()[:15].lower().startswith(("<!doctype html", "<html"))


class NoAnswer(MonitoringError):
    """No whole answer came; the message is the reason, without the address. `slow`: because time ran out."""

    def __init__(self, reason: str, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.slow = slow


def exchange(
    method: str, url: str, *, deadline_s: float, headers: dict[str, str] | None = None, document: Any = None
) -> Answer:
    """The whole answer to one request, whatever its status. Raises NoAnswer, at the latest after `deadline_s`."""
    asked = _exchange(method, url, deadline_s=deadline_s, headers=headers, document=document)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asked)
    with ThreadPoolExecutor(1) as elsewhere:  # this thread runs an event loop already, as in a notebook
        return elsewhere.submit(asyncio.run, asked).result()


async def _exchange(
    method: str, url: str, *, deadline_s: float, headers: dict[str, str] | None, document: Any
) -> Answer:
    started_s = time.monotonic()
    try:
        # No proxy from the environment: a health check asks this server, not one in between.
        async with (
            asyncio.timeout(deadline_s),
            httpx.AsyncClient(timeout=deadline_s, trust_env=False, verify=certificates()) as client,
            contextlib.aclosing(
                await send(client, client.build_request(method, url, headers=headers, json=document))
            ) as response,
        ):
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise NoAnswer(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
    except TimeoutError:
        raise NoAnswer(f"no answer within {deadline_s:g} s", slow=True) from None
    except httpx.ConnectError as error:
        raise NoAnswer(f"no connection ({_words(error)})") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(f"the exchange broke off ({_words(error)})") from None
    return Answer(
        response.status_code,
        response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        body.decode(response.charset_encoding or "utf-8", errors="replace"),
        time.monotonic() - started_s,
        response.headers.get("date"),
    )


async def send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The response to a request, its body still to be read; `localhost` is whichever loopback address answers."""
    first: httpx.ConnectError | None = None
    for url in alternatives(str(request.url)):
        request.url = httpx.URL(url)
        try:
            return await client.send(request, stream=True)
        except httpx.ConnectError as error:
            first = first or error
    raise first or AssertionError("an address is its own first alternative")


def address(url: str) -> str:
    """A server's address in its one form (see monitoring.scrape.address). Raises SettingsError when it is none."""
    try:
        return normalised(url)
    except ValueError as error:
        raise SettingsError(f"{error}.") from None


def key_headers(api_key_env: str | None) -> dict[str, str]:
    """The header that carries the key held by an environment variable; no header for None. Raises SettingsError."""
    if api_key_env is None:
        return {}
    if not os.environ.get(api_key_env):
        raise SettingsError(f"The environment variable {api_key_env}, which shall hold the API key, is not set.")
    return {"Authorization": f"Bearer {os.environ[api_key_env]}"}


@functools.cache
def certificates() -> ssl.SSLContext:
    """Those that httpx trusts by itself, read once a process: reading them takes longer than most exchanges."""
    return httpx.create_ssl_context(trust_env=False)


def _words(error: BaseException) -> str:
    """The system's own words ("Connection refused") where they are somewhere below, else the error's."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno is not None and below.strerror:
            # asyncio words its own ("Connect call failed"), and a name that nobody has is no number of the system's.
            return os.strerror(below.errno) if below.errno in errno.errorcode else below.strerror
        below = below.__cause__ or below.__context__
    return str(error).rstrip(".") or type(error).__name__
