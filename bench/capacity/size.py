"""How large the points of a search are, where it starts, and what it will take. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.capacity.steps import Point, Search, Stop, next_level
from bench.capacity.warmup import AT_MOST
from bench.plans.loads import Load
from bench.run.slo import MISSED, Condition

FLOOR_REQUESTS = 10  # one at a time, to see how long an answer takes on an idle server; a median needs five
LEAST_POINT_S = 10.0
_QUEUE_SHOWS = 2.0
_ANSWERS_DEEP = 10.0  # a point lasts so many answers, of which the batch needs some to fill
_EACH_USER = 8
_IDLE_SHARE = 0.1  # of the time that a server is busy at the least rate
_BETWEEN_S = 5.0  # from point to point: a load generator is started, the server warmed and emptied
_START_IN_FLIGHT = 4  # a rate too high is seen sooner than one too low: its point is ended early
_IN_FLIGHT = 10  # times as many as an idle server would hold
_MOST_IN_FLIGHT = 10_000

Over = Literal["rate", "concurrency"]


@dataclass(frozen=True)
class Floor:
    """What one request at a time sees, in seconds: medians. `ttft_s` is None where answers come in one piece."""

    ttft_s: float | None
    e2e_s: float


@dataclass(frozen=True)
class Size:
    """A point's requests, and how long they are expected to take, in seconds."""

    requests: int
    expected_s: float


def least_requests(conditions: Sequence[Condition]) -> int:
    """The requests that the SLO's figures need after the longest warm-up."""
    return math.ceil(max(one.samples for one in conditions) / (1 - AT_MOST))


def least_seconds(
    conditions: Sequence[Condition], limits: Mapping[str, float], floor: Floor, precision: float
) -> float:
    """How long a point lasts at least.

    A rate that is above the capacity by `precision` makes a queue whose wait grows by `precision` seconds a second, so
    it shows in a limit of L seconds only after L / precision: twice that, counted from the idle server's latency. And
    ten answers long, so that the batch has filled.
    """
    room = [room for one in conditions for room in _rooms(one, limits, floor) if room > 0]
    queue_s = _QUEUE_SHOWS * min(room) / precision if room else 0.0
    return max(LEAST_POINT_S, queue_s, _ANSWERS_DEEP * floor.e2e_s)


def _rooms(condition: Condition, limits: Mapping[str, float], floor: Floor) -> list[float]:
    """How far a latency that a queue makes longer may rise from the floor."""
    sought = dict(limits) if condition.figure == MISSED else {f"{condition.figure}_s": condition.limit}
    floors = {"ttft_s": floor.ttft_s or 0.0, "e2e_s": floor.e2e_s}
    return [limit - floors[name] for name, limit in sought.items() if name in floors]


def bounds_queue(conditions: Sequence[Condition], limits: Mapping[str, float]) -> bool:
    """Whether any condition is on a latency that a queue makes longer: without one every rate would pass."""
    return bool([room for one in conditions for room in _rooms(one, limits, Floor(0.0, 0.0))])


def size(over: Over, level: float, requests: int, seconds: float, floor: Floor) -> Size:
    """A point at `level` with at least so many requests and so many seconds."""
    if over == "rate":
        sent = max(requests, math.ceil(level * seconds))
        return Size(sent, sent / level)
    users = int(level)
    sent = max(requests, _EACH_USER * users)
    return Size(sent, sent * floor.e2e_s / users)  # at best: many at once take longer each


def floor_load(template: Load, name: str) -> Load:
    """One request at a time."""
    return _varied(template, name, kind="closed", concurrency=1, requests=FLOOR_REQUESTS, processes=1)


def point_load(template: Load, name: str, over: Over, level: float, sent: Size, floor: Floor) -> Load:
    """The load of a point: the template's requests at another level."""
    if over == "concurrency":
        return _varied(template, name, kind="closed", concurrency=int(level), requests=sent.requests)
    in_flight = min(_MOST_IN_FLIGHT, math.ceil(_IN_FLIGHT * level * floor.e2e_s))
    most = max(template.max_in_flight, in_flight)
    return _varied(template, name, kind="open", rate_rps=level, requests=sent.requests, max_in_flight=most)


def _varied(template: Load, name: str, **changes: Any) -> Load:
    free = {"concurrency": None, "rate_rps": None, "requests": None, "seconds": None}
    changed = {**template.model_dump(), **free, "name": name, **changes}
    if changed["kind"] == "closed":
        changed |= {"arrival": "poisson", "burstiness": None}
    if changed["concurrency"] is not None:
        changed["processes"] = min(changed["processes"], changed["concurrency"])
    return Load.model_validate(changed)


def search_of(over: Over, precision: float, floor: Floor, start: float | None) -> Search:
    """The search of a server with this floor. `start`: the first level, where somebody names one or something is known
    of the server; it may lie below the rate at which a server counts as idle, and is then the least."""
    if over == "concurrency":
        return Search(max(1.0, round(start or _START_IN_FLIGHT)), 1.0, precision, whole=True)
    first, idle = start or _START_IN_FLIGHT / floor.e2e_s, _IDLE_SHARE / floor.e2e_s
    first, least = (float(f"{rate:.3g}") for rate in (first, min(first, idle)))
    return Search(first, least, precision)


def outlook(search: Search, over: Over, requests: int, seconds: float, floor: Floor) -> tuple[int, float]:
    """(points, seconds) of a search whose capacity turns out to be somewhat above its start, were no verdict luck."""
    capacity, points, spent_s = 1.4 * search.start, list[Point](), 0.0
    while not isinstance(level := next_level(search, points), Stop):
        spent_s += _BETWEEN_S + size(over, level, requests, seconds, floor).expected_s
        points.append(Point(level, "pass" if level <= capacity else "fail"))
    return len(points), spent_s
