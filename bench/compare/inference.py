"""Did a figure change from the old repeats to the new ones? Pure statistics; docs/comparing.md says why these.

The unit is one repeat (one server start), never the request: requests of one server share its luck. A change is
  established  p ≤ α, where p is the larger of two: Mann-Whitney's U of the figure by itself (exact), and the figure's
               p within its family (`family_p`: step-down over all figures of all cells, by exchanging whole repeats)
  and large    |new ÷ old − 1| of the means is at least the practical threshold.
Holm's correction of Mann-Whitney cannot be the rule: with five repeats its smallest p is 2/252 = 0.0079, so that a
family of seven figures or more never reaches 0.05, whatever changed.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import PermutationMethod, bootstrap, mannwhitneyu

Floats = npt.NDArray[np.float64]
Verdict = Literal["regression", "improvement", "no change shown", "insufficient"]

LEAST_REPEATS = 5
ALPHA = 0.05
THRESHOLD = 0.05
CONFIDENCE = 0.95
EXCHANGES = 20_000  # above this many ways to exchange repeats, as many random ones (8 repeats on each side are 12,870)
RESAMPLES = 9_999
_ENOUGH_FOR_SD = 2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Change:
    """One figure of one cell in both runs, one value a repeat. `ratio_change` is new ÷ old − 1 of the means, None when
    the old mean is 0 or a side is empty; the p values are None when there are too few repeats."""

    old: tuple[float, ...]
    new: tuple[float, ...]
    ratio_change: float | None
    p_mann_whitney: float | None
    p_family: float | None
    verdict: Verdict

    @property
    def p(self) -> float | None:
        """The larger of the two p values: a change must pass both tests."""
        if self.p_mann_whitney is None or self.p_family is None:
            return None
        return max(self.p_mann_whitney, self.p_family)


def changes(
    old: Floats, new: Floats, higher_is_better: list[bool], *, alpha: float = ALPHA, threshold: float = THRESHOLD
) -> list[Change]:
    """One Change for every column of `old` and `new` (rows: repeats; columns: the family; NaN: not measured)."""
    columns = old.shape[1]
    pairs = [tuple(side[~np.isnan(side[:, i]), i] for side in (old, new)) for i in range(columns)]
    enough = [i for i, pair in enumerate(pairs) if min(map(len, pair)) >= LEAST_REPEATS]
    alone = {i: mann_whitney_p(*pairs[i]) for i in enough}
    together = dict(zip(enough, family_p(old[:, enough], new[:, enough]), strict=True))
    found = []
    for i, (before, after) in enumerate(pairs):
        delta = ratio_change(before, after)
        measured = tuple(before.tolist()), tuple(after.tolist())
        one = Change(*measured, delta, alone.get(i), together.get(i), "insufficient")
        if (p := one.p) is not None:
            better = bool(after.mean() > before.mean()) == higher_is_better[i]
            large = bool(after.mean() != before.mean()) if delta is None else abs(delta) >= threshold
            verdict: Verdict = "no change shown"
            if large and p <= alpha:
                verdict = "improvement" if better else "regression"
            one = replace(one, verdict=verdict)
        found.append(one)
    return found


def ratio_change(old: Floats, new: Floats) -> float | None:
    """new ÷ old − 1 of the means; None when the old mean is 0 or a side has no value."""
    if not len(old) or not len(new) or old.mean() == 0:
        return None
    return float(new.mean() / old.mean() - 1)


def mann_whitney_p(old: Floats, new: Floats) -> float:
    """The two-sided p of Mann-Whitney's U, exact; where values are tied, over the exchanges of the values themselves
    (scipy's exact distribution knows no ties)."""
    both = np.concatenate([old, new])
    if len(np.unique(both)) == len(both):
        return float(mannwhitneyu(old, new, method="exact").pvalue)
    if len(np.unique(both)) == 1:
        return 1.0
    exchanging = PermutationMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(mannwhitneyu(old, new, method=exchanging).pvalue)


def family_p(old: Floats, new: Floats) -> list[float]:
    """Each column's p, adjusted for all columns: the chance that exchanging repeats alone makes so large a difference
    anywhere among the columns that are not yet decided (Westfall and Young's step-down of the largest |t|, 1993).

    Whole rows are exchanged, so that figures of one repeat stay together: seven figures that say the same count as
    one. All exchanges up to EXCHANGES, random ones (always the same) above. NaN stays out of its column.
    """
    if not old.shape[1]:
        return []
    values = np.concatenate([old, new])
    is_old = _exchanges(len(old), len(new))
    t = _absolute_t(values, is_old)
    order = np.argsort(-t[0], kind="stable")
    largest_left = np.maximum.accumulate(t[:, order[::-1]], axis=1)[:, ::-1]
    reached = largest_left >= t[0, order] * (1 - _ROUNDING)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(reached.mean(axis=0))
    return [float(p) for p in adjusted]


def _absolute_t(values: Floats, is_old: Floats) -> Floats:
    """|t| of new against old (pooled variance) for every exchange (row; the first is what was measured) and column."""
    present = ~np.isnan(values)
    centred = np.where(present, values - np.nanmean(values, axis=0), 0.0)
    n_old = is_old @ present
    n_new = present.sum(axis=0) - n_old
    sum_old = is_old @ centred
    sum_new = centred.sum(axis=0) - sum_old
    usable = (n_old >= _ENOUGH_FOR_SD) & (n_new >= _ENOUGH_FOR_SD)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(sum_new / n_new - sum_old / n_old)
        squares = np.square(centred).sum(axis=0)
        within = np.maximum(squares - sum_old**2 / n_old - sum_new**2 / n_new, squares * 1e-12)
        t = difference / np.sqrt(within / (n_old + n_new - 2) * (1 / n_old + 1 / n_new))
    return np.where(usable & (squares > 0), np.nan_to_num(t), 0.0)


@cache
def _exchanges(old: int, new: int) -> Floats:
    """Rows of 0 and 1: which repeats are called old. The first row is how they were measured."""
    together = old + new
    if math.comb(together, old) <= EXCHANGES:
        chosen = np.array(list(combinations(range(together), old)))
    else:
        random = np.random.default_rng(0)
        chosen = np.array([np.arange(old), *(random.permutation(together)[:old] for _ in range(EXCHANGES))])
    rows = np.zeros((len(chosen), together))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


@lru_cache(maxsize=4096)
def interval(old: tuple[float, ...], new: tuple[float, ...]) -> tuple[float, float] | None:
    """The BCa bootstrap interval (95 %) of new ÷ old − 1 of the means; the repeats are what is drawn again.

    None with too few repeats, or where there is none: an old mean of 0, or nothing that varies.
    """
    if min(len(old), len(new)) < LEAST_REPEATS or not np.mean(old):
        return None
    if len(set(old)) == 1 and len(set(new)) == 1:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrap(
            (np.asarray(old), np.asarray(new)),
            lambda a, b, axis=-1: b.mean(axis=axis) / a.mean(axis=axis) - 1,
            method="BCa",
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            rng=np.random.default_rng(0),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
