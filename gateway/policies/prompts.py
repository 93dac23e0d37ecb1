"""What a request is like: its model, its text, how hard that looks, its language, what ties it to others. Pure.

`route.lua` holds the same rules for HAProxy; a test holds the two against each other over the same prompts.

The deployment guide (§2.3) adds up length, code, mathematics and lines. So a prompt without length can reach 0.7 at
most and never counts as hard (above 0.8), while 1,601 characters of anything do by themselves; and two prices in
dollars count as mathematics. Here each marker takes away a share of what is left to 1: three markers, or two and a long
text, are hard; length alone is not.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONG_CHARACTERS = 8000
LENGTH_WEIGHT = 0.4
MARKER_WEIGHT = 0.45
MANY_LINES = 10  # more than these, as in the guide
READ_CHARACTERS = 400  # of a text, to tell its language
LEAST_SHARE = 0.3  # of its letters
PREFIX_BYTES = 512

_CODE = b"```"
_FORMULA = re.compile(rb"\$\$|\\\(|\\\[|\\frac|\$[^$\n]*[\\^_=][^$\n]*\$")
_REASONING = tuple(
    word.encode()
    for word in (
        "step by step",
        "prove ",
        "derive ",
        "algorithm",
        "complexity of",
        "optimi",
        "debug",
        "refactor",
        "trade-off",
        "counterexample",
        "证明",
        "推导",
        "一步一步",
        "算法",
    )
)
_SCRIPTS = (
    ("han", ((0x3400, 0x4DBF), (0x4E00, 0x9FFF))),
    ("kana", ((0x3040, 0x30FF),)),
    ("ko", ((0x1100, 0x11FF), (0xAC00, 0xD7AF))),
    ("ru", ((0x0400, 0x04FF),)),
    ("ar", ((0x0600, 0x06FF),)),
    ("hi", ((0x0900, 0x097F),)),
    ("latin", ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F))),
)


@dataclass(frozen=True)
class Ask:
    """What a request's body says: None and empty mean that it does not say it."""

    model: str | None = None
    text: str = ""
    prefix: str = ""
    session: str | None = None


def read(body: bytes) -> Ask | None:
    """What an OpenAI-compatible body asks for; None when it is no JSON object."""
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    model = document.get("model")
    text, prefix = _texts(document)
    session = next((one for key in ("prompt_cache_key", "user") if (one := _word(document.get(key)))), None)
    return Ask(_word(model), _mended(text), _mended(prefix), session)


def _mended(text: str) -> str:
    """Half a surrogate pair, which JSON lets stand and UTF-8 does not, becomes the mark for what is no character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _word(value: Any) -> str | None:
    return _mended(value) if isinstance(value, str) and value else None


def _texts(document: Mapping[str, Any]) -> tuple[str, str]:
    """The text that is asked now (the last message of the user), and the one that the request begins with."""
    messages = document.get("messages")
    if isinstance(messages, list) and messages:
        known = [one for one in messages if isinstance(one, dict)]
        asked = next((one for one in reversed(known) if one.get("role") == "user"), known[-1] if known else {})
        return _content(asked.get("content")), _content(known[0].get("content") if known else None)
    for key in ("prompt", "prompts", "input"):
        value = document.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value, value
    return "", ""


def _content(value: Any) -> str:
    """A message's text; of several parts those that are text."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    return "\n".join(one["text"] for one in parts if isinstance(one, dict) and isinstance(one.get("text"), str))


def complexity(text: str) -> float:
    """How hard a text looks, from 0 to below 1: its length, code, formulas, many lines, words of reasoning."""
    raw = text.encode()
    lowered = raw.lower()  # of bytes: ASCII letters alone, as in Lua
    left = 1 - LENGTH_WEIGHT * min(len(text) / LONG_CHARACTERS, 1)
    for marker in (
        _CODE in raw,
        _FORMULA.search(raw) is not None,
        raw.count(b"\n") >= MANY_LINES,
        any(word in lowered for word in _REASONING),
    ):
        if marker:
            left = left * (1 - MARKER_WEIGHT)
    return 1 - left


def language(text: str) -> str | None:
    """The language that a text's script tells: zh, ja, ko, ru, ar, hi; None for Latin letters and for none."""
    counts = dict.fromkeys((name for name, _ in _SCRIPTS), 0)
    for character in text[:READ_CHARACTERS]:
        code = ord(character)
        for name, ranges in _SCRIPTS:
            if any(low <= code <= high for low, high in ranges):
                counts[name] += 1
                break
    total = sum(counts.values())
    if not total:
        return None
    east = counts["han"] + counts["kana"]
    if east >= LEAST_SHARE * total:
        return "ja" if counts["kana"] >= 0.1 * east else "zh"
    return next((name for name in ("ko", "ru", "ar", "hi") if counts[name] >= LEAST_SHARE * total), None)


def affinity(ask: Ask, kind: str, session: str | None = None) -> bytes | None:
    """What requests have in common that shall reach the same server: a session's name, or how they begin.

    `session` is the header x-nbridge-session. None: the request is tied to nothing.
    """
    if kind == "session":
        return (session or ask.session or "").encode() or None
    if kind == "prefix":
        return ask.prefix.encode()[:PREFIX_BYTES] or None
    return None
