"""Python clients of a server with hidden states, one synchronous and one for asyncio, with the same methods.

    with Client() as client:                                   # $VLLM_BASE_URL, $VLLM_MODEL_NAME, $VLLM_API_KEY
        answer = client.hidden_states(["Hello", "World"], layers=[-3, -2])
        answer.stacked()                                       # numpy, [prompt, layer, hidden]

A batch is cut into requests of bounded size, of which a bounded number is under way at a time. A request that the
server could not take (no connection, cut off or timed out before any answer, HTTP 429, 502, 503, 504) is sent again
after growing, jittered pauses; everything else is an error at once: the ClientError branch of serve/errors.py.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from monitoring.scrape import http_exchange
from serve.client import messages, results
from serve.client.messages import LayerName, Prompt, Terms
from serve.client.results import Completions, Health, HiddenStates
from serve.client.retry import retry_after_s
from serve.errors import ClientError, TooLarge, Unavailable
from serve.hidden_states.protocol import Pooling

if TYPE_CHECKING:
    from serve.client.results import Floats

# Called after each request of a batch with (prompts done, prompts in all).
OnProgress = Callable[[int, int], None]
Found = TypeVar("Found")

# The connection failed before a byte of an answer came, so the request may be sent again.
_NO_ANSWER = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


class AsyncClient:
    """To be awaited; close it with `aclose`, or use it in an `async with` statement.

    Keyword arguments are those of Terms: AsyncClient(base_url="http://127.0.0.1:8000", concurrency=8). `transport`,
    `sleep` and `draw` (numbers from [0, 1) for the jitter) are there for tests.
    """

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        **terms: Any,
    ) -> None:
        self.terms = Terms(**terms)
        self._http = httpx.AsyncClient(**self.terms.http_options(), transport=transport)
        self._sleep, self._draw = sleep, draw

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        """The server's own view of itself, asked once. An unhealthy server is an answer, none at all Unavailable."""
        response, what = await self._send("GET", "/health")
        if response.status_code not in {200, 503}:
            raise _failure(response, what, self.terms)
        return results.read_health(response.status_code, results.json_or_none(response.content))

    async def version(self) -> str | None:
        """The engine's version, None when the server does not say."""
        response, _ = await self._send("GET", "/version")
        document = results.json_or_none(response.content)
        found = document.get("version") if isinstance(document, dict) and response.status_code == 200 else None
        return str(found) if found else None

    async def model_name(self) -> str:
        """The model that is asked: as given, or the first that the server lists."""
        return self.terms.model_name() or results.read_first_model(await self._ask("GET", "/v1/models"))

    async def hidden_states(
        self,
        prompts: str | Sequence[Prompt] | Sequence[int],
        *,
        layer: LayerName | None = None,
        layers: Sequence[LayerName] | str | None = None,
        pooling: Pooling = "last",
        on_progress: OnProgress | None = None,
    ) -> HiddenStates:
        """The states of texts or token ids, in their order, after one `layer` (default -2), several `layers` or "all".

        A layer is a 0-based block, Python style, "embeddings" or "final_norm". Raises a ClientError.
        """
        asked = {
            **messages.layer_fields(layer, layers),
            "pooling": pooling,
            "encoding_format": self.terms.encoding,
            **({"model": name} if (name := self.terms.model_name()) else {}),
        }

        async def one(part: Sequence[Prompt]) -> HiddenStates:
            document = await self._ask("POST", "/v1/hidden_states", asked | {"prompts": list(part)})
            return results.read_hidden_states(document, asked=asked, count=len(part))

        return results.joined(await self._batches(messages.as_prompts(prompts), one, on_progress))

    async def completions(
        self, prompts: str | Sequence[str], *, hidden_state_layer: LayerName | None = None, **options: Any
    ) -> Completions:
        """Generated texts of /v1/completions, in one request; `options` (max_tokens, temperature …) go to the server.

        With `hidden_state_layer` also the state of each prompt's last token after that layer. Raises a ClientError.
        """
        listed = messages.as_prompts(prompts)
        document = {"model": await self.model_name(), "prompt": listed, **options}
        if hidden_state_layer is not None:
            document |= {"output_hidden_states": True, "hidden_state_layer": hidden_state_layer}
        answer = await self._ask("POST", "/v1/completions", document)
        return results.read_completions(answer, count=len(listed), with_states=hidden_state_layer is not None)

    async def embeddings(self, prompts: Sequence[str], *, on_progress: OnProgress | None = None) -> "Floats":
        """[prompt, width] of an OpenAI-compatible /v1/embeddings: not hidden states. Raises a ClientError."""
        import numpy as np

        model = await self.model_name()

        async def one(part: Sequence[Prompt]) -> "Floats":
            document = {"model": model, "input": list(part), "encoding_format": "float"}
            return results.read_embeddings(await self._ask("POST", "/v1/embeddings", document), count=len(part))

        return np.concatenate(await self._batches(messages.as_prompts(prompts), one, on_progress))

    async def _batches(
        self,
        prompts: Sequence[Prompt],
        one: Callable[[Sequence[Prompt]], Awaitable[Found]],
        on_progress: OnProgress | None,
    ) -> list[Found]:
        """The parts' results in order. The first failure ends the other requests and is raised."""
        gate, done = asyncio.Semaphore(self.terms.concurrency), 0

        async def part(start: int, end: int) -> list[Found]:
            nonlocal done
            async with gate:
                found = await _halving(prompts[start:end], one)
            done += end - start
            if on_progress:
                on_progress(done, len(prompts))
            return found

        tasks = [asyncio.create_task(part(start, end)) for start, end in self.terms.chunks(prompts)]
        try:
            return [found for parts in await asyncio.gather(*tasks) for found in parts]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> Any:
        """The JSON of an HTTP 200, sent again as often as the terms allow. Raises a ClientError."""
        attempt = 1
        while True:
            asked_to_wait_s = None
            try:
                response, what = await self._send(method, path, document)
                if response.status_code == 200:
                    return results.read_json(response.content, what)
                asked_to_wait_s = retry_after_s(response.headers)
                raise _failure(response, what, self.terms)
            except Unavailable as error:
                pause_s = self.terms.retries.delay_s(attempt, self._draw(), asked_to_wait_s)
                if pause_s is None:
                    raise error.after(attempt, asked_to_wait_s) from error.__cause__
            await self._sleep(pause_s)
            attempt += 1

    async def _send(self, method: str, path: str, document: dict[str, Any] | None = None) -> tuple[httpx.Response, str]:
        """One request and its whole answer, with words for both. Raises Unavailable or ClientError without one."""
        request = self._http.build_request(method, path, json=document)
        what = f"{method} {request.url}"
        try:
            response = await http_exchange.send(self._http, request)
        except _NO_ANSWER as error:
            raise _no_answer(error, what, self.terms) from error
        except httpx.HTTPError as error:
            raise ClientError(f"{what} failed: {_words(error)}.") from error
        try:
            await response.aread()
        except httpx.HTTPError as error:
            raise ClientError(f"{what}: the answer broke off half-way: {_words(error)}.") from error
        finally:
            await response.aclose()
        return response, what


