"""What a client sent → what the provider is sent: its model's name, its address, usage asked for. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.cloud.prices import Priced
from gateway.cloud.redaction import redacted
from gateway.cloud.usage import Used, tokens_of
from gateway.clouds import MODEL_PLACE

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_MOST_ANSWERS = 1000


@dataclass(frozen=True)
class Outgoing:
    """A request as the provider gets it. `at_most`: what it may take; `wants_usage`: the client asked for it itself."""

    url: str
    query: Mapping[str, str]
    body: bytes
    stream: bool
    wants_usage: bool
    at_most: Used


class Unusable(Exception):
    """A request that cannot be passed on; the words are for the client."""


def read(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Unusable."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Unusable("The body is no JSON.") from None
    if not isinstance(document, dict):
        raise Unusable("The body is no JSON object.")
    return document


def outgoing(path: str, document: Mapping[str, Any], price: Priced) -> Outgoing:
    """The provider's request. Raises Unusable for what a model without an output price would have to write."""
    cloud = price.cloud
    if not price.writes and path != "/v1/embeddings":
        raise Unusable(f"The model {price.model} has no price for output; it makes embeddings only.")
    sent = redacted(document, cloud) | {"model": price.asked}
    stream = document.get("stream") is True
    options = document.get("stream_options")
    options = options if isinstance(options, Mapping) else {}
    if stream and cloud.usage_in_streams:
        sent["stream_options"] = {**options, "include_usage": True}
    body = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
    return Outgoing(
        url=cloud.url.replace(MODEL_PLACE, price.asked) + path.removeprefix("/v1"),
        query=cloud.query,
        body=body,
        stream=stream,
        wants_usage=options.get("include_usage") is True,
        at_most=Used(tokens_of(len(body)), _output_tokens(path, document, cloud.answer_tokens), estimated=True),
    )


def _output_tokens(path: str, document: Mapping[str, Any], unsaid: int) -> int:
    """The tokens that may be written: of each answer as many as are allowed, or as the settings say."""
    if path == "/v1/embeddings":
        return 0
    wanted = (document.get(key) for key in ("max_completion_tokens", "max_tokens"))
    each = next((one for one in wanted if isinstance(one, int) and not isinstance(one, bool) and one > 0), unsaid)
    answers = 1
    for key in ("n", "best_of"):
        if isinstance(value := document.get(key), int) and not isinstance(value, bool):
            answers = max(answers, min(value, _MOST_ANSWERS))
    prompts = document.get("prompt")
    if path == "/v1/completions" and isinstance(prompts, list) and all(isinstance(one, str | list) for one in prompts):
        answers *= max(1, len(prompts))
    return each * answers
