"""Hidden states under load: what a request asks for, and whether its answer, which comes in one piece, is one. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from bench.client.events import Response

PATH = "/v1/hidden_states"


@dataclass(frozen=True)
class States:
    """An answer: the server's count of prompt tokens, or what is wrong with it (kind and sentence)."""

    prompt_tokens: int | None = None
    error_kind: str | None = None
    error: str | None = None


def body(prompt: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The request's body for a prompts-file entry; states come as base64, which is a third of the bytes of numbers."""
    if not isinstance(prompt.get("prompts"), list) or not prompt["prompts"]:
        raise ValueError("A hidden-states request needs `prompts`: a list of texts or lists of token ids.")
    asked: dict[str, Any] = {name: prompt[name] for name in ("layer", "layers", "pooling") if name in prompt}
    return {"model": model, "prompts": prompt["prompts"], **asked, "encoding_format": "base64"}


def read(response: Response, prompts: int) -> States:
    """What a complete answer of HTTP status 200 holds: one state per prompt, each as long as its shape says."""
    try:
        document = json.loads(response.body)
        states, shapes = document["hidden_states"], document["shapes"]
        tokens = document["usage"]["prompt_tokens"]
        whole = [
            isinstance(state, str) and bool(state) and len(state) == 4 * ceil(4 * prod(shape) / 3)
            for state, shape in zip(states, shapes, strict=True)
        ]
    except (ValueError, LookupError, TypeError, RecursionError):
        return States(error_kind="not_states", error="The answer holds no hidden states.")
    if len(whole) != prompts or not all(whole):
        return States(
            error_kind="not_states", error=f"The answer holds {sum(whole)} whole states for {prompts} prompts."
        )
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        return States(error_kind="no_usage", error="The answer does not say how many prompt tokens it took.")
    return States(prompt_tokens=tokens)
