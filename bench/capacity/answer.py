"""What a search found: the capacity with its interval, what limits it, where latency leaves its floor. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.capacity.estimate import COVERAGE, estimate
from bench.capacity.judging import Judged
from bench.capacity.size import Floor, Over
from bench.capacity.steps import End, Point, informative

KNEE = 2.0  # times the floor
_NEAR = 1.25  # a level up to so many times the capacity tells what limits it

Why = End | Literal["floor", "time", "stopped"]


@dataclass(frozen=True)
class Measured:
    """A point of the search, as it was judged, and what it is called in the run."""

    cell_id: str
    level: float
    judged: Judged

    @property
    def point(self) -> Point:
        return Point(self.level, self.judged.verdict)


def answer(over: Over, measured: Sequence[Measured], floor: Floor | None, why: Why | None) -> dict[str, Any]:
    """The result of a search that ended for the reason `why` (None: it goes on), as run.json has it.

    `low`, `value`, `high` are in requests/s or in concurrent requests; `low` alone: it is at least that; `high` alone:
    below that. `goodput_rps`: requests within the limits per second at the highest level that passed, up to `value`.
    """
    verdicts = informative([one.point for one in measured])
    passed, failed = ([level for level, ok in verdicts if ok is which] for which in (True, False))
    low, value, high = max(passed, default=None), None, min(failed, default=None)
    if passed and failed:
        found = estimate(verdicts)
        low, value, high = found.low, found.value, found.high
    at, goodput = _goodput(measured, high if value is None else value)
    return {
        "over": over,
        "ended": why,
        "low": low,
        "value": value,
        "high": high,
        "coverage": COVERAGE if value is not None else None,
        "limiting": _limiting(measured, value, high),
        "knee": knee(measured, floor),
        "goodput_rps": goodput,
        "goodput_at": at,
        "points": len(measured),
    }


def _goodput(measured: Sequence[Measured], limit: float | None) -> tuple[float | None, float | None]:
    passed = [one for one in measured if one.judged.verdict == "pass"]
    below = [one for one in passed if limit is None or one.level <= limit] or passed
    if not below:
        return None, None
    level = max(one.level for one in below)
    values = [one.judged.goodput_rps for one in below if one.level == level and one.judged.goodput_rps is not None]
    return (level, sum(values) / len(values)) if values else (level, None)


def _limiting(measured: Sequence[Measured], value: float | None, high: float | None) -> list[str]:
    """The conditions missed most often by the levels that failed next above the capacity, the most frequent first."""
    failed = [one for one in measured if one.judged.verdict == "fail"]
    if not failed:
        return []
    up_to = _NEAR * (value or high or 0.0)
    near = [one for one in failed if one.level <= up_to]
    near = near or [one for one in failed if one.level == min(other.level for other in failed)]
    return [name for name, _ in Counter(name for one in near for name in one.judged.missed).most_common()]


def knee(measured: Sequence[Measured], floor: Floor | None) -> dict[str, Any] | None:
    """Between which levels the median latency leaves its floor: rises above KNEE times what an idle server shows.

    Of TTFT, or of E2E where answers come in one piece. None when that was not seen on both sides.
    """
    figure = "e2e" if floor is None or floor.ttft_s is None else "ttft"
    at_rest = None if floor is None else floor.ttft_s or floor.e2e_s
    levels: dict[float, list[float]] = {}
    for one in measured:
        median_s = getattr(one.judged, f"{figure}_p50_s")
        if one.judged.verdict in ("pass", "fail") and median_s is not None:
            levels.setdefault(one.level, []).append(median_s)
    if at_rest is None or not levels:
        return None
    above = {level: sum(values) / len(values) > KNEE * at_rest for level, values in levels.items()}
    first = min((level for level, left in above.items() if left), default=None)
    below = max((level for level in above if first is None or level < first), default=None)
    if first is None or below is None:
        return None
    return {"figure": f"{figure}_p50", "floor_s": at_rest, "times": KNEE, "low": below, "high": first}
