"""Held-out texts, and the pieces of them that are scored: the same for every engine with the same tokenizer."""

import gzip
import hashlib
import io
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.errors import PlanError
from bench.plans.tables import LEAST_PIECES, Quality
from bench.prompts.fields import PROMPT_KEYS, is_known, plain
from bench.prompts.source import open_source
from inputs import files

_CHARACTERS_A_TOKEN = 8  # more than any tokenizer makes of ordinary text, so that a piece is rarely short
_LARGEST_BYTES = 256 << 20
_KEYS = ("text", *(key for key in PROMPT_KEYS if key != "text"))


@dataclass(frozen=True)
class Texts:
    """Texts in the order of their file. `name`: what they are, for a reader."""

    name: str
    texts: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one text; those from `scored_from` on are scored, what stands before is their context."""

    text: int
    ids: tuple[int, ...]
    scored_from: int


def read(path: Path) -> Texts:
    """The texts of a file: plain text is one; of JSON, JSON lines, CSV or Parquet each record's `text` is one.

    Raises PlanError for a file that is not usable, with the place and what would work.
    """
    source = open_source(path, lambda name: plain(name) == "text" or is_known(name))
    if source.container == "plain text":
        return Texts(path.name, (_whole(path),))
    texts = tuple(_records(path, source.records))
    if not texts:
        raise PlanError(f"{path}: holds no text: every record's text is empty.")
    return Texts(path.name, texts)


def _whole(path: Path) -> str:
    try:
        raw = files.read_bytes(path, limit_bytes=_LARGEST_BYTES)
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(_LARGEST_BYTES + 1)
        if len(raw) > _LARGEST_BYTES:
            raise PlanError(f"{path}: unpacks to more than {_LARGEST_BYTES >> 20} MiB; a part of it is enough.")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start}); convert it (iconv -t UTF-8)."
        ) from None
    except (OSError, EOFError) as error:
        raise PlanError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def _records(path: Path, records: Iterator[tuple[str, Any]]) -> Iterator[str]:
    for place, record in records:
        text = record if isinstance(record, str) else None
        if isinstance(record, dict):
            named = {plain(str(key)): value for key, value in record.items()}
            key = next((key for key in _KEYS if key in named), None)
            if key is None:
                raise PlanError(f"{path}: {place}: no `text` in it; it has {', '.join(map(str, record)) or 'nothing'}.")
            text = named[key] if isinstance(named[key], str) else ""
        if text is None:
            raise PlanError(f"{path}: {place}: a text, or an object with a `text`, is expected.")
        if text.strip():
            yield text


def cut(texts: Texts, tokenize: Callable[..., list[int]], asked: Quality) -> list[Piece]:
    """Pieces of `window_tokens` scored tokens, spread evenly over the texts, `tokens` in all as far as there are.

    `tokenize(text, special=…)` is the model's own. Each piece begins with what the tokenizer puts before a text (a
    start token, where it has one); without such, its first token is context.
    """
    start = _before(tokenize, texts.texts[0][:200])
    pieces = []
    for text, part in parts(texts, asked):
        ids = tokenize(part, special=False)[: asked.window_tokens + (not start)]
        if len(ids) > (not start):
            pieces.append(Piece(text, (*start, *ids), len(start) or 1))
    return pieces


def _before(tokenize: Callable[..., list[int]], text: str) -> tuple[int, ...]:
    """What a tokenizer puts before a text of its own accord."""
    bare, whole = tokenize(text, special=False), tokenize(text, special=True)
    return tuple(whole[: len(whole) - len(bare)]) if bare and whole[-len(bare) :] == bare else ()


def parts(texts: Texts, asked: Quality) -> list[tuple[int, str]]:
    """(number of the text, part of it) for each piece, spread evenly over all characters.

    No part reaches into another or another text, and none begins inside a word where a text goes on long enough. A part
    has more characters than a piece's tokens take. Raises PlanError when there is too little text.
    """
    room = asked.window_tokens * _CHARACTERS_A_TOKEN
    ends = list(accumulate(map(len, texts.texts)))
    wanted = asked.tokens // asked.window_tokens
    count = wanted if len(texts.texts) >= wanted else min(wanted, ends[-1] // room)
    taken = [0] * len(texts.texts)
    found = []
    for index in range(count):
        place = index * ends[-1] // count
        number = bisect_right(ends, place)
        text = texts.texts[number]
        begin = max(place - ends[number] + len(text), taken[number])
        if begin:
            begin = next((at + 1 for at in range(begin, min(begin + 100, len(text))) if text[at].isspace()), begin)
        if part := text[begin : begin + room]:
            found.append((number, part))
        taken[number] = begin + len(part)
    if len(found) < LEAST_PIECES:
        raise PlanError(
            f"[quality] texts: {texts.name} has {ends[-1]:,} characters, enough for {len(found)} pieces of "
            f"window_tokens = {asked.window_tokens}; at least {LEAST_PIECES} are needed. Give more text, or set a "
            "smaller window_tokens."
        )
    return found
