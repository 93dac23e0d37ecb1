"""Empirical distribution functions, thinned for drawing without losing exactness."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
POINTS = 160


@dataclass(frozen=True)
class Curve:
    """Points of an ECDF: the share `shares[i]` of all `count` values is ≤ `values_s[i]` seconds."""

    values_s: tuple[float, ...]
    shares: tuple[float, ...]
    count: int

    def quantile(self, share: float) -> float:
        """The smallest drawn value in seconds that at least `share` of the values do not exceed."""
        index = int(np.searchsorted(np.asarray(self.shares), share - 1e-12))
        return self.values_s[min(index, len(self.values_s) - 1)]


def ranks(count: int, points: int = POINTS) -> npt.NDArray[np.int64]:
    """The ranks (0-based, increasing, first and last included) at which `count` sorted values are drawn.

    Evenly spaced, with both tails added in ever finer steps, so that the slowest of a million requests stays visible.
    """
    if count <= points:
        return np.arange(count)
    body = np.linspace(0, count - 1, points * 3 // 4)
    tail = np.geomspace(1, count / 100 + 1, points // 8) - 1
    return np.unique(np.round(np.concatenate([body, tail, count - 1 - tail])).astype(np.int64))


def ecdf(values: Floats) -> Curve | None:
    """The exact ECDF of `values` (seconds) at up to POINTS order statistics; None without values.

    Every point is a value that occurred; nothing is interpolated, sampled or binned. Sorts a copy.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    finite.sort()
    chosen = ranks(finite.size)
    return Curve(tuple(finite[chosen].tolist()), tuple(((chosen + 1) / finite.size).tolist()), int(finite.size))


def steps(curve: Curve, limit: int = POINTS) -> tuple[list[float], list[float]]:
    """x (seconds) and y (share) of the curve as a staircase from share 0, through at most `limit` of its points."""
    chosen = ranks(len(curve.values_s), limit)
    xs, ys = [curve.values_s[0]], [0.0]
    for index in chosen:
        xs += [curve.values_s[index]] * 2
        ys += [ys[-1], curve.shares[index]]
    kept = [0] + [i for i, (a, b) in enumerate(pairwise(zip(xs, ys, strict=True)), 1) if a != b]
    return [xs[i] for i in kept], [ys[i] for i in kept]