class Client:
    """The same methods without `await`, from any thread. Close it, or use it in a `with` statement.

    It runs an AsyncClient on an event loop in a thread of its own, so it also works where a loop already runs (a
    notebook); `on_progress` is called in that thread. Keyword arguments are AsyncClient's.
    """

    def __init__(self, **options: Any) -> None:
        self._client = AsyncClient(**options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nbridge-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._wait(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def terms(self) -> Terms:
        return self._client.terms

    def health(self) -> Health:
        """As AsyncClient.health."""
        return self._wait(self._client.health())

    def version(self) -> str | None:
        """As AsyncClient.version."""
        return self._wait(self._client.version())

    def model_name(self) -> str:
        """As AsyncClient.model_name."""
        return self._wait(self._client.model_name())

    def hidden_states(self, prompts: str | Sequence[Prompt] | Sequence[int], **options: Any) -> HiddenStates:
        """As AsyncClient.hidden_states: `layer`, `layers`, `pooling`, `on_progress`."""
        return self._wait(self._client.hidden_states(prompts, **options))

    def completions(self, prompts: str | Sequence[str], **options: Any) -> Completions:
        """As AsyncClient.completions."""
        return self._wait(self._client.completions(prompts, **options))

    def embeddings(self, prompts: Sequence[str], *, on_progress: OnProgress | None = None) -> "Floats":
        """As AsyncClient.embeddings."""
        return self._wait(self._client.embeddings(prompts, on_progress=on_progress))

    def _wait(self, work: Coroutine[Any, Any, Found]) -> Found:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here must end the requests there
            raise


async def _halving(prompts: Sequence[Prompt], one: Callable[[Sequence[Prompt]], Awaitable[Found]]) -> list[Found]:
    """`one` of the prompts, or of each half where a server finds them too many at once."""
    try:
        return [await one(prompts)]
    except TooLarge:
        if len(prompts) == 1:
            raise
    middle = len(prompts) // 2
    return await _halving(prompts[:middle], one) + await _halving(prompts[middle:], one)


def _failure(response: httpx.Response, what: str, terms: Terms) -> ClientError:
    advice = f"Is the key in the environment variable {terms.api_key_env} the server's?"
    return messages.failure(
        response.status_code, response.content, response.headers.get("x-request-id"), what=what, advice=advice
    )


def _no_answer(error: httpx.HTTPError, what: str, terms: Terms) -> Unavailable:
    if isinstance(error, httpx.ConnectTimeout) or not isinstance(error, httpx.TimeoutException):
        advice = "Does the server run at that address? VLLM_BASE_URL or base_url says which one is asked."
        return Unavailable(f"{what} got no answer: {_words(error)}.", next_step=advice)
    advice = "Ask for fewer prompts at a time, or allow more time with timeout_s."
    return Unavailable(f"{what} got no answer within {terms.timeout_s:g} s.", next_step=advice)


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
