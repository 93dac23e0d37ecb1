"""Which level is measured next, from the verdicts so far. Pure: the same points give the same next level.

First the capacity is bracketed, doubling (or halving) from the start. Then every next level is where the capacity most
likely is (the median of `bench.capacity.estimate`): a bisection that measures again near the limit, until the interval
is as narrow as asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.capacity.estimate import Estimate, estimate

Verdict = Literal["pass", "fail", "invalid", "died"]
End = Literal["found", "nothing", "client", "invalid", "server", "points"]

TRIES = 3  # measurements of a level that gives none which can be believed
DEATHS = 2  # of the server at one level: then it is the level
MOST_POINTS = 60


@dataclass(frozen=True)
class Point:
    """A measured level (requests/s or concurrent requests) and what came of it.

    invalid: the measurement is not to be believed, so it says nothing of the server. died: the server did.
    """

    level: float
    verdict: Verdict


@dataclass(frozen=True)
class Search:
    """What is searched: from `start`, down to `least` (below it the server is idle), `whole` levels or any."""

    start: float
    least: float
    precision: float
    whole: bool = False


@dataclass(frozen=True)
class Stop:
    """No further level. found: precise enough; nothing: even `least` fails; client: the next one was not delivered."""

    why: End


def next_level(search: Search, points: Sequence[Point]) -> float | Stop:
    """The level to measure next, or why there is none."""
    if (again := _again(points)) is not None and len(points) < MOST_POINTS:
        return again
    verdicts, ceiling = informative(points), unreachable(points)
    why = "points" if len(points) >= MOST_POINTS else _end(search, verdicts, ceiling)
    return Stop(why) if why else _rounded(search, max(search.least, _wanted(search, verdicts, ceiling)))


def _end(search: Search, verdicts: list[tuple[float, bool]], ceiling: float | None) -> End | None:
    passed, failed = _levels(verdicts, passed=True), _levels(verdicts, passed=False)
    if ceiling is not None and ceiling <= max(passed + failed, default=search.least):
        return "invalid"
    if passed and failed:
        return "found" if precise(search, estimate(verdicts)) else None
    if failed:
        return "nothing" if min(failed) <= search.least else None
    if passed and ceiling is not None:
        near = math.log(ceiling / max(passed)) <= 2 * search.precision
        return "client" if near or (search.whole and ceiling - max(passed) <= 1) else None
    return None


def _wanted(search: Search, verdicts: list[tuple[float, bool]], ceiling: float | None) -> float:
    passed, failed = _levels(verdicts, passed=True), _levels(verdicts, passed=False)
    if passed and failed:
        found = estimate(verdicts)
        return _nearest_doubt(found) if search.whole else found.value
    if passed:
        return 2 * max(passed) if ceiling is None else math.sqrt(max(passed) * ceiling)
    if failed:
        return min(failed) / 2
    return search.start if ceiling is None else ceiling / 2


def _nearest_doubt(found: Estimate) -> float:
    """Of the two whole levels about the capacity the one whose verdict is less sure."""
    below = max(1, math.floor(found.value))
    return below if below / found.low >= found.high / (below + 1) else below + 1


def _levels(verdicts: list[tuple[float, bool]], *, passed: bool) -> list[float]:
    return [level for level, ok in verdicts if ok is passed]


def informative(points: Sequence[Point]) -> list[tuple[float, bool]]:
    """(level, passed) of the points that say something of the server. One that dies twice at a level fails there."""
    died = [point.level for point in points if point.verdict == "died"]
    told = [(point.level, point.verdict == "pass") for point in points if point.verdict in ("pass", "fail")]
    return told + [(level, False) for level in dict.fromkeys(died) for _ in range(died.count(level) // DEATHS)]


def unreachable(points: Sequence[Point]) -> float | None:
    """The lowest level that gave no measurement to be believed in TRIES attempts: the client could not deliver it."""
    tried = [point.level for point in points if point.verdict == "invalid"]
    told = {level for level, _ in informative(points)}
    return min((level for level in tried if tried.count(level) >= TRIES and level not in told), default=None)


def precise(search: Search, found: Estimate) -> bool:
    """Whether the interval is as narrow as asked for, or lies between two neighbouring whole levels."""
    between = search.whole and math.floor(found.value) <= found.low and found.high <= math.floor(found.value) + 1
    return found.precision <= search.precision or between


def _again(points: Sequence[Point]) -> float | None:
    """The last level once more, when it has not said anything yet and may."""
    if not points or points[-1].verdict in ("pass", "fail"):
        return None
    last = points[-1]
    same = [point.verdict for point in points if point.level == last.level]
    if last.verdict == "died":
        return last.level if same.count("died") % DEATHS else None
    return last.level if same.count("invalid") < TRIES else None


def _rounded(search: Search, level: float) -> float:
    """A level to be named: whole, or with three digits."""
    return float(max(1, round(level))) if search.whole else float(f"{level:.3g}")
