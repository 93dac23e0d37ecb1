"""Two things measured in turn, and how they compare: a ratio with its interval. Pure.

What was measured next to each other is compared with each other, so that a drift of the machine, or other work on it,
falls on both sides of a ratio.
"""

import math
import statistics
from typing import Any

import numpy as np

RESAMPLES = 2_000


def spread(seconds: list[float]) -> dict[str, Any]:
    """Number, median, 95th percentile (from 200 values on, else None), least and greatest of durations in seconds."""
    values = np.asarray(seconds)
    return {
        "n": len(seconds),
        "p50_s": float(np.median(values)),
        "p95_s": float(np.quantile(values, 0.95)) if len(seconds) >= 200 else None,
        "min_s": float(values.min()),
        "max_s": float(values.max()),
    }


def median_ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median of one over median of the other, with a 95 % bootstrap interval that keeps value i beside value i."""
    pairs = np.array([numerator, denominator])
    rng = np.random.default_rng(0)
    picked = rng.integers(0, pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    above, below = np.median(pairs[:, picked], axis=2)
    low, high = np.quantile(above / below, (0.025, 0.975))
    return {
        "ratio": statistics.median(numerator) / statistics.median(denominator),
        "low": float(low),
        "high": float(high),
    }


def typical_ratio(pairs: list[tuple[int, float]]) -> dict[str, Any]:
    """Median over starts of each start's ratio (the geometric mean of its pairs'), from (start, ratio) of each pair.

    Pairs of one start share its luck, so the start is the unit. The interval is the narrowest of order statistics that
    covers the true median at 95 %: it assumes nothing about the distribution, and one start that other work on the
    machine spoilt does not spoil it. Fewer than six starts have no such interval (low and high None).
    """
    logs: dict[int, list[float]] = {}
    for start, ratio in pairs:
        logs.setdefault(start, []).append(math.log(ratio))
    ordered = sorted(math.exp(statistics.fmean(values)) for values in logs.values())
    n = len(ordered)
    # The k-th smallest and k-th greatest miss the median when fewer than k values lie on one side of it.
    covering = [k for k in range(1, n // 2 + 1) if 2 * sum(math.comb(n, i) for i in range(k)) / 2**n <= 0.05]
    found: dict[str, Any] = {"ratio": statistics.median(ordered), "low": None, "high": None, "starts": n}
    if covering:
        found |= {"low": ordered[covering[-1] - 1], "high": ordered[-covering[-1]]}
    return {**found, "pairs": len(pairs), "least": min(r for _, r in pairs), "greatest": max(r for _, r in pairs)}
