"""What `nbridge cost` shows a person: rich renderables; nothing is printed here."""

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from inputs.quantities import trimmed
from planning import tables
from planning.cost import wording
from planning.cost.assumptions import label, quantities
from planning.cost.estimate import Estimate
from planning.cost.monthly import ACTUAL
from planning.cost.uncertainty import DISTRIBUTION, Range, Swing

_BAR = 32
_MOST_SWINGS = 10


def page(made: Estimate) -> RenderableType:
    """The whole answer: verdict, a month, a million tokens, what drives it, the assumptions, and what to beware of."""
    parts: list[RenderableType] = [
        Text(made.case.name, style="bold"),
        Text("\n".join(["", *wording.verdict(made), ""])),
        _month(made),
        Text(""),
        _per_million(made),
        Text(""),
        tornado(made),
        Text(""),
        assumptions(made),
    ]
    parts += [Text(f"\nBeware: {warning}") for warning in made.warnings]
    parts.append(
        Text(
            f"\n{made.draws:,} draws, {DISTRIBUTION} between low, likely and high, independent of each other; seed "
            f"{made.seed}. API prices of {made.price.on}: {made.price.package}."
        )
    )
    return Group(*parts)


def document(made: Estimate) -> dict[str, Any]:
    """The estimate for programs; “never” and “cannot” are null."""
    month = made.at_medians
    fleet = month.fleet
    return {
        "format": 1,
        "case": made.case.model_dump(mode="json"),
        "api": {
            "name": made.price.name,
            "on": made.price.on.isoformat(),
            "package": made.price.package,
            "urls": made.price.urls,
            "comment": made.price.comment,
        },
        "verdict": wording.verdict(made),
        "draws": made.draws,
        "seed": made.seed,
        "distribution": DISTRIBUTION,
        "probability_cheaper": made.probability_cheaper,
        "own_usd_per_month": _range(made.own_usd),
        "api_usd_per_month": _range(made.api_usd),
        "saving_usd_per_month": _range(made.saving_usd),
        "parts_usd_per_month": {name: _range(part) for name, part in made.parts_usd.items()},
        "own_usd_per_mtok": {basis: _range(found) for basis, found in made.own_usd_per_mtok.items()},
        "api_usd_per_mtok": _range(made.api_usd_per_mtok),
        "replicas": _range(made.replicas),
        "utilization": _range(made.utilization),
        "payback_months": _range(made.payback_months) if made.payback_months else None,
        "break_even": {
            "first_tokens_per_month": made.break_even.first_tokens,
            "always_from_tokens_per_month": made.break_even.always_tokens,
            "cheaper_between": [
                {"replicas": step.replicas, "from_tokens": step.from_tokens, "to_tokens": step.to_tokens}
                for step in made.break_even.steps
            ],
            "reason": made.break_even.reason,
            "over_draws_tokens_per_month": _range(made.break_even_tokens),
            "probability_never": made.probability_never,
        },
        "probability_over_capacity": made.probability_over_capacity,
        "at_medians": {
            "api_usd_per_month": month.api_usd,
            "own_usd_per_month": tables.finite(float(month.own_usd)),
            "parts_usd_per_month": {name: tables.finite(float(value)) for name, value in month.parts_usd.items()},
            "replicas": tables.finite(float(month.replicas)),
            "utilization": float(month.utilization),
            "capacity_tokens_per_month_of_a_replica": {
                "full_load": float(fleet.full_tokens),
                "within_slo": float(fleet.slo_tokens),
                "planned": float(fleet.planned_tokens),
            },
            "own_marginal_usd_per_mtok": float(fleet.marginal_usd_per_token) * 1e6,
        },
        "tornado": [
            {
                "input": swing.name,
                "label": swing.label,
                "unit": swing.unit,
                "low": swing.low,
                "high": swing.high,
                "saving_usd_at_low": tables.finite(swing.at_low),
                "saving_usd_at_high": tables.finite(swing.at_high),
            }
            for swing in made.tornado
        ],
        "warnings": made.warnings,
    }


