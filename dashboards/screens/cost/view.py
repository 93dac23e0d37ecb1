"""API or own hardware: the assumptions as people edit them, and what follows from them. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

from inputs.quantities import number
from planning.claims.audit import RoiRow
from planning.cost import wording
from planning.cost.assumptions import Case, changed, label, quantities, rule
from planning.cost.estimate import DemandCurve, Estimate
from planning.cost.monthly import ACTUAL, FULL, SLO
from planning.cost.uncertainty import Quantity, Range
from planning.errors import BadInput

Rows = list[dict[str, Any]]
# What moves most is a slider: (name, values to choose from). Moving it takes its range along in proportion.
SLIDERS: dict[str, tuple[float, ...]] = {
    "tokens_per_month": tuple(m * 10.0**e for e in range(5, 12) for m in (1, 2, 5)),
    "output_tok_s": tuple(m * 10.0**e for e in range(1, 5) for m in (1, 1.5, 2, 3, 4.5, 7)),
    "peak_to_mean": (1, 1.5, 2, 3, 4, 6, 8, 12, 20),
    "rent_usd_per_gpu_hour": (0.1, 0.2, 0.3, 0.44, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8, 12),
    "hardware_usd": (500, 1000, 2000, 2850, 4000, 6000, 10_000, 20_000, 50_000, 100_000, 250_000, 400_000),
    "ops_hours_per_month": (0, 1, 2, 4, 8, 16, 40, 80, 160),
}
BASES = {FULL: "at full load", SLO: "within the SLO", ACTUAL: "as asked for"}
NEVER = "never"


def usd(value: float) -> str:
    """An amount in USD; what cannot be reached is “never”."""
    if math.isinf(value):
        return NEVER
    sign = "−" if value < 0 else ""
    size = abs(value)
    return f"{sign}${size:,.0f}" if size >= 100 else f"{sign}${number(size)}"


def tokens(value: float) -> str:
    """A number of tokens as people say it: 10 M, 1.5 G."""
    if math.isinf(value):
        return NEVER
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{number(value / size)} {unit}"
    return number(value)


def quantity_text(quantity: Quantity) -> str:
    """An assumption as it is edited: “300 / 750 / 1500” (low / most likely / high), or one number without a range."""
    if quantity.is_point:
        return f"{quantity.mode:.12g}"
    return " / ".join(f"{value:.12g}" for value in (quantity.low, quantity.mode, quantity.high))


def parsed(text: str, name: str) -> float | tuple[float, float, float]:
    """One number or three from an edited assumption; raises BadInput with what would work."""
    parts = [part for part in re.split(r"[/;\s]+", text.strip()) if part]
    try:
        found = [float(part.replace(",", "").replace("_", "")) for part in parts]
    except ValueError:
        found = []
    if len(found) == 1:
        return found[0]
    if len(found) == 3:
        return found[0], found[1], found[2]
    raise BadInput(
        f"{name} = {text!r}: write one number, or three as low / most likely / high, for example 300 / 750 / 1500."
    )


def moved(quantity: Quantity, mode: float) -> tuple[float, float, float]:
    """The quantity with another most likely value, its ends in the same proportion to it as before."""
    if quantity.mode == 0:
        return mode, mode, max(mode, quantity.high)
    return quantity.low / quantity.mode * mode, mode, quantity.high / quantity.mode * mode


def with_slider(case: Case, name: str, mode: float) -> Case:
    """The case with a slider moved; its range is cut where an input may not go."""
    known, quantity = rule(name), quantities(case)[name]
    low, middle, high = moved(quantity, mode)
    return changed(case, {name: (max(low, min(known.lowest, middle)), middle, min(high, max(known.highest, middle)))})


def edited(case: Case, texts: Mapping[str, str]) -> tuple[Case, list[str]]:
    """The case with the edits that can be, and what is wrong with the others: one spoils no other."""
    problems = []
    for name, text in texts.items():
        try:
            value = parsed(text, name)
            known = quantities(case).get(name)
            if known is None or value != _value(known):
                case = changed(case, {name: value})
        except BadInput as error:
            problems.append(str(error))
    return case, problems


def _value(quantity: Quantity) -> float | tuple[float, float, float]:
    return quantity.mode if quantity.is_point else (quantity.low, quantity.mode, quantity.high)


def verdict(found: Estimate) -> str:
    """The answer in words."""
    p, name = found.probability_cheaper, found.price.name
    share = f"in {number(p * 100, 3)} % of the draws" if p else "in no draw"
    if p >= 0.975:
        head = f"Own hardware is almost certainly cheaper than {name}: {share}."
    elif p >= 0.6:
        head = f"Own hardware is probably cheaper than {name}: {share}."
    elif p > 0.4:
        head = f"Own hardware and {name} are too close to call: own is cheaper {share}."
    elif p > 0.025:
        head = f"{name} is probably cheaper: own hardware wins {share}."
    else:
        head = f"{name} is almost certainly cheaper: own hardware wins {share}."
    ranges = (
        f"A month costs {spread(found.own_usd)} on own hardware and {spread(found.api_usd)} by API (5th to 95th "
        "percentile)."
    )
    return f"{head} {ranges} {wording.break_even_text(found)}"


def spread(found: Range) -> str:
    """The 5th to 95th percentile of an amount in USD."""
    return f"{usd(found.p5)} to {usd(found.p95)}"


def result_rows(found: Estimate) -> Rows:
    """What a month costs, with ranges, for people."""
    rows = [
        _range_row("Own hardware", "per month", found.own_usd),
        _range_row(found.price.name, "per month", found.api_usd),
        _range_row("Saved by own hardware", "per month", found.saving_usd),
        _range_row(found.price.name, "per million tokens", found.api_usd_per_mtok),
    ]
    rows += [
        _range_row(f"Own hardware, {BASES.get(basis, basis)}", "per million tokens", amount)
        for basis, amount in found.own_usd_per_mtok.items()
    ]
    return rows


def _range_row(what: str, unit: str, amount: Range) -> dict[str, Any]:
    return {"": what, "Unit": unit, "P5": usd(amount.p5), "Median": usd(amount.p50), "P95": usd(amount.p95)}


def facts(found: Estimate) -> list[tuple[str, str, str]]:
    """The figures that decide, side by side."""
    even = found.break_even_tokens
    months = found.payback_months
    facts = [
        ("Own hardware is cheaper", f"{number(found.probability_cheaper * 100, 3)} %", f"of {found.draws:,} draws"),
        ("Own hardware", usd(found.own_usd.p50), f"a month ({spread(found.own_usd)})"),
        ("API", usd(found.api_usd.p50), f"a month ({spread(found.api_usd)})"),
        ("Break-even", tokens(even.p50), f"tokens a month ({tokens(even.p5)} to {tokens(even.p95)})"),
        ("Utilization", f"{number(found.utilization.p50 * 100, 2)} %", f"of {servers(found.replicas.p50)}"),
    ]
    if months is not None:
        facts.append(
            ("Pays back after", f"{number(months.p50)} months" if math.isfinite(months.p50) else NEVER, "median")
        )
    return facts


def servers(many: float) -> str:
    if math.isinf(many):
        return "more servers than allowed"
    return f"{many:.0f} {'replica' if many == 1 else 'replicas'}, spares aside"


def utilization_rows(points: list[tuple[float, Range]]) -> Rows:
    """Cost at each utilization, the median and its band."""
    return [
        {"utilization": share, "usd_per_mtok": cost.p50, "usd_p5": cost.p5, "usd_p95": cost.p95}
        for share, cost in points
        if math.isfinite(cost.p95)
    ]


def shares(count: int = 40) -> list[float]:
    """Utilizations from 0.1 % to 100 %, evenly on a logarithmic axis."""
    return [10 ** (-3 + 3 * index / (count - 1)) for index in range(count)]


def demand_axis(case: Case, even: Range, count: int = 60) -> list[float]:
    """Tokens a month from far below to far above what is asked for and the break-even."""
    asked = quantities(case)["tokens_per_month"]
    marks = [asked.low, asked.high, *(value for value in (even.p50,) if math.isfinite(value))]
    low, high = math.log10(min(marks) / 5), math.log10(max(marks) * 20)
    return [10 ** (low + (high - low) * index / (count - 1)) for index in range(count)]


def even_rows(even: Range) -> Rows:
    """The break-even over the draws, where half of them or more have one; its end is open where some have none."""
    if not math.isfinite(even.p50):
        return []
    return [{"p5": even.p5, "p50": even.p50, "p95": even.p95 if math.isfinite(even.p95) else None}]


def demand_rows(curve: DemandCurve) -> Rows:
    """Monthly cost both ways at each demand; None where the demand is more than the fleet may carry."""
    rows: Rows = []
    for many, own, api in zip(curve.tokens, curve.own_usd, curve.api_usd, strict=True):
        for way, amount in (("own hardware", own), ("API", api)):
            rows.append(
                {"way": way, "tokens_per_month": many, **{
                    f"usd_{name}": value if math.isfinite(value) else None
                    for name, value in (("p5", amount.p5), ("p50", amount.p50), ("p95", amount.p95))
                }}
            )  # fmt: skip
    return rows


def tornado_rows(found: Estimate, most: int = 12) -> Rows:
    """What each assumption moves the monthly saving by, the widest first."""
    return [
        {
            "assumption": swing.label,
            "low": f"{swing.low:,.6g} {swing.unit}",
            "high": f"{swing.high:,.6g} {swing.unit}",
            "saving_at_low_usd": swing.at_low if math.isfinite(swing.at_low) else None,
            "saving_at_high_usd": swing.at_high if math.isfinite(swing.at_high) else None,
        }
        for swing in found.tornado[:most]
        if math.isfinite(swing.at_low) or math.isfinite(swing.at_high)
    ]


def parts_rows(found: Estimate) -> Rows:
    """What a month on own hardware is paid for; each part's median is its own."""
    return [_range_row(name, "per month", part) for name, part in found.parts_usd.items() if part.p95]


def assumption_rows(case: Case) -> Rows:
    """Every assumption with its range, source and date."""
    return [
        {
            "Assumption": label(case, name),
            "Low": f"{quantity.low:,.6g}",
            "Most likely": f"{quantity.mode:,.6g}",
            "High": f"{quantity.high:,.6g}",
            "Unit": quantity.unit,
            "Source": quantity.source or "given here",
            "Date": str(quantity.date or "–"),
            "name": name,
        }
        for name, quantity in quantities(case).items()
    ]


def roi_rows(rows: list[RoiRow]) -> Rows:
    """The guide's return-on-investment table, recomputed from its own inputs beside what it prints."""
    return [
        {
            "Solution": row.solution,
            "Upfront": usd(row.upfront_usd),
            "Monthly": usd(row.monthly_usd),
            "12 months": usd(row.month_12_usd),
            "24 months": usd(row.month_24_usd),
            "The guide prints": " · ".join(usd(value) for value in row.claimed),
        }
        for row in rows
    ]
