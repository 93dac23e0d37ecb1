"""What a client sent → what the provider is sent: its model's name, its address, usage asked for. Pure."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.cloud.prices import Priced
from gateway.cloud.redaction import redacted
from gateway.cloud.usage import Used, tokens_of
from gateway.clouds import MODEL_PLACE

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_PLACES = ("url", "image_url", "video_url", "audio_url", "file_url", "file_id")
CAPS = ("max_completion_tokens", "max_tokens")
MOST_ANSWERS, MOST_TOKENS = 1000, 10**7  # more than anybody sells at once
ELSEWHERE_TOKENS = 50_000  # of a picture or a file that a request only refers to: the dearest known way of counting


@dataclass(frozen=True)
class Outgoing:
    """A request as the provider gets it.

    `at_most`: what it may take; `input_tokens`: an estimate of its own; `wants_usage`: the client asked for it itself.
    """

    url: str
    query: Mapping[str, str]
    body: bytes
    stream: bool
    wants_usage: bool
    at_most: Used
    input_tokens: int


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
    """The provider's request, its answer bounded. Raises Unusable for a bound that is none, and for what a model
    without an output price would have to write."""
    cloud = price.cloud
    if not price.writes and path != "/v1/embeddings":
        raise Unusable(f"The model {price.model} has no price for output; it makes embeddings only.")
    sent = redacted(document, cloud) | {"model": price.asked}
    stream = document.get("stream") is True
    options = document.get("stream_options")
    options = options if isinstance(options, Mapping) else {}
    if stream and cloud.usage_in_streams:
        sent["stream_options"] = {**options, "include_usage": True}
    answer_tokens = _answer_tokens(document)
    if answer_tokens is None and path != "/v1/embeddings":
        answer_tokens = cloud.answer_tokens
        sent[cloud.chat_cap if path == "/v1/chat/completions" else "max_tokens"] = answer_tokens
    body = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
    return Outgoing(
        url=cloud.url.replace(MODEL_PLACE, price.asked) + path.removeprefix("/v1"),
        query=cloud.query,
        body=body,
        stream=stream,
        wants_usage=options.get("include_usage") is True,
        at_most=Used(_most_input(sent, len(body)), (answer_tokens or 0) * _answers(path, document), estimated=True),
        input_tokens=tokens_of(len(body)),
    )


def _answer_tokens(document: Mapping[str, Any]) -> int | None:
    """How long the client lets an answer be: of two bounds the larger, for nobody knows which one counts."""
    said = []
    for key in CAPS:
        value = document.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
            raise Unusable(f"{key} is no number of tokens from 0 to {MOST_TOKENS}.")
        said.append(value)
    return max(said, default=None)


def _answers(path: str, document: Mapping[str, Any]) -> int:
    """How many answers are asked for, each of which may be as long as is allowed."""
    if path == "/v1/embeddings":
        return 0
    answers = 1
    for key in ("n", "best_of"):
        value = document.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_ANSWERS:
            raise Unusable(f"{key} is no number from 1 to {MOST_ANSWERS}.")
        answers = max(answers, math.ceil(value))
    prompts = document.get("prompt")
    if path == "/v1/completions" and isinstance(prompts, list) and all(isinstance(one, str | list) for one in prompts):
        answers *= max(1, len(prompts))
    return answers


def _most_input(document: Mapping[str, Any], size_bytes: int) -> int:
    """More tokens than the input can have: nobody makes more than one of a byte, and what is elsewhere is dear."""
    return size_bytes + ELSEWHERE_TOKENS * _elsewhere(document.get("messages"))


def _elsewhere(value: Any) -> int:
    """How many pictures and files a request names by address or number, and does not carry."""
    if isinstance(value, list):
        return sum(_elsewhere(one) for one in value)
    if not isinstance(value, Mapping):
        return 0
    places = [one for key, one in value.items() if key in _PLACES and isinstance(one, str)]
    return sum(not one.startswith("data:") for one in places) + sum(_elsewhere(one) for one in value.values())