def tornado(made: Estimate) -> RenderableType:
    """A bar for each input: the month's saving with it at its low and at its high, the widest first."""
    shown = [swing for swing in made.tornado if math.isfinite(swing.width)][:_MOST_SWINGS]
    if not shown:
        return Text("No input has a range, so nothing can be said about what drives the result.")
    centre = made.saving_usd.p50
    ends = [end for swing in shown for end in (swing.at_low, swing.at_high)]
    lowest, highest = min(*ends, centre), max(*ends, centre)
    table = tables.table()
    table.add_column("assumption", overflow="fold")
    table.add_column("low … high", justify="right", overflow="fold")
    for end in ("low", "high"):
        table.add_column(f"saved at {end}", justify="right")
    table.add_column(f"from {_dollars(lowest)} to {_dollars(highest)}", no_wrap=True, min_width=_BAR)
    for swing in shown:
        table.add_row(
            swing.label,
            wording.span_text((swing.low, swing.high), swing.unit),
            _dollars(swing.at_low),
            _dollars(swing.at_high),
            bar(swing, centre, lowest, highest),
        )
    more = len(made.tornado) - len(shown)
    notes = [
        f"The saving is the median of draws of all other assumptions; of all of them it is "
        f"{wording.figure_text(round(centre), 'USD')} (│)."
    ]
    if more > 0:
        notes.append(f"{more} more move it less (--json lists all).")
    return tables.titled(
        "What drives it: the month's saving with one assumption at its low or at its high",
        table,
        " ".join(notes),
        note_style="dim",
    )


def _dollars(value: float) -> str:
    return wording.figure_text(round(value), "USD")


def bar(swing: Swing, centre: float, lowest: float, highest: float) -> str:
    """One input's bar on the scale from `lowest` to `highest`, with a mark at the centre."""
    span = (highest - lowest) or 1.0

    def place(value: float) -> int:
        return round((value - lowest) / span * (_BAR - 1))

    start, end = sorted((place(swing.at_low), place(swing.at_high)))
    cells = ["█" if start <= cell <= end else " " for cell in range(_BAR)]
    cells[place(centre)] = "│"
    return "".join(cells)


def assumptions(made: Estimate) -> RenderableType:
    """Every input with its range, its source and its date."""
    table = tables.table()
    table.add_column("assumption", overflow="fold")
    for column in ("low", "likely", "high"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    table.add_column("date")
    table.add_column("source", overflow="fold", ratio=1)
    for name, quantity in quantities(made.case).items():
        ends = ("", trimmed(quantity.mode, 4), "")
        if not quantity.is_point:
            ends = (trimmed(quantity.low, 4), ends[1], trimmed(quantity.high, 4))
        day = str(quantity.date or "")
        table.add_row(label(made.case, name), *ends, quantity.unit, day, quantity.source or "none given")
    hosting = made.case.hosting
    spare = f", {hosting.spare_replicas} spare" if hosting.spare_replicas else ""
    count = "GPU" if hosting.gpus_per_replica == 1 else "GPUs"
    note = f"{hosting.gpus_per_replica} {count} per replica{spare}, at most {hosting.max_replicas} replicas."
    return tables.titled("Assumptions", table, note, note_style="dim")


def _month(made: Estimate) -> RenderableType:
    table = _over_draws()
    own = f"own hardware ({wording.HOW[made.case.hosting.kind]})"
    rows = [(made.price.name, made.api_usd), (own, made.own_usd)]
    rows += [(f"  of it {name}", part) for name, part in made.parts_usd.items()]
    for name, found in [*rows, ("saved by own hardware", made.saving_usd)]:
        table.add_row(name, *_usd(found.p5, found.p50, found.p95))
    replicas, used = made.replicas, made.utilization
    table.add_row("replicas in use", *(_count(value) for value in (replicas.p5, replicas.p50, replicas.p95)))
    shares = (used.p5, used.p50, used.p95)
    table.add_row("of their full load", *(wording.figure_text(share, "share") for share in shares))
    return tables.titled("A month, in USD", table)


def _per_million(made: Estimate) -> RenderableType:
    table = _over_draws()
    of_own = {f"own hardware, {basis}": found for basis, found in made.own_usd_per_mtok.items()}
    for name, found in {made.price.name: made.api_usd_per_mtok, **of_own}.items():
        table.add_row(name, *_usd(found.p5, found.p50, found.p95))
    note = f"Input and output tokens together. Only “{ACTUAL}” is what the tokens asked for will cost."
    return tables.titled("A million tokens, in USD", table, note, note_style="dim")


def _over_draws() -> Table:
    """An empty table of medians with their band."""
    table = tables.table()
    table.add_column("")
    for column in ("P5", "median", "P95"):
        table.add_column(column, justify="right")
    return table


def _usd(*values: float) -> list[str]:
    return [_money(value) for value in values]


def _money(value: float) -> str:
    if not math.isfinite(value):
        return "cannot"
    size = abs(value)
    text = f"{size:,.0f}" if size >= 100 else f"{size:,.2f}" if size >= 1 else f"{size:.3f}"
    return f"−{text}" if value < 0 else text


def _count(value: float) -> str:
    return "too many" if math.isinf(value) else f"{value:,.0f}"


def _range(found: Range) -> dict[str, float | None]:
    return {name: tables.finite(getattr(found, name)) for name in ("p5", "p50", "p95", "mean")}
