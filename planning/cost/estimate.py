"""API or own hardware, with ranges: seeded draws of every assumption, what each one moves, and the break-even.

Every draw is a whole month priced both ways, so P(cheaper) counts draws, not ends of ranges. Every figure is the median
of draws with its band, so that what is said, tabled and drawn is the same number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planning.catalogs import STALE_AFTER_DAYS
from planning.cost import api_prices, breakeven, monthly
from planning.cost.api_prices import ApiPrice
from planning.cost.assumptions import Case, label, quantities
from planning.cost.breakeven import BreakEven
from planning.cost.monthly import Month
from planning.cost.uncertainty import Number, Range, Swing, draw, probability, summary

DRAWS = 200_000
SWING_DRAWS = 10_000  # for each end of each input


@dataclass(frozen=True)
class Estimate:
    """A case's answer. Ranges are percentiles over the draws; `parts_usd` is what own hardware's month is paid for, of
    which each part's median is its own: they need not add up to the whole's.

    `break_even` explains why never, or where replicas fill up, with every input at its median; the figure is
    `break_even_tokens`, and `at_medians` is that month.
    """

    case: Case
    price: ApiPrice
    draws: int
    seed: int
    at_medians: Month
    own_usd: Range
    api_usd: Range
    saving_usd: Range
    probability_cheaper: float
    parts_usd: dict[str, Range]
    own_usd_per_mtok: dict[str, Range]
    api_usd_per_mtok: Range
    replicas: Range
    utilization: Range
    payback_months: Range | None
    break_even: BreakEven
    break_even_tokens: Range
    probability_never: float
    probability_over_capacity: float
    tornado: tuple[Swing, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DemandCurve:
    """Monthly cost in USD at each of `tokens` a month, with the band of the draws, and P(own is cheaper)."""

    tokens: tuple[float, ...]
    own_usd: tuple[Range, ...]
    api_usd: tuple[Range, ...]
    probability_cheaper: tuple[float, ...]


def estimate(case: Case, *, draws: int = DRAWS, seed: int = 0, price: ApiPrice | None = None) -> Estimate:
    """Return the case's cost both ways with ranges, break-even and tornado; the same for the same case and seed.

    `price` (looked up when None) is the API's. Raises UnknownName when the API model is not known.
    """
    price = price or api_prices.find(case.api.model, case.api.provider)
    at_medians = monthly.month(case, price, medians(case))
    drawn = monthly.month(case, price, sample(case, draws, seed))
    break_even_tokens = breakeven.first_tokens(drawn.fleet, drawn.api_usd_per_mtok)
    return Estimate(
        case=case,
        price=price,
        draws=draws,
        seed=seed,
        at_medians=at_medians,
        own_usd=summary(drawn.own_usd),
        api_usd=summary(drawn.api_usd),
        saving_usd=summary(drawn.saving_usd),
        probability_cheaper=probability(drawn.own_usd < drawn.api_usd),
        parts_usd={name: summary(values) for name, values in drawn.parts_usd.items()},
        own_usd_per_mtok={basis: summary(values) for basis, values in drawn.own_usd_per_mtok.items()},
        api_usd_per_mtok=summary(drawn.api_usd_per_mtok),
        replicas=summary(drawn.replicas),
        utilization=summary(drawn.utilization),
        payback_months=summary(drawn.payback_months) if case.hosting.kind == "buy" else None,
        break_even=breakeven.break_even(at_medians.fleet, float(at_medians.api_usd_per_mtok)),
        break_even_tokens=summary(break_even_tokens),
        probability_never=probability(np.isinf(break_even_tokens)),
        probability_over_capacity=probability(np.isinf(np.asarray(drawn.replicas))),
        tornado=tornado(case, price, draws=min(draws, SWING_DRAWS), seed=seed),
        warnings=tuple(_warnings(case, price)),
    )


def medians(case: Case) -> dict[str, Number]:
    """Return every input at its median."""
    return {name: quantity.median for name, quantity in quantities(case).items()}


def sample(case: Case, draws: int, seed: int) -> dict[str, Number]:
    """Return `draws` values of every input that has a range, and the one value of the others."""
    return {name: draw(quantity, name, draws, seed) for name, quantity in quantities(case).items()}


def tornado(case: Case, price: ApiPrice, *, draws: int = SWING_DRAWS, seed: int = 0) -> tuple[Swing, ...]:
    """Return what each input that has a range moves the median monthly saving (API − own, USD) by, the widest first."""
    drawn = sample(case, draws, seed)
    swings = []
    for name, quantity in quantities(case).items():
        if quantity.is_point:
            continue
        ends = [
            summary(monthly.month(case, price, {**drawn, name: value}).saving_usd).p50
            for value in (quantity.low, quantity.high)
        ]
        swings.append(Swing(name, label(case, name), quantity.unit, quantity.low, quantity.high, *ends))
    return tuple(sorted((swing for swing in swings if swing.width > 0), key=lambda swing: -swing.width))


def utilization_curve(
    case: Case, shares: Sequence[float], *, draws: int = 2_000, seed: int = 0
) -> list[tuple[float, Range]]:
    """Return (utilization, own USD per million tokens) of one replica over the draws; spare replicas are paid for."""
    fleet = monthly.fleet_of(case, sample(case, draws, seed))
    points = []
    for share in shares:
        tokens = share * fleet.full_tokens
        points.append((share, summary(monthly.usd_per_mtok(fleet.month_usd(1.0, tokens), tokens))))
    return points


def demand_curve(case: Case, tokens: Sequence[float], *, draws: int = 4_000, seed: int = 0) -> DemandCurve:
    """Return the monthly cost both ways at each demand, all other inputs drawn: the break-even figure's band."""
    price = api_prices.find(case.api.model, case.api.provider)
    values = sample(case, draws, seed)
    own, api, cheaper = [], [], []
    for many in tokens:
        drawn = monthly.month(case, price, {**values, "tokens_per_month": many})
        own.append(summary(drawn.own_usd))
        api.append(summary(drawn.api_usd))
        cheaper.append(probability(drawn.own_usd < drawn.api_usd))
    return DemandCurve(tuple(tokens), tuple(own), tuple(api), tuple(cheaper))


