"""The statistics of two runs held against each other: by simulation, and by hand where few values decide."""

import math
from typing import Any

import numpy as np
import pytest

from bench.compare.inference import changes, family_p, interval, mann_whitney_p

PAIRS = 300
HIGHER = [True, False, False, False, False, False, True]  # as bench.compare.figures.FIGURES


def noisy(random: np.random.Generator, columns: int, shared: float, level: Any = 1.0) -> Any:
    """Five repeats with 3 % noise; of its variance, the share `shared` is common to all figures of a repeat."""
    own, common = random.normal(size=(5, columns)), random.normal(size=(5, 1))
    return level * (1 + 0.03 * (math.sqrt(1 - shared) * own + math.sqrt(shared) * common))


@pytest.mark.parametrize(("cells", "shared"), [(1, 0.0), (1, 0.9), (9, 0.0), (9, 0.9)])
def test_equal_runs_are_told_apart_in_at_most_one_comparison_of_twenty(cells: int, shared: float) -> None:
    """A false positive is ANY verdict among all figures of all cells, at no practical threshold: the harder claim.

    Exactly 5 % are meant; 300 pairs may show up to 8 % (two binomial standard errors and some) of those.
    """
    random = np.random.default_rng(3)
    columns = 7 * cells
    found: list[list[float]] = [
        family_p(noisy(random, columns, shared), noisy(random, columns, shared)) for _ in range(PAIRS)
    ]
    assert sum(min(p) <= 0.05 for p in found) <= 0.08 * PAIRS


@pytest.mark.slow
def test_equal_runs_with_the_practical_threshold(shared: float = 0.5) -> None:
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(PAIRS):
        found = changes(noisy(random, 7, shared), noisy(random, 7, shared), HIGHER)
        wrong += any(one.verdict != "no change shown" for one in found)
    assert wrong <= 0.05 * PAIRS


def test_a_true_ten_percent_is_found_and_named_by_its_direction(shared: float = 0.5) -> None:
    """All figures 10 % slower: throughput ÷ 1.1, latencies × 1.1."""
    random = np.random.default_rng(5)
    slower = np.array([1 / 1.1 if higher else 1.1 for higher in HIGHER])
    found, pairs = 0, 100
    for _ in range(pairs):
        verdicts = {one.verdict for one in changes(noisy(random, 7, shared), noisy(random, 7, shared, slower), HIGHER)}
        assert "improvement" not in verdicts
        found += "regression" in verdicts
    assert found >= 0.9 * pairs


def test_with_holm_five_repeats_would_find_nothing_among_seven_figures() -> None:
    """Why the rule is not Holm's: complete separation, the clearest there is, is 2/252 ≥ 0.05/7."""
    old, new = np.arange(1.0, 6), np.arange(11.0, 16)
    assert mann_whitney_p(old, new) == pytest.approx(2 / 252)
    assert mann_whitney_p(old, new) * 7 > 0.05
    assert family_p(np.tile(old, (7, 1)).T, np.tile(new, (7, 1)).T) == pytest.approx([2 / 252] * 7)


def test_ties_and_constants_have_a_p() -> None:
    assert mann_whitney_p(np.ones(5), np.ones(5)) == 1.0
    assert mann_whitney_p(np.ones(5), np.full(5, 2.0)) == pytest.approx(2 / 252)
    (one,) = changes(np.ones((5, 1)), np.ones((5, 1)), [True])
    assert (one.verdict, one.p) == ("no change shown", 1.0)
    (one,) = changes(np.ones((5, 1)), np.full((5, 1), 2.0), [False])
    assert (one.verdict, one.ratio_change) == ("regression", 1.0)


def test_an_old_mean_of_zero_has_no_ratio_and_still_a_verdict() -> None:
    (one,) = changes(np.zeros((5, 1)), np.arange(1.0, 6).reshape(5, 1), [True])
    assert (one.ratio_change, one.verdict) == (None, "improvement")
    assert interval(one.old, one.new) is None


def test_four_repeats_are_too_few_and_unequal_ones_are_not() -> None:
    assert changes(np.ones((4, 1)), np.full((9, 1), 2.0), [True])[0].verdict == "insufficient"
    old = np.array([[1.0], [1.01], [0.99], [1.02], [0.98]])
    new = np.array([[2.0], [2.01], [np.nan], [1.99], [2.02], [1.98], [2.03]])
    (one,) = changes(old, new, [True])
    assert (one.verdict, len(one.new)) == ("improvement", 6)


def test_one_wild_repeat_is_no_change() -> None:
    old = np.array([1.0, 1.01, 0.99, 1.02, 0.98]).reshape(5, 1)
    new = np.array([1.0, 1.01, 0.99, 1.02, 2.5]).reshape(5, 1)
    (one,) = changes(old, new, [False])
    assert one.ratio_change == pytest.approx(0.304)
    assert one.verdict == "no change shown"


def test_the_interval_holds_the_change() -> None:
    bounds = interval((1.0, 1.02, 0.98, 1.01, 0.99), (1.1, 1.12, 1.08, 1.11, 1.09))
    assert bounds is not None
    assert 0.08 < bounds[0] < 0.10 < bounds[1] < 0.12
