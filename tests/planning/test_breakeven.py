"""The break-even in steps of replicas, worked out by hand, and against the month's own costs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_cases import made_case, made_price

from planning.cost import monthly
from planning.cost.breakeven import break_even, first_tokens
from planning.cost.estimate import medians
from planning.cost.monthly import Fleet


def fleet(service=0.0, replica=100.0, planned=50e6, marginal=0.0, spares=0, most=10) -> Fleet:
    return Fleet(service, replica, marginal, 1000.0, planned, planned, planned, 0.0, 0.0, spares, most)


def test_one_replica_pays_from_its_cost_over_the_price() -> None:
    found = break_even(fleet(), 10.0)
    assert found.first_tokens == pytest.approx(10e6)  # $100 ÷ $10 per M
    # The second replica pays from 20 M on, before the first is full at 50 M: no gap.
    assert found.always_tokens == pytest.approx(10e6)
    assert [(s.replicas, s.from_tokens, s.to_tokens) for s in found.steps] == [(1, pytest.approx(10e6), 500e6)]


def test_own_marginal_cost_narrows_the_gain() -> None:
    assert break_even(fleet(marginal=5e-6), 10.0).first_tokens == pytest.approx(20e6)


def test_capacity_steps_leave_gaps() -> None:
    # A replica carries 12 M and costs $100: n replicas pay from n·10 M on. 1: 10–12, 2: 20–24, 3: 30–36, 4: 40–48,
    # 5: 50–60 and from then on the next one starts before the last is full.
    found = break_even(fleet(planned=12e6), 10.0)
    spans = [(s.replicas, s.from_tokens / 1e6, s.to_tokens / 1e6) for s in found.steps]
    assert spans == [
        (1, pytest.approx(10), pytest.approx(12)),
        (2, pytest.approx(20), pytest.approx(24)),
        (3, pytest.approx(30), pytest.approx(36)),
        (4, pytest.approx(40), pytest.approx(48)),
        (5, pytest.approx(50), pytest.approx(120)),
    ]
    assert found.always_tokens == pytest.approx(50e6)
    assert found.reason is None


def test_fixed_cost_and_spares_ask_for_more_replicas_at_once() -> None:
    # A replica carries 20 M, worth $200, and costs $100. $250 of work and a spare ($100) need 3.5 of them, so 4.
    found = break_even(fleet(service=250, planned=20e6, spares=1), 10.0)
    assert found.steps[0].replicas == 4
    assert found.first_tokens == pytest.approx((250 + 5 * 100) / 10e-6)


def test_never_when_a_full_replica_is_not_worth_its_cost() -> None:
    found = break_even(fleet(planned=9e6), 10.0)
    assert found.first_tokens is None
    assert found.steps == ()
    assert "$100 a month and carries 9.0 M tokens" in (found.reason or "")
    assert "$90" in (found.reason or "")


def test_never_when_power_alone_costs_more() -> None:
    assert "adds $11 of power" in (break_even(fleet(marginal=11e-6), 10.0).reason or "")


def test_never_when_it_takes_more_replicas_than_there_can_be() -> None:
    found = break_even(fleet(service=2000, planned=20e6, most=10), 10.0)
    assert found.first_tokens is None
    assert "20 replicas, and 10 is the limit" in (found.reason or "")


@given(
    service=st.floats(0, 1000),
    replica=st.floats(1, 1000),
    planned=st.floats(1e6, 1e9),
    price=st.floats(0.01, 50),
    spares=st.integers(0, 2),
)
def test_the_first_tokens_of_draws_are_those_of_one_case(service, replica, planned, price, spares) -> None:
    one = fleet(service, replica, planned, 1e-9, spares, 20)
    alone = break_even(one, price).first_tokens
    drawn = float(first_tokens(one, np.array([price]))[0])
    assert drawn == (pytest.approx(alone) if alone is not None else math.inf)


def test_the_month_agrees_with_the_break_even_on_both_sides() -> None:
    case = made_case(ops_hours_per_month=3, wage_usd_per_hour=50, peak_to_mean=3)
    price = made_price()
    at = monthly.month(case, price, medians(case))
    turn = break_even(at.fleet, at.api_usd_per_mtok).first_tokens
    below, above = (
        monthly.month(case, price, {**medians(case), "tokens_per_month": turn * factor}).saving_usd
        for factor in (0.999, 1.001)
    )
    assert below < 0 < above
