"""Where does a point's warm-up end? Pure."""

import numpy as np

from bench.run.stats.distributions import Floats

BATCH = 5
AT_MOST = 0.25  # of a point; where MSER-5 wants more, the point has no steady state and its later part is the worse one
_LEAST_BATCHES = 8
_ROUNDING = 1e-12


def warm_up(values: Floats) -> int:
    """How many of the first `values` (in order of time) to leave out: MSER-5 (White 1997).

    Of the means of every five values, the cut that makes the standard error of what remains smallest, within the first
    quarter. An empty queue and a half-filled batch answer faster than the server does later.
    """
    batches = values[: values.size // BATCH * BATCH].reshape(-1, BATCH).mean(axis=1)
    if batches.size < _LEAST_BATCHES:
        return 0
    batches -= batches.mean()
    left = np.arange(batches.size, 0, -1)
    sums, squares = (np.cumsum(batches[::-1] ** power)[::-1] for power in (1, 2))
    statistic = ((squares - sums**2 / left) / left**2)[: int(batches.size * AT_MOST) + 1]
    smallest = statistic <= statistic.min() + _ROUNDING * statistic.max()
    return BATCH * int(np.argmax(smallest))
