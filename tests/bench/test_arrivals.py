"""Arrival schedules: reproducible, independent per worker, and of the rate that was asked for."""

from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from bench.plans.arrivals import schedule


def test_constant_arrivals_are_evenly_spaced_from_zero() -> None:
    assert schedule("constant", 4.0, seconds=1.0, requests=None, seed=0) == (0.0, 0.25, 0.5, 0.75)


def test_constant_workers_share_one_train() -> None:
    parts = [schedule("constant", 4.0, seconds=2.0, requests=None, seed=0, worker=w, workers=3) for w in range(3)]
    assert parts[1] == (0.25, 1.0, 1.75)
    assert sorted(t for part in parts for t in part) == [i / 4 for i in range(8)]


def test_requests_are_dealt_over_workers() -> None:
    parts = [schedule("poisson", 5.0, seconds=None, requests=7, seed=1, worker=w, workers=3) for w in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]


def test_whatever_comes_first_ends_the_load() -> None:
    assert len(schedule("constant", 10.0, seconds=1.0, requests=3, seed=0)) == 3
    assert len(schedule("constant", 10.0, seconds=0.25, requests=300, seed=0)) == 3


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    one = schedule("poisson", 5.0, seconds=20.0, requests=None, seed=7)
    assert one == schedule("poisson", 5.0, seconds=20.0, requests=None, seed=7)
    assert one[0] != schedule("poisson", 5.0, seconds=20.0, requests=None, seed=8)[0]


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    times = schedule("poisson", 50.0, seconds=None, requests=20_000, seed=3)
    gaps = [b - a for a, b in zip((0.0, *times), times, strict=False)]
    assert min(gaps) > 0
    assert fmean(gaps) == pytest.approx(0.02, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.02, rel=0.05)


def test_workers_draw_independent_streams_that_add_up_to_the_rate() -> None:
    parts = [schedule("poisson", 40.0, seconds=200.0, requests=None, seed=5, worker=w, workers=4) for w in range(4)]
    assert len({part[0] for part in parts}) == 4
    together = sorted(t for part in parts for t in part)
    assert len(together) == pytest.approx(8000, rel=0.05)
    gaps = [b - a for a, b in pairwise(together)]
    # an exponential's spread equals its mean; four copies of one stream would come in bursts of four
    assert pstdev(gaps) == pytest.approx(fmean(gaps), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rate_rps": 0.0, "seconds": 1.0}, "rate_rps"),
        ({"rate_rps": float("inf"), "seconds": 1.0}, "rate_rps"),
        ({"rate_rps": float("nan"), "seconds": 1.0}, "rate_rps"),
        ({"rate_rps": 1.0, "seconds": None}, "seconds"),
        ({"rate_rps": 1.0, "seconds": 1.0, "worker": 2, "workers": 2}, "worker"),
    ],
)
def test_impossible_schedules_are_refused(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        schedule("poisson", **{"requests": None, "seed": 0, **arguments})
