"""Perplexity on the same windows before and after a training, compared. Pure."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Perplexity:
    """Perplexity on the held-out windows with and without the adapter; `low` and `high` bound their ratio at 95 %."""

    before: float
    after: float
    ratio: float
    low: float
    high: float


def compare(before: list[float], after: list[float], resamples: int = 2000) -> Perplexity:
    """Return both perplexities from the mean losses of the same windows, and their ratio's 95 % interval.

    The interval is a bootstrap over windows that keeps a window's two losses together.
    """
    differences = np.asarray(after) - np.asarray(before)
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (resamples, len(differences)))].mean(axis=1)
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    return Perplexity(
        before=math.exp(sum(before) / len(before)),
        after=math.exp(sum(after) / len(after)),
        ratio=math.exp(float(differences.mean())),
        low=float(low),
        high=float(high),
    )
