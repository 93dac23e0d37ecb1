"""Costs, claims and their ranges as a person reads them. Pure text."""

import math

from inputs.quantities import trimmed
from planning.cost.estimate import Estimate, standard_error
from planning.cost.uncertainty import Quantity, Range

Span = tuple[float, float]  # low, high
_PER = {"USD/month": "month", "USD/M tokens": "M tokens", "USD/h": "h", "USD/kWh": "kWh"}
HOW = {"rent": "renting", "buy": "buying"}


def span_text(span: Span, unit: str) -> str:
    """Return a range as a person reads it: “$25 to $100 a month”, “8.1 months”, “never”."""
    low, high = span
    if low == high or (math.isinf(low) and math.isinf(high)):
        return figure_text(low, unit)
    if math.isinf(high):
        return f"{figure_text(low, unit)} to never" if unit == "months" else f"{figure_text(low, unit)} or more"
    if math.isinf(low):
        return f"{figure_text(high, unit)} or less"
    low_text, high_text = figure_text(low, unit), figure_text(high, unit)
    for suffix in (f" {unit}", " %", *(f"/{per}" for per in _PER.values())):
        low_text = low_text.removesuffix(suffix) if high_text.endswith(suffix) else low_text
    return f"{low_text} to {high_text}"


def figure_text(value: float, unit: str) -> str:
    """Return one number with its unit, at most four digits of it after a rounding that keeps three."""
    if math.isinf(value):
        return "never" if unit == "months" else "unlimited"
    if unit.startswith("USD"):
        sign = "−" if value < 0 else ""
        per = f"/{_PER[unit]}" if unit in _PER else ""
        return f"{sign}${_digits(abs(value), money=True)}{per}"
    if unit == "share":
        return f"{_digits(value * 100)} %"
    if unit == "tokens/month" and abs(value) >= 1e6:
        return f"{_digits(value / 1e6)} M tokens/month"
    return _digits(value) if unit == "ratio" else f"{_digits(value)} {unit}".strip()


def _digits(value: float, money: bool = False) -> str:
    size = abs(value)
    if money and 1 <= size < 1000:
        text = f"{size:.2f}".removesuffix(".00")
    else:
        text = trimmed(size, 3 if size >= 0.001 else 2)
        # Cents are written with two digits.
        text += "0" if money and len(text.partition(".")[2]) == 1 else ""
    return ("−" if value < 0 else "") + text


def _rounded(value: float) -> float:
    """A drawn value without digits that another seed would change: three, and no cents from ten dollars on."""
    if not math.isfinite(value) or value == 0:
        return value
    return round(value) if abs(value) >= 10 else float(f"{value:.3g}")


def times_text(ratio: float) -> str:
    """Return a cost ratio (API over own) in words: “3.2 times cheaper”, “13 times dearer”."""
    return f"{_digits(ratio)} times cheaper" if ratio >= 1 else f"{_digits(1 / ratio)} times dearer"


def range_text(found: Range, unit: str) -> str:
    """Return the median and the 5th to 95th percentile: “$792 ($531 to $1,221)”."""
    p5, p50, p95 = (_rounded(value) if unit.startswith("USD") else value for value in (found.p5, found.p50, found.p95))
    return figure_text(p50, unit) if p5 == p95 else f"{figure_text(p50, unit)} ({span_text((p5, p95), unit)})"


def quantity_text(quantity: Quantity) -> str:
    """Return a quantity's range and most likely value: “250 to 520, likely 450 tok/s”."""
    if quantity.is_point:
        return figure_text(quantity.mode, quantity.unit)
    return (
        f"{span_text((quantity.low, quantity.high), quantity.unit)}, likely {figure_text(quantity.mode, quantity.unit)}"
    )


def probability_text(share: float, draws: int) -> str:
    """Return a share of draws with no more digits than the draws give; never a plain 0 or 100 %."""
    if share == 0:
        return f"in none of {draws:,} draws"
    if share == 1:
        return f"in all of {draws:,} draws"
    digits = max(0, min(2, math.floor(-math.log10(max(standard_error(share, draws) * 100, 1e-9)))))
    text = f"{share * 100:.{digits}f}"
    if float(text) in (0.0, 100.0):
        return "under 0.01 %" if share < 0.5 else "over 99.99 %"
    return f"{text} %"


def verdict(made: Estimate) -> list[str]:
    """Return the answer in sentences: what a month costs both ways, P(cheaper), and from what demand on it turns."""
    case = made.case
    demand = quantity_text(case.inputs["tokens_per_month"])
    own, api = range_text(made.own_usd, "USD/month"), range_text(made.api_usd, "USD/month")
    cheaper = made.probability_cheaper
    likely = probability_text(cheaper, made.draws)
    how = HOW[case.hosting.kind]
    odds = f"{how} is cheaper {likely}" if cheaper in (0.0, 1.0) else f"P({how} is cheaper) is {likely}"
    if cheaper > 0.95:
        head = "Own hardware is cheaper"
    elif cheaper < 0.05:
        head = "The API is cheaper"
    else:
        head = "It is not settled: the assumptions decide"
    said = [
        f"{head}. At {demand}, {how} costs {own} and {made.price.name} {api}; {odds}.",
        break_even_text(made),
    ]
    if made.probability_over_capacity > 0:
        share = probability_text(made.probability_over_capacity, made.draws)
        said.append(f"More than {case.hosting.max_replicas:,} replicas would be needed with probability {share}.")
    if made.payback_months is not None:
        paid = range_text(made.payback_months, "months")
        said.append(f"What is paid upfront has come back after: {paid}.")
    return said


def break_even_text(made: Estimate) -> str:
    """Return the break-even over the draws, and why there is none or where it turns back."""
    why = ""
    if made.break_even.reason:
        why = f" With every assumption at its median: {made.break_even.reason}."
    if made.probability_never == 1:
        return f"Own hardware becomes cheaper in none of {made.draws:,} draws.{why}"
    often = probability_text(made.probability_never, made.draws)
    if math.isinf(made.break_even_tokens.p50):
        return f"Own hardware never becomes cheaper, with probability {often}.{why}"
    drawn = range_text(made.break_even_tokens, "tokens/month").replace("unlimited", "never")
    never = f"; never with probability {often}" if made.probability_never > 0 else ""
    return f"Own hardware becomes cheaper at {drawn}{never}.{_turns_back(made)}"


def _turns_back(made: Estimate) -> str:
    """Where full replicas make the API cheaper again for a while: a sentence, or nothing."""
    if len(made.break_even.steps) < 2:
        return ""
    first = made.break_even.steps[0]
    replicas = "one replica carries" if first.replicas == 1 else f"{first.replicas:,} replicas carry"
    return (
        f" Beyond what {replicas} (some {figure_text(first.to_tokens, 'tokens/month')}) the next one makes the API "
        "cheaper again for a while."
    )
