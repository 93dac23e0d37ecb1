"""What the keys of a record mean, whatever their spelling, and its numbers and times."""

import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from bench.prompts.entry import Malformed

# Names are compared in lower case and without anything but letters and digits: `Request tokens`, `request_tokens`.
PROMPT_KEYS = (
    "prompt", "textinput", "question", "query", "instruction", "inputtext", "input", "text", "texts", "content",
    "problem",
)  # fmt: skip
MORE_KEYS = ("context", "input")  # what an instruction is about (Dolly, Alpaca)
SYSTEM_KEYS = ("system", "systemprompt")
ANSWER_KEYS = ("response", "output", "answer", "completion", "solution")
PROMPT_LENGTH_KEYS = (
    "inputlength", "contexttokens", "requesttokens", "prompttokens", "inputtokens", "numprefilltokens", "promptlength",
    "promptlen", "inputlen", "prompttokenscount",
)  # fmt: skip
OUTPUT_LENGTH_KEYS = (
    "maxtokens", "maxcompletiontokens", "maxnewtokens", "outputlength", "generatedtokens", "responsetokens",
    "outputtokens", "completiontokens", "numdecodetokens", "outputlen", "outputtokenscount",
)  # fmt: skip
_ARRIVAL_UNITS_S = {
    "timestamp": None, "timestampms": 1e-3, "timestamps": 1.0, "arrivals": 1.0, "arrivaltimes": 1.0, "arrivaltime": 1.0,
    "arrivedat": 1.0,
}  # fmt: skip
CONVERSATION_KEYS = ("conversations", "conversation", "turns")
KNOWN = {
    *PROMPT_KEYS, *MORE_KEYS, *SYSTEM_KEYS, *ANSWER_KEYS, *PROMPT_LENGTH_KEYS, *OUTPUT_LENGTH_KEYS,
    *_ARRIVAL_UNITS_S, *CONVERSATION_KEYS, "messages", "tools", "hashids", "chatid", "body", "url", "customid",
}  # fmt: skip


def plain(name: str) -> str:
    """A key's name as keys are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_known(name: str) -> bool:
    """Whether a column of this name says anything here."""
    return plain(name) in KNOWN


@lru_cache(maxsize=4096)
def by_name(keys: tuple[str, ...]) -> dict[str, str]:
    """Known name → the key under which a record has it."""
    return {plain(key): key for key in reversed(keys) if plain(key) in KNOWN}


def count(value: Any, what: str) -> int | None:
    """A number of tokens: whole, as `8`, `8.0` or `"8"`; None where there is none (null, NaN)."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise Malformed(f"{what} = {str(value)[:40]!r}: expected a whole number") from None
    if math.isnan(number) and not isinstance(value, bool):
        return None
    if not number.is_integer() or not 0 <= number < 2**31:
        raise Malformed(f"{what} = {value!r}: expected a whole number of at least 1")
    return int(number)


def arrival_s(value: dict[str, Any], names: dict[str, str], table: bool) -> float | None:
    """Seconds from wherever the file counts; `timestamp` in milliseconds, in tables and Bailian's traces in seconds."""
    for name, unit_s in _ARRIVAL_UNITS_S.items():
        if name not in names or (said := value[names[name]]) is None:
            continue
        if isinstance(said, datetime):
            return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
        try:
            number = float(said)
        except (TypeError, ValueError):
            return _instant(said)
        if not math.isfinite(number):
            continue
        return number * (unit_s or (1.0 if table or "chatid" in names else 1e-3))
    return None


def _instant(said: Any) -> float | None:
    """A time such as 2023-11-16 18:17:03.9799600; None for anything else, which matters only where times are needed."""
    try:
        instant = datetime.fromisoformat(said)
    except (TypeError, ValueError):
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
