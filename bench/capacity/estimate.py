"""Where is the capacity, after these verdicts? Pure.

A verdict near the capacity is partly luck: arrivals, and what else the machine does. So no single one is believed.
Taken is the simplest model that says so: a point at `level` passes with the probability

    LAPSE + (1 − 2 LAPSE) · Φ((ln capacity − ln level) / spread)

with an unknown capacity (every one in reach equally likely beforehand, by its logarithm) and an unknown spread out of
SPREADS, also equally likely: the posterior of a psychometric function (Kontsevich and Tyler 1999). Its median is the
estimate and the best next level, its central 95 % are the interval. Repeated verdicts that agree make it narrow, and
contradicting ones wide. LAPSE is the share of verdicts that are wrong however far away the capacity is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPREADS = (0.01, 0.02, 0.04, 0.08)
LAPSE = 0.02
COVERAGE = 0.95
_STEP = 0.005  # of the logarithm of the level: 0.5 %
_BEYOND = 2.0  # how far beyond the measured levels the capacity may lie


@dataclass(frozen=True)
class Estimate:
    """The capacity in the unit of its levels: the posterior's median and its central 95 %."""

    low: float
    value: float
    high: float

    @property
    def precision(self) -> float:
        """Half the interval's width, relative to the value: 0.05 is ± 5 %."""
        return math.log(self.high / self.low) / 2


def estimate(verdicts: Sequence[tuple[float, bool]]) -> Estimate:
    """The capacity after these (level, passed), of which at least one passed and one did not."""
    from scipy.special import ndtr  # a third of a second, which a bench without a search need not wait

    levels = np.log([level for level, _ in verdicts])
    grid = np.arange(levels.min() - math.log(_BEYOND), levels.max() + math.log(_BEYOND), _STEP)
    likely = np.zeros((grid.size, len(SPREADS)))
    for (_, passed), level in zip(verdicts, levels, strict=True):
        passes = LAPSE + (1 - 2 * LAPSE) * ndtr((grid[:, None] - level) / np.array(SPREADS))
        likely += np.log(passes if passed else 1 - passes)
    weight = np.exp(likely - likely.max()).sum(axis=1)
    below = np.cumsum(weight) / weight.sum()
    tail = (1 - COVERAGE) / 2
    low, value, high = (float(np.exp(grid[np.searchsorted(below, share)])) for share in (tail, 0.5, 1 - tail))
    return Estimate(low, value, high)