def standard_error(share: float, draws: int) -> float:
    """Return the sampling error of a share of draws: how far another seed would typically be off."""
    return math.sqrt(max(share * (1 - share), 0.0) / draws)


def _warnings(case: Case, price: ApiPrice) -> list[str]:
    model = case.hosting.model or "the open model"
    found = [*case.notes, f"Prices only: nothing here says that {model} answers as well as {price.name}."]
    inputs = case.inputs
    if "slo_output_tok_s" not in inputs:
        found.append(
            "No throughput within an SLO is known, so replicas are counted at full load, where latency is worst: the "
            "cost is a lower bound. Give slo_output_tok_s, or a run whose plan has an [slo]."
        )
    if price.batch is None and inputs["batch_share"].high > 0:
        found.append(f"{price.package} knows no batch price of {price.name}: batch_share changes nothing.")
    if price.context_tokens is not None:
        for kind in case.requests:
            if kind.input_tokens.high > price.context_tokens:
                found.append(
                    f"Requests of kind {kind.name} reach {kind.input_tokens.high:,.0f} input tokens; {price.name} "
                    f"takes {price.context_tokens:,}."
                )
    if inputs["hours_per_day"].high < 24:
        share = inputs["hours_per_day"].high / 24
        found.append(
            f"The servers run {inputs['hours_per_day'].high:g} h a day: available at most {share:.1%} of the time, and "
            "all demand must fall into those hours."
        )
    old = [
        f"{label(case, name)} ({quantity.date})"
        for name, quantity in quantities(case).items()
        if quantity.unit.startswith("USD") and quantity.date and (price.on - quantity.date).days > STALE_AFTER_DAYS
    ]
    if old:
        found.append(f"Prices older than {STALE_AFTER_DAYS} days on {price.on}: {', '.join(old)}.")
    unsourced = [name for name, quantity in quantities(case).items() if quantity.source is None]
    if unsourced:
        found.append(f"Without a source: {', '.join(unsourced)}.")
    return found
