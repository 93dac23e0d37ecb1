"""A prompt file read from end to end or as far as it is needed: its requests, what was skipped and why, its times."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import PlanError
from bench.prompts.entries import entries, kind
from bench.prompts.entry import Entry, Malformed, Unusable
from bench.prompts.fields import is_known
from bench.prompts.messages import Turns
from bench.prompts.source import open_source

_MOST_REASONS = 20


@dataclass
class Skipped:
    """How many records were left out for one reason, and where the first of them stands."""

    count: int
    first: str


@dataclass
class PromptFile:
    """A prompt file: iterate to read its requests in order. What it is, and what is skipped, is known as it is read.

    `column` names the column (or key) of the prompt; `turns` says which turns of a recorded conversation are asked.
    """

    path: Path
    column: str | None = None
    turns: Turns = "first"
    container: str = ""
    kind: str = ""
    records: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        """The requests. Raises PlanError for a file that is not usable, with the place and what would work.

        A file without a single usable entry is not usable.
        """
        column = self.column
        source = open_source(self.path, lambda name: is_known(name) or name == column)
        self.container, self.kind, self.records, self.skipped = source.container, "", 0, {}
        table = source.container in ("CSV", "Parquet")
        first, usable = "", 0
        for place, value in source.records:
            self.records += 1
            try:
                what = kind(value, column)
                if not self.kind:
                    self.kind, first = what, place
                if what != self.kind:
                    raise Malformed(f"{what}, but {first} holds {self.kind}: make a file of each")
                for entry in entries(value, what, place, column=column, turns=self.turns, table=table):
                    usable += 1
                    yield entry
            except Unusable as reason:
                self.skip(str(reason), place)
            except Malformed as fault:
                raise PlanError(f"{self.path}: {place}: {fault}.") from None
            except RecursionError:
                raise PlanError(f"{self.path}: {place}: nested too deeply; no request is. Remove it.") from None
        if not usable:
            raise PlanError(
                f"{self.path}: the prompts file has no usable entry: {self.why_skipped() or 'it has none'}."
            )

    def skip(self, reason: str, place: str) -> None:
        """Counts a record that is left out."""
        if reason not in self.skipped and len(self.skipped) >= _MOST_REASONS:
            reason = "other reasons"
        self.skipped.setdefault(reason, Skipped(0, place)).count += 1

    def why_skipped(self) -> str:
        """`2: an empty prompt (first at line 3)`, the commonest reason first; empty when nothing was skipped."""
        common = sorted(self.skipped.items(), key=lambda item: -item[1].count)
        return "; ".join(f"{skipped.count}: {reason} (first at {skipped.first})" for reason, skipped in common)


def time_problem(entry: Entry, before: Entry | None) -> str | None:
    """What is wrong with an entry's arrival time after the one `before` it; None when nothing is."""
    if entry.arrival_s is None:
        return (
            f"{entry.place}: no arrival time; a trace has one in every entry (`timestamp`: in JSON milliseconds, in "
            "CSV seconds or a date; or `arrival_s`)"
        )
    if entry.arrival_s < 0:
        return f"{entry.place}: its arrival time, {entry.arrival_s:g} s, is negative; times count from 0 or are dates"
    if before is not None and before.arrival_s is not None and entry.arrival_s < before.arrival_s:
        return (
            f"{entry.place}: its arrival time is {before.arrival_s - entry.arrival_s:g} s before the one of "
            f"{before.place}; sort the file by its times"
        )
    return None


def timed(
    file: PromptFile, *, speed: float, seconds: float | None, requests: int | None
) -> Iterator[tuple[float, Entry]]:
    """(offset, entry) of a trace's arrivals: seconds after the first one's, divided by `speed`.

    Ends before an offset of `seconds`, or after `requests` entries. Raises PlanError for times that are missing,
    negative or go backwards.
    """
    before: Entry | None = None
    zero_s = 0.0
    for entry in itertools.islice(file, requests):
        if problem := time_problem(entry, before):
            raise PlanError(f"{file.path}: {problem}.")
        if before is None:
            zero_s = entry.arrival_s or 0.0
        before = entry
        offset_s = ((entry.arrival_s or 0.0) - zero_s) / speed
        if seconds is not None and offset_s >= seconds:
            return
        yield offset_s, entry


def block_tokens(traced: Iterable[Entry]) -> int | None:
    """How many tokens one of a trace's blocks holds, from lengths and numbers of blocks; None when they do not agree.

    A trace names a block for every so many tokens: 512 in Mooncake's, 16 in Bailian's. The last one is a part of a
    block (so that number = ceil(length / size)), or is not named (floor).
    """
    sizes: list[int] = [512, 16, *(1 << power for power in range(21))]
    lengths = {(entry.prompt_tokens, len(entry.blocks)) for entry in traced if entry.blocks and entry.prompt_tokens}
    for size in sizes:
        if all(-(-length // size) == count for length, count in lengths):
            return size
    return next((size for size in sizes if all(length // size == count for length, count in lengths)), None)
