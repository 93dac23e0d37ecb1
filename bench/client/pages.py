"""What a server says of itself beside completions: its pages, over a connection of their own."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bench.client.connection import Connection
from bench.client.dialect import dumps
from bench.client.events import response
from bench.client.target import Target, wire

PROMETHEUS = ("text/plain", "application/openmetrics-text")


class Page(NamedTuple):
    """A complete answer."""

    status: int
    headers: dict[str, str]
    text: str

    def document(self) -> Any:
        """The JSON of the text; None when it is none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


def fetch(to: Target, path: str, body: Any = None, *, timeout_s: float = 10.0) -> Page:
    """GETs a path, or POSTs `body` as JSON; raises OSError when no complete answer came."""
    connection = Connection(to)
    sent = wire(to, "GET", path) if body is None else wire(to, "POST", path, dumps(body))
    result = connection.exchange(sent, timeout_s)
    connection.close()
    came = response(result.framing, result.arrivals().times_s)
    if result.failure is not None or not came.complete or came.status is None:
        why = result.failure[2] if result.failure else came.error
        raise OSError(f"{path} of {to.authority} failed: {why}")
    return Page(came.status, came.headers, came.body.decode("utf-8", "replace"))


def metrics(to: Target, *, timeout_s: float = 10.0) -> str | None:
    """The target's Prometheus text, None where it has none."""
    try:
        page = fetch(to, "/metrics", timeout_s=timeout_s)
    except OSError:
        return None
    return page.text if page.status == 200 and page.headers.get("content-type", "").startswith(PROMETHEUS) else None


def models(document: Any) -> list[dict[str, Any]]:
    """The entries of a /v1/models answer that have a name; none for anything else."""
    data = document.get("data") if isinstance(document, dict) else None
    listed = data if isinstance(data, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]


def tokens(to: Target, path: str, model: str, text: str, *, special: bool = False) -> list[int]:
    """The ids that a server's tokenizer at `path` makes of a text, by the names that vLLM, SGLang, llama.cpp and TGI
    give the fields; `special` with what it puts around a text, where it can be asked for that.

    Raises OSError when it does not answer, ValueError or TypeError when the answer holds no ids.
    """
    asked = {"model": model, **dict.fromkeys(("add_special_tokens", "add_special"), special)}
    asked |= dict.fromkeys(("prompt", "content", "input", "inputs"), text)
    page = fetch(to, path, asked, timeout_s=30)
    document = page.document()
    listed = document.get("tokens") if isinstance(document, dict) else document
    if page.status != 200 or not isinstance(listed, list):
        raise ValueError(f"HTTP {page.status} and no list of tokens")
    ids = [token.get("id") if isinstance(token, dict) else token for token in listed]
    whole = [token for token in ids if isinstance(token, int) and 0 <= token < 2**31]
    if len(whole) < len(ids):
        raise ValueError("token ids are whole numbers")
    return whole
