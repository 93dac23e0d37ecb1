"""Where a series of runs changed its level for good. Pure; docs/comparing.md has what simulations say of it.

Kernel change point detection (Harchaoui and Cappé 2007; PELT, Killick et al. 2012; both by ruptures): the series is cut
where the parts are unlike by more than the penalty. A Gaussian kernel bounds what a single wild run can do, and a
change is told from LEAST_PART runs on. The scale is the noise from run to run (median absolute difference of
neighbours), which a change of level does not widen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.compare.inference import THRESHOLD

Floats = npt.NDArray[np.float64]

LEAST_RUNS = 8  # with fewer their noise is not known
LEAST_PART = 3
_WIDTH = 0.1  # of the kernel exp(-_WIDTH d²), d in units of the noise
_PENALTY = 10.0  # in units of what the kernel makes of one noise; plus ln of how many series are looked at
_NORMAL = 0.6745 * math.sqrt(2)  # median absolute difference of two normal values, in their standard deviations
_LEAST_NOISE = 0.001  # of the median: no run of an LLM server repeats more exactly


@dataclass(frozen=True)
class Shift:
    """A change of level: `at` is the first run of the new one, `ratio_change` is after ÷ before − 1 of the medians."""

    at: int
    before: float
    after: float
    ratio_change: float


def shifts(values: Sequence[float | None], *, family: int = 1, threshold: float = THRESHOLD) -> list[Shift]:
    """The changes of level of a series, oldest first; those smaller than `threshold` are none.

    None stands for a run without the figure. `family`: how many series are looked at together; the more there are, the
    clearer a change has to be. No changes are found in fewer than LEAST_RUNS values, or about a level of 0.
    """
    kept = [i for i, value in enumerate(values) if value is not None]
    series = np.array([values[i] for i in kept], dtype=np.float64)
    if len(series) < LEAST_RUNS:
        return []
    cuts = _cuts(series, _PENALTY + math.log(family))
    while (found := _levels(series, cuts, kept)) and min(found, key=_size).size < threshold:
        cuts.pop(found.index(min(found, key=_size)))  # what is no change: its neighbours are one level
    return [one.shift for one in found]


class _Found(NamedTuple):
    """A change and how much of one it is: 0 when fewer than LEAST_PART runs on a side are nearer to its own level."""

    shift: Shift
    size: float


def _size(found: _Found) -> float:
    return found.size


def _levels(series: Floats, cuts: list[int], kept: list[int]) -> list[_Found]:
    parts = [series[start:end] for start, end in pairwise([0, *cuts, len(series)])]
    found = []
    for cut, (one, other) in zip(cuts, pairwise(parts), strict=True):
        before, after = float(np.median(one)), float(np.median(other))
        ratio_change = after / before - 1 if before else 0.0
        own = min(_nearer(one, before, after), _nearer(other, after, before))
        size = abs(ratio_change) if own >= LEAST_PART else 0.0
        found.append(_Found(Shift(kept[cut], before, after, ratio_change), size))
    return found


def _nearer(part: Floats, level: float, other: float) -> int:
    return int(np.count_nonzero(np.abs(part - level) < np.abs(part - other)))


def _cuts(series: Floats, penalty: float) -> list[int]:
    import ruptures  # only where a history is looked at

    middle = float(np.median(series))
    noise = float(np.median(np.abs(np.diff(series)))) / _NORMAL
    noise = max(noise, _LEAST_NOISE * abs(middle))
    if not noise:
        return []
    scaled = ((series - middle) / noise).reshape(-1, 1)
    search = ruptures.KernelCPD(kernel="rbf", min_size=LEAST_PART, params={"gamma": _WIDTH}).fit(scaled)
    return [int(cut) for cut in search.predict(pen=penalty * 2 * _WIDTH)[:-1]]
