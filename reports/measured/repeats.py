"""Repeats of one engine under one load. The repeat, not the request, is the unit of a confidence interval."""

import math
import statistics
from dataclasses import dataclass

from reports.measured.cells import Cell, Report
from reports.measured.loads import Load

ENOUGH = 5  # repeats for a verdict on small differences
SMALL = 1.10  # a ratio below this is a small difference


@dataclass(frozen=True)
class Spread:
    """Median and range of a metric over `n` repeats, and the interval that covers the true median with `coverage`."""

    n: int
    median: float
    low: float
    high: float
    interval: tuple[float, float]
    coverage: float


def coverage(n: int, trim: int) -> float:
    """How surely the interval between the order statistics 1 + trim and n − trim covers the median of what was sampled.

    Exact and without assumptions on the distribution: 1 − 2·P(Binomial(n, ½) ≤ trim).
    """
    return max(0.0, 1 - sum(math.comb(n, k) for k in range(trim + 1)) / float(2 ** (n - 1)))


def spread(values: list[float]) -> Spread | None:
    """The spread of one value per repeat: the narrowest interval with coverage ≥ 95 %, else the whole range."""
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    trim = max((k for k in range((n + 1) // 2) if coverage(n, k) >= 0.95), default=0)
    return Spread(
        n,
        statistics.median(ordered),
        ordered[0],
        ordered[-1],
        (ordered[trim], ordered[n - 1 - trim]),
        coverage(n, trim),
    )


def metric_spread(cells: tuple[Cell, ...], name: str) -> Spread | None:
    """The spread over `cells` (repeats) of the metric with the dotted `name`; None when none has it."""
    values = (cell.value(name) for cell in cells)
    return spread([value for value in values if value is not None])


def separated(one: Spread, other: Spread) -> bool:
    """Whether the difference between two spreads is established.

    With five repeats or more: their intervals do not overlap. With fewer: the ranges do not overlap and the medians
    differ by at least 10 %.
    """
    low, high = sorted((one, other), key=lambda item: item.median)
    if min(one.n, other.n) >= ENOUGH:
        return low.interval[1] < high.interval[0]
    return low.high < high.low and low.median * SMALL <= high.median


def planned_repeats(report: Report) -> int:
    """How many repeats each cell was planned for."""
    return max((cell.repeat for cell in report.cells), default=0)


def fewest(report: Report) -> int:
    """The smallest number of measured repeats of an engine under a load, of those measured at all; 0 when none was."""
    counts = [len(report.repeats(engine, load)) for engine, load in measured_pairs(report)]
    return min(counts, default=0)


def measured_pairs(report: Report) -> list[tuple[str, Load]]:
    """Every (engine, load) with at least one measured repeat, engines in plan order, loads from light to heavy."""
    return [(engine, load) for engine in report.engines for load in report.loads if report.repeats(engine, load)]


def central(report: Report, name: str) -> str:
    """Which statistic of the distribution `name` stands for a cell: `p50`, or `mean` where one has no median."""
    values = [cell.value(f"{name}.p50") for cell in report.measured if cell.value(f"{name}.n")]
    return "mean" if None in values else "p50"


CENTRAL_WORD = {"p50": "median", "mean": "mean"}
