"""Draws, percentiles, and the estimate over them."""

import math

import numpy as np
import pytest
from made_cases import made_case, made_price
from pydantic import ValidationError

from planning.cost.assumptions import changed
from planning.cost.estimate import demand_curve, estimate, standard_error
from planning.cost.uncertainty import Quantity, draw, probability, summary


def wide(low: float, mode: float, high: float) -> dict[str, float]:
    return {"low": low, "mode": mode, "high": high}


def test_a_triangle_has_its_known_mean_and_quantiles() -> None:
    drawn = draw(Quantity(low=0, mode=3, high=9), "x", 200_000, 0)
    assert drawn.min() >= 0
    assert drawn.max() <= 9
    assert drawn.mean() == pytest.approx(4, abs=0.02)  # (0 + 3 + 9) / 3
    assert np.mean(drawn <= 3) == pytest.approx(1 / 3, abs=0.005)  # (mode − low) / (high − low)


@pytest.mark.parametrize("mode", [0, 9])
def test_the_mode_may_be_an_end(mode: float) -> None:
    drawn = draw(Quantity(low=0, mode=mode, high=9), "x", 50_000, 0)
    assert drawn.mean() == pytest.approx((mode + 9) / 3, abs=0.05)


def test_a_point_is_not_drawn() -> None:
    assert draw(Quantity.point(5.0), "x", 1000, 0) == 5.0


def test_streams_are_reproducible_and_each_input_has_its_own() -> None:
    quantity = Quantity(low=0, mode=1, high=2)
    assert np.array_equal(draw(quantity, "a", 100, 7), draw(quantity, "a", 100, 7))
    assert not np.array_equal(draw(quantity, "a", 100, 7), draw(quantity, "b", 100, 7))
    assert not np.array_equal(draw(quantity, "a", 100, 7), draw(quantity, "a", 100, 8))
    correlation = np.corrcoef(draw(quantity, "a", 50_000, 7), draw(quantity, "b", 50_000, 7))[0, 1]
    assert abs(correlation) < 0.02


@pytest.mark.parametrize("values", [(2, 1, 3), (1, 3, 2), (math.nan, 1, 2), (0, 1, math.inf)])
def test_a_range_must_be_in_order_and_finite(values: tuple[float, float, float]) -> None:
    low, mode, high = values
    with pytest.raises(ValidationError):
        Quantity(low=low, mode=mode, high=high)


def test_summary_of_a_hundred_values() -> None:
    found = summary(np.arange(1.0, 101.0))
    assert (found.p5, found.p50, found.p95, found.mean) == (5, 50, 95, 50.5)


def test_percentiles_pass_infinity_on_and_invent_nothing_before_it() -> None:
    found = summary(np.array([1.0] * 94 + [math.inf] * 6))
    assert found.p50 == 1
    assert math.isinf(found.p95)
    assert not math.isnan(found.p50)


def test_probability_counts_draws() -> None:
    assert probability(np.array([True, False, False, False])) == 0.25


def test_the_same_seed_gives_the_same_estimate_another_seed_nearly_the_same() -> None:
    case = made_case(tokens_per_month=wide(10e6, 30e6, 60e6), output_tok_s=wide(200, 400, 600))
    one, two, other = (estimate(case, draws=50_000, seed=seed, price=made_price()) for seed in (1, 1, 2))
    assert one == two
    assert one.own_usd_per_mtok == two.own_usd_per_mtok
    assert other.probability_cheaper != one.probability_cheaper
    allowed = 5 * standard_error(one.probability_cheaper, 50_000)
    assert abs(other.probability_cheaper - one.probability_cheaper) < allowed


def test_probability_cheaper_against_a_known_answer() -> None:
    # Rent $316.80; the API asks $10 per M: cheaper above 31.68 M. Over 20…40 M with its peak at 30 M that is
    # (40 − 31.68)² / (20 · 10) of the triangle: 0.3461.
    case = made_case(tokens_per_month=wide(20e6, 30e6, 40e6))
    found = estimate(case, price=made_price())
    assert found.probability_cheaper == pytest.approx(0.3461, abs=0.004)
    assert found.api_usd.p50 == pytest.approx(300, abs=1)
    assert found.own_usd.p5 == found.own_usd.p95 == pytest.approx(316.8)


def test_editing_one_input_leaves_the_draws_of_the_others() -> None:
    case = made_case(tokens_per_month=wide(20e6, 30e6, 40e6))
    edited = changed(case, {"storage_usd_per_month": (0.0, 10.0, 20.0)})
    assert estimate(case, price=made_price()).api_usd == estimate(edited, price=made_price()).api_usd


def test_tornado_moves_one_input_at_a_time_and_sorts_by_width() -> None:
    case = made_case(tokens_per_month=wide(20e6, 30e6, 50e6), storage_usd_per_month=wide(0, 10, 20))
    swings = estimate(case, draws=1_000, price=made_price()).tornado
    assert [swing.name for swing in swings] == ["tokens_per_month", "storage_usd_per_month"]
    # saving = tokens · $10/M − 316.8 − storage, with the median of the other: storage's is 10, that of the tokens
    # 50 − √(30 · 20 / 2) = 32.68 M.
    assert (swings[0].at_low, swings[0].at_high) == pytest.approx((200 - 326.8, 500 - 326.8), abs=1)
    assert (swings[1].at_low, swings[1].at_high) == pytest.approx((326.8 - 316.8, 326.8 - 336.8), abs=8)


@pytest.mark.parametrize(("low", "mode", "high"), [(0, 1, 10), (0, 9, 10), (0, 5, 10), (2, 2, 6), (2, 6, 6), (3, 3, 3)])
def test_a_median_is_what_half_of_the_draws_lie_below(low: float, mode: float, high: float) -> None:
    quantity = Quantity(low=low, mode=mode, high=high)
    drawn = np.atleast_1d(draw(quantity, "x", 40_000, 0))
    assert quantity.median == pytest.approx(float(np.median(drawn)), abs=0.02 * (high - low) + 1e-12)


def test_an_input_that_moves_nothing_is_not_in_the_tornado() -> None:
    swings = estimate(made_case(batch_share=wide(0, 0.1, 0.2)), draws=1_000, price=made_price()).tornado
    assert swings == ()


def test_the_demand_curve_shows_the_step_of_a_replica() -> None:
    case = made_case(output_tok_s=10)  # 25.92 M tokens a replica
    curve = demand_curve(case, [25e6, 26e6])
    assert [found.p50 for found in curve.own_usd] == pytest.approx([316.8, 633.6])


def test_over_capacity_is_a_probability_and_counts_as_not_cheaper() -> None:
    case = made_case(hosting={"max_replicas": 1}, output_tok_s=10, tokens_per_month=wide(20e6, 30e6, 40e6))
    found = estimate(case, price=made_price(output_usd=1000))
    # P(tokens > 25.92 M) = 1 − 5.92² / 200 = 0.8248
    assert found.probability_over_capacity == pytest.approx(0.8248, abs=0.004)
    assert found.probability_cheaper == pytest.approx(1 - found.probability_over_capacity)
    assert math.isinf(found.own_usd.p95)


def test_warnings_name_what_is_missing() -> None:
    said = " ".join(estimate(made_case(hours_per_day=8), draws=1_000, price=made_price()).warnings)
    assert "No throughput within an SLO is known" in said
    assert "at most 33.3%" in said
    assert "Without a source: tokens_per_month" in said
