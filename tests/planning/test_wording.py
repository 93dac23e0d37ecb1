"""Numbers in words: no digits that are not known, “never” for infinity, and no plain 0 or 100 %."""

import math

import pytest
from made_cases import made_case, made_price

from planning.cost import wording
from planning.cost.estimate import estimate
from planning.cost.uncertainty import Quantity, Range


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (31.68, "USD/M tokens", "$31.68/M tokens"),
        (0.235043, "USD", "$0.235"),
        (0.8, "USD", "$0.80"),
        (4800, "USD", "$4,800"),
        (-166.25, "USD/month", "−$166.25/month"),
        (25, "USD/month", "$25/month"),
        (8.142857, "months", "8.14 months"),
        (math.inf, "months", "never"),
        (math.inf, "tokens/month", "unlimited"),
        (160e6, "tokens/month", "160 M tokens/month"),
        (1 / 3, "share", "33.3 %"),
        (471.48, "GB", "471 GB"),
        (4096, "", "4,096"),
        (0, "USD", "$0"),
    ],
)
def test_one_number(value: float, unit: str, text: str) -> None:
    assert wording.figure_text(value, unit) == text


@pytest.mark.parametrize(
    ("span", "unit", "text"),
    [
        ((25, 100), "USD/month", "$25 to $100/month"),
        ((57, math.inf), "months", "57 months to never"),
        ((1500, math.inf), "USD/month", "$1,500/month or more"),
        ((-math.inf, 100), "USD/month", "$100/month or less"),
        ((0.6, 0.8), "share", "60 to 80 %"),
        ((7, 7), "months", "7 months"),
        ((math.inf, math.inf), "months", "never"),
    ],
)
def test_a_range(span: tuple[float, float], unit: str, text: str) -> None:
    assert wording.span_text(span, unit) == text


def test_drawn_dollars_have_no_cents_from_ten_on() -> None:
    assert wording.range_text(Range(24.147, 41.956, 69.207, 0), "USD/month") == "$42/month ($24 to $69/month)"
    assert wording.range_text(Range(5, 5, 5, 5), "USD") == "$5"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "in none of 200,000 draws"),
        (1.0, "in all of 200,000 draws"),
        (0.00003, "under 0.01 %"),
        (0.99999, "over 99.99 %"),
        (0.5, "50 %"),
        (0.0015, "0.15 %"),
    ],
)
def test_a_share_of_draws(share: float, text: str) -> None:
    assert wording.probability_text(share, 200_000) == text


def test_a_quantity_with_and_without_a_range() -> None:
    assert (
        wording.quantity_text(Quantity(low=250, mode=450, high=520, unit="tok/s"))
        == "250 to 520 tok/s, likely 450 tok/s"
    )
    assert wording.quantity_text(Quantity.point(24, "h/day")) == "24 h/day"


@pytest.mark.parametrize(
    ("tokens", "head"),
    [(1e6, "The API is cheaper."), (100e6, "Own hardware is cheaper."), ((20e6, 30e6, 40e6), "It is not settled")],
)
def test_the_verdict_follows_the_probability(tokens: object, head: str) -> None:
    demand = tokens if isinstance(tokens, float) else dict(zip(("low", "mode", "high"), tokens, strict=True))
    said = wording.verdict(estimate(made_case(tokens_per_month=demand), draws=2_000, price=made_price()))
    assert said[0].startswith(head)
    assert said[1] == "Own hardware becomes cheaper at 31.7 M tokens/month."


def test_the_verdict_says_never() -> None:
    made = estimate(made_case(), draws=2_000, price=made_price(0.001, 0.01))
    said = wording.verdict(made)[1]
    assert said.startswith(
        "Own hardware becomes cheaper in none of 2,000 draws. With every assumption at its median: a "
    )


def test_the_verdict_says_where_a_full_replica_makes_the_api_cheaper_again() -> None:
    # 31.68 M tokens pay for a replica, which carries 40 M; two are cheaper from 63.36 M on.
    made = estimate(made_case(output_tok_s=40e6 / (720 * 3600)), draws=2_000, price=made_price())
    assert wording.verdict(made)[1].endswith(
        "Beyond what one replica carries (some 40 M tokens/month) the next one makes the API cheaper again for a while."
    )
