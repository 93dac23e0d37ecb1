"""How many servers a demand needs, from the goodput that one was measured to have at its SLO. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planning.errors import BadInput, MissingMeasurement

HOURS_PER_MONTH = 730
DEFAULT_HEADROOM = 0.7
# A cell whose requests mostly miss the SLO is past its capacity, however many of them still meet it.
LEAST_ATTAINMENT = 0.9


@dataclass(frozen=True)
class Demand:
    """Requests per second over time: their mean and their peak."""

    mean_rps: float
    peak_rps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak_rps) and 0 < self.mean_rps <= self.peak_rps):
            raise BadInput(
                f"A demand of {self.mean_rps:g} requests/s on average with a peak of {self.peak_rps:g} cannot be: the "
                "mean must be above 0 and the peak at least the mean."
            )

    @property
    def peak_to_mean(self) -> float:
        return self.peak_rps / self.mean_rps


@dataclass(frozen=True)
class Replicas:
    """How many servers, and how busy they are at the peak: all of them, and with one down."""

    needed: int
    spares: int
    peak_rps: float
    goodput_rps: float
    headroom: float

    @property
    def total(self) -> int:
        return self.needed + self.spares

    @property
    def load_at_peak(self) -> float:
        """The share of the measured goodput of all servers that the peak takes."""
        return self.peak_rps / (self.total * self.goodput_rps)

    @property
    def load_with_one_down(self) -> float | None:
        """The same when one server is lost; above 1 the SLO is not held. None when it was the only one."""
        return self.peak_rps / ((self.total - 1) * self.goodput_rps) if self.total > 1 else None


@dataclass(frozen=True)
class Goodput:
    """The load with the highest goodput of one engine. `attainment` is the share of requests that met the SLO.

    `highest_measured`: no heavier load was measured, so the engine may carry more.
    """

    engine: str
    cell_id: str
    load: str
    goodput_rps: float
    attainment: float
    request_tokens: tuple[float, float] | None
    output_tok_s: float | None
    slo: Mapping[str, Any]
    highest_measured: bool


def of_month(requests_per_month: float, peak_to_mean: float) -> Demand:
    """Return the demand of so many requests in a month of 730 hours, with the peak so many times the mean."""
    if peak_to_mean < 1:
        raise BadInput(f"peak_to_mean = {peak_to_mean:g}: a peak is at least the mean, so this is at least 1.")
    mean = requests_per_month / HOURS_PER_MONTH / 3600
    return Demand(mean, mean * peak_to_mean)


def of_curve(rates_rps: Sequence[float]) -> Demand:
    """Return the mean and the peak of requests per second in equal stretches of time (the 24 hours of a day)."""
    if not rates_rps or min(rates_rps) < 0:
        raise BadInput("A demand curve is a list of requests per second, none below 0, for equal stretches of time.")
    return Demand(sum(rates_rps) / len(rates_rps), max(rates_rps))


def replicas(peak_rps: float, goodput_rps: float, *, headroom: float = DEFAULT_HEADROOM, spares: int = 1) -> Replicas:
    """Return ceil(peak ÷ goodput per server ÷ headroom) servers and the spares (1: N+1).

    `headroom` is the share of a server's goodput to plan with: above 0, at most 1. Raises BadInput.
    """
    if not (math.isfinite(peak_rps) and peak_rps > 0):
        raise BadInput(f"peak_rps = {peak_rps:g}: the peak demand must be above 0 requests per second.")
    if not (math.isfinite(goodput_rps) and goodput_rps > 0):
        raise BadInput(
            f"goodput_rps = {goodput_rps:g}: when one server meets the SLO for no request, no number of them carries a "
            "demand."
        )
    if not 0 < headroom <= 1:
        raise BadInput(f"headroom = {headroom:g} is the share of a server's goodput to plan with: above 0, at most 1.")
    if spares < 0:
        raise BadInput(f"spares = {spares}: servers beyond those needed, 0 or more.")
    # A ratio of whole numbers may come out a hair above itself.
    needed = math.ceil(round(peak_rps / goodput_rps / headroom, 9))
    return Replicas(needed, spares, peak_rps, goodput_rps, headroom)


def curve_replicas(
    rates_rps: Sequence[float], goodput_rps: float, *, headroom: float = DEFAULT_HEADROOM, spares: int = 1
) -> list[int]:
    """Return the servers of each stretch of a demand curve, spares included: at least one and the spares."""
    of_curve(rates_rps)
    return [
        max(1, replicas(rate, goodput_rps, headroom=headroom, spares=0).needed) + spares if rate > 0 else 1 + spares
        for rate in rates_rps
    ]


def goodputs(cells: Iterable[Mapping[str, Any]]) -> list[Goodput]:
    """Return for each engine its load with the highest goodput, of valid cells in which most requests met the SLO.

    `cells`: as in run.json, or recomputed. Of repeats of a load the least counts. Raises MissingMeasurement when no
    cell has a goodput: the run had no SLO.
    """
    measured = [cell for cell in cells if _measured(cell)]
    if not any(cell["metrics"].get("goodput_rps") is not None for cell in measured):
        raise MissingMeasurement(
            "The run has no goodput: no valid cell was measured against an SLO. Give its plan an [slo] table (for "
            "example ttft_s = 0.5 and tpot_s = 0.05) and measure again."
        )
    by_engine: dict[str, dict[str, Mapping[str, Any]]] = {}
    for cell in measured:
        if cell["metrics"].get("goodput_rps") is None:
            continue
        loads = by_engine.setdefault(cell["engine"]["name"], {})
        name = cell["load"]["name"]
        if name not in loads or _goodput(cell) < _goodput(loads[name]):
            loads[name] = cell
    found = []
    for engine, loads in by_engine.items():
        shares = ((cell, attainment(cell)) for cell in loads.values() if _goodput(cell) > 0)
        fitting = [(cell, share) for cell, share in shares if share is not None and share >= LEAST_ATTAINMENT]
        if fitting:
            best, share = max(fitting, key=lambda one: _goodput(one[0]))
            heaviest = max((one for one in loads.values() if _kind(one) == _kind(best)), key=_level)
            found.append(_described(engine, best, share, highest=best is heaviest))
    return found


def attainment(cell: Mapping[str, Any]) -> float | None:
    """Return the share of a cell's requests that met the SLO; None when it has no goodput: nothing said who met it."""
    metrics = cell["metrics"]
    rate, good, requests = metrics.get("request_throughput_rps"), metrics.get("goodput_rps"), metrics["requests"]
    if good is None or not rate:
        return None
    if (share := metrics.get("slo_share")) is not None:
        return float(share)
    # The rate counts answered requests; those that failed met nothing.
    return float(min(1.0, good / rate) * requests["ok"] / requests["total"])


