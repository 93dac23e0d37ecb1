"""What a measured run says of one replica: how much it carries within an objective, how long it starts. Pure.

Throughput and time to first token are taken at the loads that were measured and read off straight lines between them.
Nothing is assumed beyond the heaviest of them: what is more in work than that waits.
"""

import bisect
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.errors import SettingsError
from inputs.quantities import seconds, trimmed
from monitoring.alerting.derivation import Load, measured_loads


@dataclass(frozen=True)
class Replica:
    """`curve`: (in work, requests per second, time to first token), rising; the time is the 95th percentile, or where
    too few requests were measured the longest. `capacity_rps` with `at_capacity` in work keeps `ttft_limit_s`."""

    run: str
    engine: str
    curve: tuple[tuple[float, float, float], ...]
    capacity_rps: float
    at_capacity: float
    ttft_limit_s: float
    start_s: float
    memory_bytes: float | None
    has_gpu: bool
    words: Mapping[str, str]
    work_cv: float = 0.0  # how much requests differ in work: standard deviation over mean

    @property
    def places(self) -> float:
        """The most in work that was measured; more than that waits."""
        return self.curve[-1][0]

    def rate_rps(self, in_work: float) -> float:
        """Requests ended per second with so many in work."""
        return _between(self.curve, min(in_work, self.places), 1, from_zero=True)

    def in_work(self, rate_rps: float) -> float:
        """The fewest in work with which so many end per second."""
        low = (0.0, 0.0)
        for count, rate, _ in self.curve:
            if rate >= rate_rps:
                return low[0] + (count - low[0]) * (rate_rps - low[1]) / (rate - low[1])
            low = max(low, (count, rate), key=lambda point: point[1])
        return self.places

    def ttft_s(self, in_work: float) -> float:
        """Time to first token with so many in work, waiting for a place left out."""
        return _between(self.curve, min(in_work, self.places), 2, from_zero=False)


def _between(curve: Sequence[tuple[float, float, float]], at: float, column: int, *, from_zero: bool) -> float:
    right = bisect.bisect_left(curve, at, key=lambda point: point[0])
    if right == len(curve):
        return curve[-1][column]
    high = curve[right]
    if right == 0:
        return high[column] * at / high[0] if from_zero else high[column]
    low = curve[right - 1]
    share = (at - low[0]) / (high[0] - low[0])
    return low[column] + share * (high[column] - low[column])


def replica(
    document: Mapping[str, Any], *, engine: str | None, ttft_limit_s: float, start_s: float | None = None
) -> Replica:
    """One replica as a run's run.json has it; `start_s` is for runs of servers that ran already. Raises SettingsError
    with what the run does not say."""
    name, loads = measured_loads(document, engine)
    run = str(document.get("run_id", "run"))
    source = f"run {run}, engine {name}"
    told = [(load, found) for load in loads if (found := load.p95_s("ttft_s"))]
    if not told:
        raise SettingsError(f"{source}: no load has a time to first token, so nothing is known of waiting users.")
    cells = [one for one in document["cells"] if one["engine"].get("name") == name]
    seats = cells[0]["engine"].get("max_num_seqs")
    curve = _seated(_rising([(load.in_flight, _rate_rps(load), found[0]) for load, found in told]), seats)
    starts = [one["startup"]["ready_s"] for one in cells if (one.get("startup") or {}).get("ready_s")]
    if not starts and start_s is None:
        raise SettingsError(
            f"{source}: the server was not started by the run, so its time to start is not known: give it with "
            "--start-s."
        )
    if start_s is None:
        start_s = max(starts)
        how_long = f"{source}: ready after {seconds(start_s)} (the slowest of {len(starts)} cells)."
    else:
        how_long = f"{seconds(start_s)}, as given."
    memory = [
        one["metrics"]["memory"]["server_peak_bytes"]
        for one in cells
        if ((one.get("metrics") or {}).get("memory") or {}).get("server_peak_bytes")
    ]
    capacity_rps, at, how = _capacity(told, ttft_limit_s, source)
    words = {
        "capacity": how,
        "start": how_long,
        "curve": f"{source}: "
        + "; ".join(f"{trimmed(n)} in work: {trimmed(x)} requests/s, TTFT {seconds(t)}" for n, x, t in curve)
        + f". More than {trimmed(curve[-1][0])} in work "
        + ("find no place" if curve[-1][0] == seats else "was not measured and is taken to wait")
        + ".",
    }
    return Replica(
        run=run,
        engine=name,
        curve=curve,
        capacity_rps=capacity_rps,
        at_capacity=at,
        ttft_limit_s=ttft_limit_s,
        start_s=start_s,
        memory_bytes=max(memory, default=None),
        has_gpu=bool((document.get("environment") or {}).get("gpus")),
        words=words,
        work_cv=_spread(told[0][0]),
    )


