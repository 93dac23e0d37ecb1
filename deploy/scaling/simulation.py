"""A day played second by second: demand, replicas, what waits, who misses the objective. Pure.

Requests are counted, not followed: in every second a replica ends as many as it was measured to end with so many in
work, and what is more than its places waits. Arrivals are Poisson, or even with `seed` None. New requests go to the
ready replica with the least in work. One that is ended drains: it takes nothing new, and what it has not done after
`drain_s` is cut. Not in the model: differences between requests, caches, failures.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from deploy.scaling.autoscaler import Autoscaler, Memory, decide
from deploy.scaling.demand import Day
from deploy.scaling.replica import Replica

RATE_WINDOW_S = 60  # requests per second are read as a rate over a minute
WORK_WINDOW_S = 60  # requests in work are averaged over a minute, so that a burst orders nothing
SAMPLE_S = 60


@dataclass
class _Pod:
    ready_at_s: float
    in_work: float = 0.0
    ends_at_s: float | None = None  # draining until then


@dataclass(frozen=True)
class Played:
    """What a day came to; `missed` are those beyond the objective and those turned away.

    Series have a value a minute: the mean of its seconds, replicas as they were at its end.
    """

    requests: int
    missed: float
    refused: float
    cut: float
    wait_mean_s: float
    wait_max_s: float
    replica_hours: float
    replicas_most: int
    changes: int
    minutes: dict[str, list[float]] = field(repr=False, default_factory=dict)

    @property
    def missed_share(self) -> float:
        return self.missed / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class World:
    """What does not depend on the autoscaler."""

    replica: Replica
    day: Day
    provision_s: float = 0.0
    drain_s: float = 120.0
    wait_limit_s: float = 30.0  # who would wait longer is turned away, as by the gateway's limits.queue_s
    cpu_busy_share: float = 1.0  # of the CPU request, that an engine with work uses
    scrape_s: int = 5
    seed: int | None = 0


def arrivals(world: World) -> list[float]:
    """Requests in each second of the day."""
    times, rates = zip(*world.day, strict=True)
    expected = np.interp(np.arange(int(times[-1])) + 0.5, times, rates)
    if world.seed is None:
        return [float(one) for one in expected]
    return [float(one) for one in np.random.default_rng(world.seed).poisson(expected)]


def play(world: World, scaler: Autoscaler, start_replicas: int) -> Played:
    """One day under one autoscaler, from so many ready replicas on (at least one)."""
    coming = arrivals(world)
    pods = [_Pod(0.0) for _ in range(start_replicas)]
    leaving: list[_Pod] = []
    memory = Memory()
    missed = refused = cut = waited_s = wait_max_s = hours = 0.0
    most, changes = start_replicas, 0
    seen: dict[str, float | None] = {}
    busy: deque[float] = deque(maxlen=WORK_WINDOW_S // world.scrape_s)
    ended: deque[float] = deque(maxlen=RATE_WINDOW_S)
    series: dict[str, list[float]] = {"waiting": [], "replicas": [], "missed": [], "arrivals": []}
    for second in range(len(coming)):
        ready = [pod for pod in pods if pod.ready_at_s <= second]  # never none: the oldest are kept
        came = _admit(world, ready, coming[second])
        missed, refused = missed + came.missed + came.refused, refused + came.refused
        waited_s, wait_max_s = waited_s + came.waits_s, max(wait_max_s, came.longest_s)
        ended.append(_work(world.replica, (*ready, *leaving)))
        for pod in leaving:
            if pod.ends_at_s is not None and second >= pod.ends_at_s:
                cut += pod.in_work
                pod.in_work = 0.0
        hours += (len(pods) + len(leaving)) / 3600
        leaving = [pod for pod in leaving if pod.in_work > 1e-9]
        if second % world.scrape_s == 0:
            seen = _seen(world, ready, busy, ended)
        if second % int(scaler.sync_s) == 0 and second:
            wanted = decide(scaler, memory, float(second), len(pods), len(ready), seen)
            if wanted != len(pods):
                changes += 1
                pods, gone = _resized(pods, wanted, second, world)
                leaving += gone
            most = max(most, len(pods))
        if second % SAMPLE_S == 0:
            for values in series.values():
                values.append(0.0)
        series["waiting"][-1] += sum(max(0.0, pod.in_work - world.replica.places) for pod in ready) / SAMPLE_S
        series["arrivals"][-1] += coming[second] / SAMPLE_S
        series["missed"][-1] = missed
        series["replicas"][-1] = float(len(pods))
    total = round(sum(coming))
    taken = sum(coming) - refused
    return Played(
        requests=total,
        missed=missed,
        refused=refused,
        cut=cut,
        wait_mean_s=waited_s / taken if taken > 0 else 0.0,
        wait_max_s=wait_max_s,
        replica_hours=hours,
        replicas_most=most,
        changes=changes,
        minutes=series,
    )


@dataclass
class _Came:
    """What became of the requests of one second: beyond the objective, turned away, and how long they wait."""

    missed: float = 0.0
    refused: float = 0.0
    waits_s: float = 0.0
    longest_s: float = 0.0


def _admit(world: World, ready: list[_Pod], new: float) -> _Came:
    """Give `new` requests to the replicas with the least in work, as many as would not wait longer than they may."""
    replica, came = world.replica, _Came()
    top = replica.rate_rps(replica.places)
    full = replica.places + top * world.wait_limit_s
    room = sum(max(0.0, full - pod.in_work) for pod in ready)
    came.refused = max(0.0, new - room)
    level = _level([pod.in_work for pod in ready], new - came.refused)
    for pod in ready:
        taken = level - pod.in_work
        if taken <= 0:
            continue
        # The middle one of those that came in this second stands for them.
        wait_s = max(0.0, pod.in_work + taken / 2 - replica.places) / top
        came.waits_s += taken * wait_s
        came.longest_s = max(came.longest_s, wait_s)
        if wait_s + replica.ttft_s(pod.in_work + taken / 2) > replica.ttft_limit_s * (1 + 1e-9):
            came.missed += taken
        pod.in_work = level
    return came


def _work(replica: Replica, pods: tuple[_Pod, ...]) -> float:
    """Let every replica work for a second; how many requests were ended."""
    done = 0.0
    for pod in pods:
        step = min(pod.in_work, replica.rate_rps(pod.in_work))
        pod.in_work -= step
        done += step
    return done


def _level(filled: list[float], more: float) -> float:
    """How high all stand when `more` is poured over them, the lowest first."""
    heights = sorted(filled)
    left = more
    for count, height in enumerate(heights, start=1):
        room = (heights[count] - height) * count if count < len(heights) else float("inf")
        if left <= room:
            return height + left / count
        left -= room
    return heights[-1]


def _seen(world: World, ready: list[_Pod], busy: deque[float], ended: deque[float]) -> dict[str, float | None]:
    """What an autoscaler's metrics say now: totals over pods that answer, averages of them."""
    work = [pod.in_work for pod in ready]
    busy.append(sum(work))
    rate_rps = sum(ended) / len(ended)
    return {
        "waiting": sum(max(0.0, one - world.replica.places) for one in work),
        "in_work": sum(busy) / len(busy),
        "total_rps": rate_rps,
        "rate_rps": rate_rps / len(ready),
        "cpu": world.cpu_busy_share * sum(min(1.0, one) for one in work) / len(work),
    }


def _resized(pods: list[_Pod], wanted: int, second: int, world: World) -> tuple[list[_Pod], list[_Pod]]:
    """The pods after a change, and those that drain. Ended first are those that are not ready, then the newest."""
    if wanted > len(pods):
        ready_at_s = second + world.provision_s + world.replica.start_s
        return [*pods, *(_Pod(ready_at_s) for _ in range(wanted - len(pods)))], []
    kept = sorted(pods, key=lambda pod: pod.ready_at_s)
    ended = kept[wanted:]
    for pod in ended:
        pod.ends_at_s = second + world.drain_s
    return kept[:wanted], [pod for pod in ended if pod.ready_at_s <= second]