def is_met(cell: Mapping[str, Any]) -> bool:
    """Say whether enough of a cell's requests are known to have met the SLO."""
    share = attainment(cell)
    return share is not None and share >= LEAST_ATTAINMENT


def _described(engine: str, cell: Mapping[str, Any], share: float, *, highest: bool) -> Goodput:
    metrics = cell["metrics"]
    served = metrics["requests"]["ok"]
    prompt, output = metrics.get("prompt_tokens"), metrics.get("output_tokens")
    return Goodput(
        engine=engine,
        cell_id=cell["id"],
        load=cell["load"]["name"],
        goodput_rps=_goodput(cell),
        attainment=share,
        request_tokens=None if prompt is None or output is None else (prompt / served, output / served),
        output_tok_s=metrics.get("output_throughput_tok_s"),
        slo=metrics.get("slo") or {},
        highest_measured=highest,
    )


def _measured(cell: Mapping[str, Any]) -> bool:
    validity = cell.get("validity")
    return cell.get("outcome") == "ok" and bool(cell.get("metrics")) and (validity is None or validity["valid"])


def _goodput(cell: Mapping[str, Any]) -> float:
    return float(cell["metrics"]["goodput_rps"])


def _kind(cell: Mapping[str, Any]) -> str:
    """Only levels of one kind of load can be held against each other: users, or requests per second."""
    return str(cell["load"].get("kind"))


def _level(cell: Mapping[str, Any]) -> float:
    load = cell["load"]
    return float(load.get("concurrency") or load.get("rate_rps") or 0)
