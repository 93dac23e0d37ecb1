"""How a client talks to a server: its terms, what it sends, in which chunks, and what an error means. Pure."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from monitoring.scrape.address import is_loopback, normalised
from monitoring.scrape.http_exchange import certificates
from serve.client.retry import RETRYABLE_STATUS, Retries
from serve.errors import ClientError, KeyRefused, Refused, ServerFailed, SettingsError, TooLarge, Unavailable
from serve.hidden_states.protocol import DEFAULT_LAYER

Prompt = str | Sequence[int]
LayerName = int | str
DEFAULT_URL = "http://localhost:8000"
DEFAULT_KEY_ENV = "VLLM_API_KEY"
# What one token of text is taken to be in UTF-8 bytes, to cut batches; the server counts the real ones.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Terms:
    """How a client talks to its server. What is None comes from $VLLM_BASE_URL and $VLLM_MODEL_NAME.

    `api_key_env` is the NAME of the variable that holds the key. One request carries at most `max_prompts` prompts,
    about `max_tokens` tokens and `max_body_bytes` bytes; at most `concurrency` requests are under way.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str = DEFAULT_KEY_ENV
    timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    retries: Retries = field(default_factory=Retries)
    max_prompts: int = 32
    max_tokens: int = 16_384
    max_body_bytes: int = 4 << 20
    concurrency: int = 4
    encoding: str = "base64"

    def http_options(self) -> dict[str, Any]:
        """Arguments of httpx's client. Raises SettingsError for an unusable address or key."""
        key, url = api_key(self.api_key_env), checked_url(self.base_url)
        return {
            "base_url": url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": httpx.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            # A proxy cannot reach this machine's loopback; elsewhere SSL_CERT_FILE may name certificates of one's own.
            **({"trust_env": False, "verify": certificates()} if is_loopback(url) else {}),
        }

    def model_name(self) -> str | None:
        return self.model or os.environ.get("VLLM_MODEL_NAME") or None

    def chunks(self, prompts: Sequence[Prompt]) -> list[tuple[int, int]]:
        bounds = {name: getattr(self, name) for name in ("max_prompts", "max_tokens", "max_body_bytes")}
        return list(chunks(prompts, **bounds))


def checked_url(base_url: str | None) -> str:
    """The server's address (see monitoring.scrape.address): given, or $VLLM_BASE_URL. Raises SettingsError."""
    url = base_url or os.environ.get("VLLM_BASE_URL") or DEFAULT_URL
    try:
        return normalised(url)
    except ValueError as error:
        raise SettingsError(f"The server's address: {error}.") from None


def api_key(name: str) -> str | None:
    """The key in the environment variable `name`. Raises SettingsError when a variable other than the default is unset.

    The default one may be unset: most servers on loopback have no key.
    """
    value = os.environ.get(name)
    if not value and name != DEFAULT_KEY_ENV:
        raise SettingsError(f"The API key's environment variable {name} is not set.")
    if value and not (value.isascii() and value.isprintable()):
        raise SettingsError(
            f"The API key in the environment variable {name} holds characters that no header can carry."
        )
    return value or None


def as_prompts(prompts: str | Sequence[Prompt] | Sequence[int]) -> list[Prompt]:
    """One prompt or several as a list of texts and lists of token ids. Raises SettingsError for none."""
    listed: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if listed and all(isinstance(one, int) for one in listed):
        listed = [listed]
    if not listed:
        raise SettingsError("There are no prompts to ask hidden states for.")
    for position, prompt in enumerate(listed):
        if not prompt:
            raise SettingsError(f"prompts[{position}] is empty: an empty prompt has no state.")
    return [one if isinstance(one, str) else list(one) for one in listed]


def chunks(
    prompts: Sequence[Prompt], *, max_prompts: int, max_tokens: int, max_body_bytes: int
) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive requests, each within the three bounds unless a single prompt is beyond them.

    Tokens of texts are estimated; a server that finds a request too large anyway says 413, and it is halved.
    """
    start = tokens = size = 0
    for position, prompt in enumerate(prompts):
        prompt_bytes = len(json.dumps(prompt))
        own = math.ceil(len(prompt.encode()) / BYTES_PER_TOKEN) + 1 if isinstance(prompt, str) else len(prompt)
        full = position - start >= max_prompts or tokens + own > max_tokens or size + prompt_bytes > max_body_bytes
        if full and position > start:
            yield start, position
            start, tokens, size = position, 0, 0
        tokens, size = tokens + own, size + prompt_bytes
    yield start, len(prompts)


def layer_fields(layer: LayerName | None, layers: Sequence[LayerName] | str | None) -> dict[str, Any]:
    """The request's `layer` or `layers`. Raises SettingsError when both are given."""
    if layer is not None and layers is not None:
        raise SettingsError("Give either layer or layers, not both.")
    if layers is None:
        return {"layer": DEFAULT_LAYER if layer is None else layer}
    if isinstance(layers, str) and layers != "all":
        raise SettingsError(f'layers = {layers!r}: a list of layers or "all" is meant; for one layer give layer.')
    return {"layers": layers if isinstance(layers, str) else list(layers)}


def failure(status: int, body: bytes, request_id: str | None, what: str, advice: str) -> ClientError:
    """The error for an HTTP status, with the server's own words. `what` names the request and the server."""
    words = _own_words(body)
    name = f"{what} was answered with HTTP {status}" + (f" (request id {request_id})" if request_id else "")
    error: ClientError
    if status in {401, 403}:
        error = KeyRefused(f"{name}.", engine_words=words, next_step=advice)
    elif status == 413:
        error = TooLarge(f"{name}.", engine_words=words, next_step="Send fewer or shorter prompts, or fewer layers.")
    elif status in RETRYABLE_STATUS:
        error = Unavailable(f"{name}.", engine_words=words)
    elif status >= 500:
        error = ServerFailed(f"{name}.", engine_words=words, next_step="The server's log has the reason.")
    else:
        missing = " Is it a server with the hidden-states plugin?" if status in {404, 405} else ""
        error = Refused(f"{name}.{missing}", engine_words=words)
    error.status = status
    return error


def _own_words(body: bytes) -> str | None:
    """The message in an error's body: OpenAI's shape, FastAPI's `detail`, or the text itself."""
    text = body.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        error = document.get("error")
        found = error.get("message") if isinstance(error, dict) else error
        found = found or document.get("message") or document.get("detail")
        text = found if isinstance(found, str) else json.dumps(document)
    text = " ".join(text.split())
    return (text if len(text) <= 500 else text[:499] + "…").rstrip(".") or None
