"""Arrival schedules: reproducible, one train for any number of workers, and of the rates that were asked for."""

from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest

from bench.plans.arrivals import schedule
from bench.run.rates import Rates, mean_rps


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


@pytest.mark.parametrize("arrival", ["poisson", "gamma", "ramp", "step"])
def test_any_number_of_workers_carries_the_same_train(arrival: str) -> None:
    how: dict[str, Any] = {"seconds": 20.0, "requests": None, "seed": 5, "burstiness": 0.3, "rates_rps": (10.0, 70.0)}
    whole = schedule(arrival, 40.0, **how)  # type: ignore[arg-type]
    parts = [schedule(arrival, 40.0, **how, worker=w, workers=4) for w in range(4)]  # type: ignore[arg-type]
    assert parts[1] == whole[1::4]
    assert sorted(t for part in parts for t in part) == list(whole)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_mean_and_the_burstiness_asked_for(burstiness: float) -> None:
    times = schedule("gamma", 50.0, seconds=None, requests=20_000, seed=3, burstiness=burstiness)
    gaps = [b - a for a, b in zip((0.0, *times), times, strict=False)]
    assert fmean(gaps) == pytest.approx(0.02, rel=0.04)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


def test_a_ramp_ends_with_the_rate_that_it_was_to_reach() -> None:
    # from 0 to 100/s in 100 s: t²/2 arrivals until t, so 5,000 in all and 1,250 in the first half
    times = schedule("ramp", 50.0, seconds=100.0, requests=None, seed=2, rates_rps=(0.0, 100.0))
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert sum(t < 50 for t in times) == pytest.approx(1250, rel=0.1)
    assert times == tuple(sorted(times)) and times[0] >= 0 and times[-1] < 100


def test_steps_keep_their_rates_and_a_rate_of_nothing() -> None:
    times = schedule("step", 100.0, seconds=30.0, requests=None, seed=2, rates_rps=(50.0, 0.0, 250.0))
    assert sum(t < 10 for t in times) == pytest.approx(500, rel=0.15)
    assert sum(10 <= t < 20 for t in times) == 0
    assert sum(20 <= t < 30 for t in times) == pytest.approx(2500, rel=0.06)


def test_what_is_expected_until_when_by_hand() -> None:
    # 2/s for 5 s, rising from 2 to 6/s in the next 5 s: 10 arrivals, then 10 + 2 u + 0.4 u²
    rates = Rates.of("ramp", (2.0, 2.0, 6.0), 10.0)
    assert rates.expected(np.array([0.0, 2.5, 5.0, 7.5, 10.0])).tolist() == [0, 5, 10, 17.5, 30]
    assert rates.instant_s(np.array([0.0, 5.0, 10.0, 17.5, 30.0, 30.1])).tolist() == [0, 2.5, 5, 7.5, 10, np.inf]
    steps = Rates.of("step", (1.0, 0.0, 3.0), 6.0)
    assert steps.expected(np.array([1.0, 3.0, 5.0])).tolist() == [1, 2, 5]
    assert steps.instant_s(np.array([1.0, 2.0, 5.0])).tolist() == [1, 2, 5]
    assert mean_rps("ramp", (2.0, 2.0, 6.0)) == 3.0
    assert mean_rps("step", (1.0, 0.0, 3.0)) == pytest.approx(4 / 3)


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
