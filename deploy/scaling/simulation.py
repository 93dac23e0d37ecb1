"""A day played request by request: demand, replicas, what waits, who misses the objective. Pure.

Requests come by chance (Poisson; evenly with `seed` None) or when they came in a record of arrivals, and go to the
ready replica with the least in work; deploy.scaling.serving says what a replica does with them. One that is ended
drains: it takes nothing new, and what it has not done after `drain_s` is cut. Not in the model: caches, failures,
prompts and answers that differ other than in the work they are.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploy.scaling.autoscaler import Autoscaler, Memory, decide
from deploy.scaling.demand import Day
from deploy.scaling.replica import Replica
from deploy.scaling.serving import Pace, Pod, Tally, serve

RATE_WINDOW_S = 60  # requests per second are read as a rate over a minute
WORK_WINDOW_S = 60  # requests in work are averaged over a minute, so that a burst orders nothing
CPU_WINDOW_S = 60  # and so is the time of processors, as by the metrics-server
SAMPLE_S = 60
_CHUNK_S = 3600

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Played:
    """What a day came to; `missed` are those beyond the objective and those turned away.

    Series have a value a minute: the mean of its seconds, replicas as they were at its end.
    """

    requests: int
    missed: int
    refused: int
    cut: int
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
    """What does not depend on the autoscaler. `instants`: when each request came, where that is known; else `day`
    says how many are to be expected."""

    replica: Replica
    day: Day
    instants: tuple[float, ...] | None = None
    provision_s: float = 0.0
    drain_s: float = 120.0
    wait_limit_s: float = 30.0  # who would wait longer is turned away, as by the gateway's limits.queue_s
    cpu_busy_share: float = 1.0  # of the CPU request, that an engine with work uses
    scrape_s: int = 5
    seed: int | None = 0


def arrivals(world: World) -> Iterator[list[tuple[float, float]]]:
    """The requests of each second of the day: when each comes, in rising order, and its work."""
    last = int(world.day[-1][0])
    times, rates = zip(*world.day, strict=True)
    chance = np.random.default_rng(0 if world.seed is None else world.seed)
    spread = world.replica.work_cv
    came = None if world.instants is None else np.asarray(world.instants)
    before = 0.0
    for start in range(0, last, _CHUNK_S):
        seconds = np.arange(start, min(start + _CHUNK_S, last))
        expected = np.interp(seconds + 0.5, times, rates)
        if came is not None:
            left, right = np.searchsorted(came, (start, seconds[-1] + 1))
            at_s = came[left:right]
        elif world.seed is None:
            at_s = _even(seconds, expected, before)
            before += float(expected.sum())
        else:
            counts = chance.poisson(expected)
            at_s = np.sort(np.repeat(seconds, counts) + chance.random(int(counts.sum())))
        work = np.ones(at_s.size) if spread < 0.01 else chance.gamma(spread**-2, spread**2, at_s.size)
        edges = np.searchsorted(at_s, (*seconds, seconds[-1] + 1))
        both = list(zip(at_s.tolist(), work.tolist(), strict=True))
        yield from (both[left:right] for left, right in itertools.pairwise(edges))


def _even(seconds: npt.NDArray[np.int64], expected: Floats, before: float) -> Floats:
    """When each whole request is due, if `before` were due before these seconds and they come without chance."""
    due = before + np.concatenate([[0.0], np.cumsum(expected)])
    wanted = np.arange(np.ceil(due[0] - 0.5), np.ceil(due[-1] - 0.5)) + 0.5
    return np.asarray(np.interp(wanted, due, (*seconds, seconds[-1] + 1)))


def play(world: World, scaler: Autoscaler, start_replicas: int) -> Played:
    """One day under one autoscaler, from so many ready replicas on (at least one)."""
    pace, tally, memory = Pace(world.replica), Tally(), Memory()
    pods = [Pod(pace) for _ in range(start_replicas)]
    leaving: list[Pod] = []
    hours, requests, most, changes = 0.0, 0, start_replicas, 0
    seen: dict[str, float | None] = {}
    work: deque[float] = deque(maxlen=WORK_WINDOW_S // world.scrape_s)
    busy: deque[float] = deque(maxlen=CPU_WINDOW_S)
    ended: deque[float] = deque(maxlen=RATE_WINDOW_S)
    series: dict[str, list[float]] = {"waiting": [], "replicas": [], "missed": [], "arrivals": []}
    for second, coming in enumerate(arrivals(world)):
        ready = [pod for pod in pods if pod.ready_at_s <= second]  # never none: the oldest are kept
        before = tally.ended
        serve(ready, coming, world.wait_limit_s, tally)
        requests += len(coming)
        for pod in (*ready, *leaving):
            pod.play(second + 1.0, tally)
        ended.append(tally.ended - before)
        busy.append(sum(1 for pod in ready if pod.in_work) / len(ready))
        for pod in leaving:
            if pod.ends_at_s is not None and second >= pod.ends_at_s:
                pod.cut(tally)
        hours += (len(pods) + len(leaving)) / 3600
        leaving = [pod for pod in leaving if pod.in_work]
        if second % world.scrape_s == 0:
            work.append(sum(pod.in_work for pod in ready))
            seen = _seen(world, ready, work, busy, ended)
        if second % int(scaler.sync_s) == 0 and second:
            wanted = decide(scaler, memory, float(second), len(pods), len(ready), seen)
            if wanted != len(pods):
                changes += 1
                pods, gone = _resized(pods, wanted, second, world, pace)
                leaving += gone
            most = max(most, len(pods))
        if second % SAMPLE_S == 0:
            for values in series.values():
                values.append(0.0)
        series["waiting"][-1] += sum(pod.waiting for pod in ready) / SAMPLE_S
        series["arrivals"][-1] += len(coming) / SAMPLE_S
        series["missed"][-1] = float(tally.missed + tally.refused)
        series["replicas"][-1] = float(len(pods))
    for pod in (*pods, *leaving):
        pod.play(math.inf, tally)  # who waits at the end still gets a turn
    return Played(
        requests=requests,
        missed=tally.missed + tally.refused,
        refused=tally.refused,
        cut=tally.cut,
        wait_mean_s=tally.waited_s / tally.begun if tally.begun else 0.0,
        wait_max_s=tally.wait_max_s,
        replica_hours=hours,
        replicas_most=most,
        changes=changes,
        minutes=series,
    )


def _seen(
    world: World, ready: list[Pod], work: deque[float], busy: deque[float], ended: deque[float]
) -> dict[str, float | None]:
    """What an autoscaler's metrics say now: totals over pods that answer, averages of them."""
    rate_rps = sum(ended) / len(ended)
    return {
        "waiting": float(sum(pod.waiting for pod in ready)),
        "in_work": sum(work) / len(work),
        "total_rps": rate_rps,
        "rate_rps": rate_rps / len(ready),
        "cpu": world.cpu_busy_share * sum(busy) / len(busy),
    }


def _resized(pods: list[Pod], wanted: int, second: int, world: World, pace: Pace) -> tuple[list[Pod], list[Pod]]:
    """The pods after a change, and those that drain. Ended first are those that are not ready, then the newest."""
    if wanted > len(pods):
        ready_at_s = second + world.provision_s + world.replica.start_s
        return [*pods, *(Pod(pace, ready_at_s) for _ in range(wanted - len(pods)))], []
    kept = sorted(pods, key=lambda pod: pod.ready_at_s)
    ended = kept[wanted:]
    for pod in ended:
        pod.ends_at_s = second + world.drain_s
    return kept[:wanted], [pod for pod in ended if pod.ready_at_s <= second]
