"""How many tokens an answer took, by what providers say of it in their several ways. Pure.

Some count what a model thought apart from its answer and name it in the sum alone; some count cached input beside the
input and not in it; some say nothing. What nobody said is estimated, and never too low on purpose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES_PER_TOKEN = 3  # of text in UTF-8; English has four and more, other scripts have about three
TICKS_PER_USD = 10**10
MOST_TOKENS = 10**9  # more than that is no count of an answer


@dataclass(frozen=True)
class Used:
    """Tokens of one request. `input` includes `cached`; `told_usd`: what the provider says that it charges."""

    input: int = 0
    output: int = 0
    cached: int = 0
    told_usd: float | None = None
    estimated: bool = False


def tokens_of(size_bytes: int) -> int:
    """An estimate of the tokens in a text of so many bytes."""
    return math.ceil(size_bytes / BYTES_PER_TOKEN)


def read(document: Any) -> Used | None:
    """The usage in an answer or in a piece of a stream; None when none is told."""
    if not isinstance(document, Mapping):
        return None
    groq = document.get("x_groq")
    message = document.get("message")  # Anthropic's first piece
    for holder in (document, groq, message):
        told = holder.get("usage") if isinstance(holder, Mapping) else None
        if isinstance(told, Mapping) and (found := _read(told)):
            return found
    return None


def _read(told: Mapping[str, Any]) -> Used | None:
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    if prompt is None and completion is None:
        return _anthropic(told)
    total = _count(told, "total_tokens") or 0
    cached = _count(told.get("prompt_tokens_details"), "cached_tokens") or _count(told, "prompt_cache_hit_tokens") or 0
    output = max(completion or 0, total - (prompt or 0))
    return Used(max(prompt or 0, cached), output, cached, _usd(told))


def _anthropic(told: Mapping[str, Any]) -> Used | None:
    plain, output = _count(told, "input_tokens"), _count(told, "output_tokens")
    if plain is None and output is None:
        return None
    inside = _count(told.get("input_tokens_details"), "cached_tokens")  # OpenAI's Responses: in the input
    if inside is not None:
        return Used(max(plain or 0, inside), output or 0, inside, _usd(told))
    cached = _count(told, "cache_read_input_tokens") or 0
    written = _count(told, "cache_creation_input_tokens") or 0
    return Used((plain or 0) + cached + written, output or 0, cached, _usd(told))


def joined(before: Used | None, now: Used | None) -> Used | None:
    """Of two counts in one stream the larger: each says what was used until then, or one of the two parts."""
    if before is None or now is None:
        return before or now
    told = [one for one in (before.told_usd, now.told_usd) if one is not None]
    return Used(
        max(before.input, now.input),
        max(before.output, now.output),
        max(before.cached, now.cached),
        max(told) if told else None,
    )


def _count(table: Any, key: str) -> int | None:
    value = table.get(key) if isinstance(table, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return math.ceil(value)


def _usd(told: Mapping[str, Any]) -> float | None:
    """What a provider says that it charged: OpenRouter a number, Perplexity a table, xAI ticks. 0 says nothing."""
    value, ticks = told.get("cost"), told.get("cost_in_usd_ticks")
    if isinstance(value, Mapping):
        value = value.get("total_cost")
    if value is None and isinstance(ticks, int):
        value = ticks / TICKS_PER_USD
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None
