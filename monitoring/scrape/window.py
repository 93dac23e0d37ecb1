"""Several scrapes of one server → what happened between them. Pure; counters that reset keep their rates right.

All instants are seconds of our own monotonic clock, so that a clock that is wrong, here or there, changes no rate.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from monitoring.scrape.metrics import Sample

Labels = frozenset[tuple[str, str]]
START_TIME = "process_start_time_seconds"
_COUNTED = ("_total", "_count", "_bucket", "_sum")


@dataclass(frozen=True)
class Scrape:
    """A metrics page as it was at `at_s`. `server_time_s` is the server's own clock then (Unix), where it told."""

    at_s: float
    series: Mapping[str, Mapping[Labels, float]]
    server_time_s: float | None = None

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of all series of that name with these labels; None when there is none."""
        wanted = labels.items()
        found = [value for have, value in self.series.get(name, {}).items() if wanted <= set(have)]
        return sum(found) if found else None


def scrape(at_s: float, samples: Sequence[Sample], server_time_s: float | None = None) -> Scrape:
    """A scrape of a page's samples; a value that is not a number counts as absent."""
    series: dict[str, dict[Labels, float]] = {}
    for sample in samples:
        if not math.isnan(sample.value):
            series.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Scrape(at_s, series, server_time_s)


@dataclass(frozen=True)
class Bound:
    """Where a percentile lies that is known by its histogram bucket: `more_than` < it ≤ `at_most` (None: no limit)."""

    more_than: float
    at_most: float | None


@dataclass(frozen=True)
class Histogram:
    """What a histogram counted in a window: (upper bound, how many at or below it), ascending, the last one +Inf."""

    cumulative: tuple[tuple[float, float], ...]
    sum: float

    @property
    def count(self) -> float:
        return self.cumulative[-1][1]

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    def percentile(self, q: float) -> Bound | None:
        """The bucket that holds the value which a share `q` of all do not exceed; None without values."""
        if not self.count:
            return None
        rank = max(1.0, math.ceil(q * self.count - 1e-9))
        place = bisect_left([count for _, count in self.cumulative], rank)
        upper = self.cumulative[place][0]
        lower = self.cumulative[place - 1][0] if place else 0.0
        return Bound(lower, None if math.isinf(upper) else upper)

    def share_above(self, limit: float) -> float | None:
        """The exact share of values above `limit` when that is a bucket's bound; else None, as without values."""
        below = dict(self.cumulative).get(limit)
        return None if below is None or not self.count else (self.count - below) / self.count


@dataclass(frozen=True)
class Window:
    """Scrapes of one server in their order; at least one. What only two can tell is None with one."""

    scrapes: Sequence[Scrape]
    _pairs: list[tuple[Scrape, Scrape]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pairs", list(itertools.pairwise(self.scrapes)))

    @property
    def last(self) -> Scrape:
        return self.scrapes[-1]

    @property
    def seconds(self) -> float:
        return self.last.at_s - self.scrapes[0].at_s

    @cached_property
    def resets(self) -> tuple[bool, ...]:
        """For each pair of neighbours, whether the server started anew between them."""
        return tuple(_is_reset(old, new) for old, new in self._pairs)

    @property
    def alternates(self) -> bool:
        """Whether the address leads to several servers in turn: then start times go back as well as forth."""
        starts = [start for one in self.scrapes if (start := one.total(START_TIME)) is not None]
        return any(new < old - 1 for old, new in itertools.pairwise(starts))

    def increase(self, name: str, **labels: str) -> float | None:
        """How much the counters of that name grew in all; None when the window cannot tell."""
        if self.alternates or not self._pairs or self.last.total(name, **labels) is None:
            return None
        grown = self._grown(name)
        return sum(value for have, value in grown.items() if labels.items() <= set(have))

    def increases(self, name: str, label: str) -> dict[str, float]:
        """The increase by the value of one label; empty when the window cannot tell."""
        if self.alternates or not self._pairs:
            return {}
        found: dict[str, float] = {}
        for have, value in self._grown(name).items():
            key = dict(have).get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found

    def rate(self, name: str, **labels: str) -> float | None:
        """The increase per second of the window."""
        grown = self.increase(name, **labels)
        return None if grown is None or self.seconds <= 0 else grown / self.seconds

    def gauge(self, name: str, **labels: str) -> list[float]:
        """The summed gauge of each scrape that has it, in order."""
        return [value for one in self.scrapes if (value := one.total(name, **labels)) is not None]

    def histogram(self, name: str) -> Histogram | None:
        """What the histogram counted, its series added up; None when the window cannot tell, or bounds differ."""
        if self.alternates or not self._pairs or f"{name}_bucket" not in self.last.series:
            return None
        by_bound: dict[float, float] = {}
        for have, value in self._grown(f"{name}_bucket").items():
            try:
                bound = float(dict(have)["le"])
            except (KeyError, ValueError):
                return None
            by_bound[bound] = by_bound.get(bound, 0.0) + value
        cumulative = tuple(sorted(by_bound.items()))
        counts = [count for _, count in cumulative]
        if not cumulative or not math.isinf(cumulative[-1][0]) or counts != sorted(counts):
            return None
        return Histogram(cumulative, sum(self._grown(f"{name}_sum").values()))

    def _grown(self, name: str) -> dict[Labels, float]:
        grown: dict[Labels, float] = {}
        for (old, new), reset in zip(self._pairs, self.resets, strict=True):
            before = old.series.get(name, {})
            for labels, value in new.series.get(name, {}).items():
                # A series that was not there before, or that a new process began, counted from nothing.
                since = 0.0 if reset else before.get(labels, 0.0)
                grown[labels] = grown.get(labels, 0.0) + max(0.0, value - since)
        return grown


def _is_reset(old: Scrape, new: Scrape) -> bool:
    starts = old.total(START_TIME), new.total(START_TIME)
    if starts[0] is not None and starts[1] is not None:
        return abs(starts[1] - starts[0]) > 1
    for name, series in new.series.items():  # several processes share a page that has no start time
        if name.endswith(_COUNTED):
            before = old.series.get(name, {})
            if any(value < before.get(labels, 0.0) for labels, value in series.items()):
                return True
    return False