def _rate_rps(load: Load) -> float:
    """Requests ended per second by Little's law. A count of those that ended leaves out what is in work when the load
    ends: a closed load of few turns, whose users ask in step, would seem to carry up to a turn less than it does."""
    return load.in_flight / load.e2e_mean_s


def _spread(lightest: Load) -> float:
    """How much answers differ in length of time, alone or nearly: what is left of it is their work."""
    found = [one["e2e_s"]["sd"] / one["e2e_s"]["mean"] for one in lightest.distributions if one["e2e_s"].get("sd")]
    return statistics.fmean(found) if found else 0.0


def _seated(curve: tuple[tuple[float, float, float], ...], seats: int | None) -> tuple[tuple[float, float, float], ...]:
    """The curve up to the engine's own limit: with more in work only so many were served, the others waited."""
    beyond = [rate for count, rate, _ in curve if seats is not None and count > seats * 1.01]
    if seats is None or not beyond:
        return curve
    kept = [point for point in curve if point[0] < seats * 0.99]
    return (*kept, (float(seats), max(beyond), _between(curve, seats, 2, from_zero=False)))


def _rising(points: list[tuple[float, float, float]]) -> tuple[tuple[float, float, float], ...]:
    """The points without those that have the same number in work as the one before."""
    kept: list[tuple[float, float, float]] = []
    for point in sorted(points):
        if point[0] > 0 and (not kept or point[0] > kept[-1][0] * (1 + 1e-9)):
            kept.append(point)
    return tuple(kept)


def _capacity(told: Sequence[tuple[Load, tuple[float, str]]], limit_s: float, source: str) -> tuple[float, float, str]:
    """The most requests per second that keep the limit, how many are in work then, and how it was found."""
    good = [
        (float(metrics["goodput_rps"]), load)
        for load, _ in told
        for metrics in load.distributions
        if metrics.get("goodput_rps")
    ]
    if good:
        rate, load = max(good, key=lambda one: one[0])
        at = f"{trimmed(rate)} requests/s within the run's own objective, under the load {load.name}"
        return rate, load.in_flight, f"{source}: goodput {at}."
    within = [(load, found) for load, found in told if found[0] <= limit_s]
    if not within:
        fastest = min(found[0] for _, found in told)
        raise SettingsError(
            f"{source} has no goodput, and no load kept the TTFT within {seconds(limit_s)} (the fastest: "
            f"{seconds(fastest)}): allow more with --max-ttft, or measure lighter loads, or with an SLO."
        )
    load, (ttft_s, how) = max(within, key=lambda one: _rate_rps(one[0]))
    beyond = [one for one, found in told if found[0] > limit_s and one.in_flight > load.in_flight]
    edge = "" if beyond else " It is the heaviest load measured: the true capacity may be higher."
    return (
        _rate_rps(load),
        load.in_flight,
        f"{source} has no goodput; {trimmed(_rate_rps(load))} requests/s is the load {load.name}, the heaviest "
        f"whose TTFT ({how} {seconds(ttft_s)}) is within {seconds(limit_s)}.{edge}",
    )


def growth(day: Sequence[tuple[float, float]], lag_s: float) -> tuple[float, float]:
    """The most by which demand grows within `lag_s`, as a factor, and when: only where it is at least 10 % of the peak.

    `day` is (seconds, requests per second), rising in time; between two of them demand is a straight line.
    """
    times = [one[0] for one in day]
    peak = max(one[1] for one in day)

    def at(second: float) -> float:
        right = bisect.bisect_left(times, second)
        if right == 0 or right == len(day):
            return day[min(right, len(day) - 1)][1]
        (t0, r0), (t1, r1) = day[right - 1], day[right]
        return r0 + (r1 - r0) * (second - t0) / (t1 - t0)

    best = (1.0, times[0])
    edges = sorted({*times, *(t - lag_s for t in times if t - lag_s >= times[0])})
    for second in itertools.takewhile(lambda t: t + lag_s <= times[-1], edges):
        before = at(second)
        if before >= 0.1 * peak:
            best = max(best, (at(second + lag_s) / before, second))
    return best
