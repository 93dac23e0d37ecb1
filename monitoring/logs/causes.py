"""The table of causes: what a line must show to name one, the cause in a sentence, and what to do about it."""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TABLE = Path(__file__).with_name("causes.toml")


@dataclass(frozen=True)
class Cause:
    """One entry of causes.toml, where each field is explained."""

    name: str
    pattern: re.Pattern[str]
    says: str
    todo: str
    kind: str = "failed"
    serving: Literal["ends", "requests"] | None = None
    weak: bool = False
    on_info: bool = False


@functools.cache
def causes() -> tuple[Cause, ...]:
    """All causes, the particular before the general."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(Cause(name, _any_of(entry.pop("patterns")), **entry) for name, entry in table.items())


# What differs between two lines that say the same: long numbers, addresses, digests. Errors have shorter numbers.
_PARTICULARS = re.compile(r"\d{4,}|\b(?:0x)?[0-9a-f]{8,}\b")


def shown(text: str) -> Cause | None:
    """The first cause that a line's text shows."""
    return _shown(_PARTICULARS.sub("#", text))


@functools.lru_cache(maxsize=8192)  # a flood of errors says a few things again and again
def _shown(text: str) -> Cause | None:
    if not _any_cause().search(text):
        return None
    return next((cause for cause in causes() if cause.pattern.search(text)), None)


@functools.cache
def _any_cause() -> re.Pattern[str]:
    """Most lines show none, which one search finds out."""
    return re.compile("|".join(cause.pattern.pattern for cause in causes()))


def begun(text: str) -> Cause | None:
    """The cause with which a line of level INFO begins, of those that are written there."""
    return next((cause for cause in causes() if cause.on_info and cause.pattern.match(text)), None)


def _any_of(patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in patterns.split("\n") if one))
