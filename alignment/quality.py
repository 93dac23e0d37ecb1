"""How well predicted states match the true ones on held-out prompts. Pure numpy.

  cosine              mean over prompts of the cosine between prediction and truth, both centred by the mean of the
                      target's fitted prompts. Uncentred states share a large mean, and any two of them look alike.
  top1                share of prompts whose prediction is nearer (by that cosine) to its own truth than to every other
                      held-out prompt's; k equal ones count 1/k.
  explained_variance  1 - sum of squared errors / sum of squared distances of the truth from that mean. The mean itself
                      has 0; below 0 is worse than the mean.

Intervals are 95 % bootstrap intervals over held-out prompts (percentiles); the map stays the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1000
LEVEL = 0.95
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Scores:
    """Per held-out prompt: centred cosine, retrieval credit, squared error, squared distance from the mean, and the
    cosine without centring."""

    cosine: Floats
    top1: Floats
    error: Floats
    spread: Floats
    cosine_uncentred: Floats


def scores(predicted: Floats, truth: Floats, mean: Floats) -> Scores:
    """The scores of each row. A prediction that is the mean itself points nowhere: cosine 0, retrieval by chance."""
    centred, true = predicted - mean, truth - mean
    guesses, answers = _unit(centred), _unit(true)
    return Scores(
        cosine=np.sum(guesses * answers, axis=1),
        top1=_top1(guesses, answers),
        error=np.sum((truth - predicted) ** 2, axis=1),
        spread=np.sum(true**2, axis=1),
        cosine_uncentred=np.sum(_unit(predicted) * _unit(truth), axis=1),
    )


def summarise(of: Scores, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Each measure as {"value", "low", "high"}, and the number of prompts."""
    rng = np.random.default_rng(seed)
    count = len(of.cosine)
    drawn = np.empty((resamples, 4))
    for row in range(resamples):
        chosen = rng.integers(0, count, count)
        drawn[row] = _means(of, chosen)
    values = _means(of, np.arange(count))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    names = ("cosine", "top1", "explained_variance", "cosine_uncentred")
    measures = {
        name: {"value": float(values[i]), "low": float(low[i]), "high": float(high[i])} for i, name in enumerate(names)
    }
    return {"prompts": count, **measures}


def explained_variance(predicted: Floats, truth: Floats, mean: Floats) -> float:
    """1 - squared error / squared distance from `mean`, over all rows."""
    return 1.0 - float(np.sum((truth - predicted) ** 2) / np.sum((truth - mean) ** 2))


def _means(of: Scores, rows: NDArray[np.int64]) -> tuple[float, float, float, float]:
    return (
        float(of.cosine[rows].mean()),
        float(of.top1[rows].mean()),
        1.0 - float(of.error[rows].sum() / of.spread[rows].sum()),
        float(of.cosine_uncentred[rows].mean()),
    )


def _unit(rows: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


def _top1(guesses: Floats, answers: Floats) -> Floats:
    credit = np.empty(len(guesses))
    for start in range(0, len(guesses), _BLOCK_ROWS):
        block = guesses[start : start + _BLOCK_ROWS]
        alike = block @ answers.T
        own = alike[np.arange(len(block)), start + np.arange(len(block))][:, None]
        beaten = np.any(alike > own, axis=1)
        credit[start : start + len(block)] = np.where(beaten, 0.0, 1.0 / np.sum(alike == own, axis=1))
    return credit
