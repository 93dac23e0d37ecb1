"""What a prompt file holds, in numbers: `nbridge prompts`."""

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from bench.plans.workload import Vocabulary
from bench.prompts.entry import Entry
from bench.prompts.reading import PromptFile, block_tokens, time_problem
from bench.prompts.requests import CHAT_TEMPLATE_TOKENS, USUAL_BLOCK_TOKENS

SAMPLE = 20_000  # entries whose text is counted in tokens; of a longer file a random sample
PREFIX_BYTES = 64  # shared prefixes of texts are looked for in steps of so many bytes: some 16 tokens
MOST_PIECES = 2_000_000  # of so many a longer file's first entries say how much is shared
PERCENTILES = (5, 50, 90, 95, 99)


@dataclass
class _Prefixes:
    """How much of the prompts an earlier prompt began with, as a prefix cache without limits would find it."""

    seen: set[int] = field(default_factory=set)
    shared: int = 0
    total: int = 0
    entries: int = 0
    pieces: int = 0

    def add(self, parts: list[Any], unit: int, size: int) -> None:
        """One prompt of `size` (tokens or bytes), as the parts of `unit` each that it begins with."""
        if self.pieces >= MOST_PIECES:
            return
        self.pieces += len(parts)
        self.entries += 1
        self.total += size
        chain, found = 0, True
        for number, part in enumerate(parts):
            chain = hash((chain, part))
            if chain not in self.seen:
                found = False
                self.seen.add(chain)
            elif found:
                self.shared += min(unit, size - number * unit)

    def share(self) -> float | None:
        return self.shared / self.total if self.total else None


class _Holdings:
    """What has been seen of a file: of every entry a few numbers, of at most SAMPLE the entry itself."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.sample: list[Entry] = []
        self.text_bytes, self.stated, self.asked, self.needed = array("q"), array("q"), array("q"), array("q")
        self.times, self.time_problem, self.turns = array("d"), "", Counter[int]()
        self.parts, self.prefixes, self.requests = Counter[str](), _Prefixes(), 0
        self._before: Entry | None = None
        self._rng = random.Random(0)

    def add(self, entry: Entry) -> None:
        self.requests += 1
        self.turns[entry.turns] += 1
        self.parts.update(["media"] * entry.media + ["tools"] * ("tools" in entry.parameters))
        if entry.output_tokens is not None:
            self.asked.append(entry.output_tokens)
        if entry.prompt_tokens is not None or isinstance(entry.prompt, list):
            size = entry.prompt_tokens or len(entry.prompt or ())
            self.stated.append(size)
            self.needed.append(size + (entry.output_tokens or 1))
            if entry.blocks:
                self.prefixes.add(list(entry.blocks), self.block_tokens, size)
            else:
                self.prefixes.add(_pieces(entry.prompt, 16), 16, size)
        else:
            text = "\x00".join(entry.texts()).encode()
            self.text_bytes.append(len(text))
            if self.prefixes.pieces < MOST_PIECES:
                self.prefixes.add(_pieces(text, PREFIX_BYTES), PREFIX_BYTES, len(text))
            self._keep(entry)
        if entry.arrival_s is not None:
            self.times.append(entry.arrival_s)
        if not self.time_problem and self.times:
            self.time_problem = time_problem(entry, self._before) or ""
        self._before = entry

    def _keep(self, entry: Entry) -> None:
        """Keeps a uniform random sample of all entries with text."""
        if len(self.sample) < SAMPLE:
            self.sample.append(entry)
        elif (at := self._rng.randrange(len(self.text_bytes))) < SAMPLE:
            self.sample[at] = entry

    def arrivals(self) -> dict[str, Any] | None:
        """Duration and rate of a trace, or the `problem` for which its times cannot be used."""
        if not self.times or self.time_problem:
            return {"problem": self.time_problem} if self.times else None
        offsets = np.asarray(self.times) - self.times[0]
        duration = float(offsets[-1])
        busiest = np.bincount((offsets // 60).astype(np.int64)).max() / 60 if 60 <= duration < 10**8 else None
        return {
            "problem": None,
            "duration_s": duration,
            "mean_rps": len(self.times) / duration if duration > 0 else None,
            "busiest_minute_rps": None if busiest is None else float(busiest),
        }


def summarise(file: PromptFile, vocabulary: Vocabulary | None = None, *, context: int | None = None) -> dict[str, Any]:
    """What `file` is and holds; the answer of `nbridge prompts --json`.

    Lengths are tokens where the file states them or a vocabulary can count them; a text's bytes are given always.
    Reads the file once and keeps little of it. Raises PlanError for a file that is not usable.
    """
    first = islice(PromptFile(file.path, file.column, file.turns), 1_000)
    held = _Holdings(block_tokens(first) or USUAL_BLOCK_TOKENS)
    for entry in file:
        held.add(entry)
    counted = [_counted(entry, vocabulary) for entry in held.sample] if vocabulary is not None else []
    lengths = [*held.stated, *(prompt for prompt, _ in counted)]
    answers = list(held.asked) or [answer for _, answer in counted if answer is not None]
    needed = [*held.needed, *(prompt + CHAT_TEMPLATE_TOKENS + (answer or 1) for prompt, answer in counted)]
    common = sorted(file.skipped.items(), key=lambda item: -item[1].count)
    return {
        "file": str(file.path),
        "container": file.container,
        "format": file.kind,
        "entries": file.records,
        "requests": held.requests,
        "skipped": [{"reason": reason, "count": one.count, "first": one.first} for reason, one in common],
        "prompt_tokens": _spread(lengths),
        "output_tokens": _spread(answers),
        "output_tokens_from": "the file" if held.asked else "recorded answers" if answers else None,
        "tokens_counted_of": len(counted) or None,
        "prompt_bytes": _spread(list(held.text_bytes)),
        "turns": _spread(list(held.turns.elements())),
        "with_media": held.parts["media"],
        "with_tools": held.parts["tools"],
        "shared_prefix_share": held.prefixes.share(),
        "shared_prefix_of": held.prefixes.entries,
        "arrivals": held.arrivals(),
        "context": context,
        "too_long": None if context is None or not needed else sum(need > context for need in needed),
        "too_long_of": None if context is None else len(needed),
    }


def _counted(entry: Entry, vocabulary: Vocabulary) -> tuple[int, int | None]:
    """(prompt tokens, answer tokens) of an entry with text, where the answer was asked for or recorded."""
    prompt = sum(vocabulary.count(text) or 0 for text in entry.texts())
    return prompt, entry.output_tokens or (vocabulary.count(entry.answer) if entry.answer else None)


def _pieces(whole: Any, size: int) -> list[Any]:
    """The whole pieces of `size` at the beginning of a text's bytes or of token ids."""
    cut = [whole[at : at + size] for at in range(0, len(whole or ()) - size + 1, size)]
    return [tuple(piece) if isinstance(piece, list) else piece for piece in cut]


def _spread(values: list[int]) -> dict[str, float | int] | None:
    """n, sum, min, percentiles, max; None for no values."""
    if not values:
        return None
    points = np.quantile(np.asarray(values), [p / 100 for p in PERCENTILES], method="inverted_cdf")
    named = {f"p{p}": int(point) for p, point in zip(PERCENTILES, points, strict=True)}
    return {"n": len(values), "sum": int(sum(values)), "min": int(min(values)), **named, "max": int(max(values))}
