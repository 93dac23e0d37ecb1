"""What a server under load says of itself: its metrics page and its models, over a connection of their own."""

from __future__ import annotations

import json

from bench.load import sse
from bench.load.connection import Connection, Target, wire


def fetch(to: Target, path: str, *, timeout_s: float = 10.0) -> tuple[int, str, str]:
    """GETs a path: (status, content type, text); raises OSError when no complete answer came."""
    connection = Connection(to)
    result = connection.exchange(wire(to, "GET", path), timeout_s)
    connection.close()
    response = sse.response(result.framing, result.times_s)
    if result.failure is not None or not response.complete or response.status is None:
        why = result.failure[2] if result.failure else response.error
        raise OSError(f"GET {path} of {to.authority} failed: {why}")
    return response.status, response.headers.get("content-type", ""), response.body.decode("utf-8", "replace")


def metrics(to: Target, *, timeout_s: float = 10.0) -> str | None:
    """The target's Prometheus text, None where it has none."""
    try:
        status, media, text = fetch(to, "/metrics", timeout_s=timeout_s)
    except OSError:
        return None
    return text if status == 200 and media.startswith(("text/plain", "application/openmetrics-text")) else None


def first_model(to: Target, *, timeout_s: float = 10.0) -> str:
    """The first model that /v1/models lists; OSError when there is none."""
    status, _, text = fetch(to, "/v1/models", timeout_s=timeout_s)
    try:
        name = json.loads(text)["data"][0]["id"]
    except (ValueError, LookupError, TypeError) as error:
        raise OSError(f"/v1/models of {to.authority} answered {status} and names no model.") from error
    return str(name)
