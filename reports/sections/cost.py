"""The section on cost: what a million tokens cost on the engines of a run, and beside an API. Pure but for prices."""

from datetime import date, datetime

from inputs.quantities import count
from planning import catalogs
from planning.cost import api_prices, wording
from planning.cost.api_prices import ApiPrice
from planning.cost.assembly import Given, assemble
from planning.cost.assumptions import label, quantities
from planning.cost.estimate import Estimate, estimate
from planning.cost.measured import mixes, split
from planning.cost.monthly import ACTUAL, FULL, SLO
from planning.cost.uncertainty import DISTRIBUTION, Range
from planning.errors import BadInput, MissingMeasurement, PlanningError
from reports.measured.cells import Json, Report
from reports.sections.section import Section
from reports.tables import Column, Entry, Table, table

DRAWS = 50_000
_UNNAMED_API = "openai/gpt-4o"  # priced but not shown where the plan names no API


def cost(report: Report) -> Section | None:
    """The section of a run whose plan has a [cost] table; None without one. What stands against it is said in it.

    API prices are those of the day the run was made, so that a report rebuilt later from the same records is the same.
    """
    asked = (report.document.get("plan") or {}).get("cost")
    if not isinstance(asked, dict):
        return None
    try:
        return _section(report, asked)
    except PlanningError as error:
        return Section("cost", "Cost", (str(error),))


def _section(report: Report, asked: Json) -> Section:
    price = api_prices.find(str(asked.get("api") or _UNNAMED_API), on=_day(report))
    run = {**report.document, "cells": [{**c.document, "metrics": c.metrics} for c in report.cells if c.measured]}
    made: dict[str, Estimate] = {}
    missing: list[str] = []
    for engine in report.engines:
        try:
            made[engine] = _estimate(run, engine, asked, price)
        except (MissingMeasurement, BadInput) as error:
            missing.append(f"{engine}: {error}")
    if not made:
        return Section("cost", "Cost", tuple(dict.fromkeys(missing)))
    shown = price if asked.get("api") else None
    tokens = asked.get("tokens_per_month")
    first = next(iter(made.values()))
    paragraphs = [_introduction(first, shown), *missing]
    warnings = dict.fromkeys(warning for one in made.values() for warning in one.warnings)
    paragraphs += [warning for warning in warnings if shown or price.name not in warning]
    if tokens and shown:
        paragraphs = [f"{engine}: {wording.verdict(one)[0]}" for engine, one in made.items()] + paragraphs
    tables = [_per_million(made, shown, bool(tokens))]
    if kinds := _kinds(run, made):
        tables.append(kinds)
    tables.append(_assumptions(first, bool(tokens)))
    return Section("cost", "Cost", tuple(paragraphs), tuple(tables))


def _estimate(run: Json, engine: str, asked: Json, price: ApiPrice) -> Estimate:
    values: dict[str, Given] = {name: _given(value) for name, value in (asked.get("inputs") or {}).items()}
    if asked.get("tokens_per_month"):
        values["tokens_per_month"] = float(asked["tokens_per_month"])
    case = assemble(
        {"api": {"model": price.model, "provider": price.provider}},
        source="the plan's [cost]",
        catalog=catalogs.load(),
        run=run,
        engine=engine,
        hosting=asked.get("hosting") or "rent",
        gpu=asked.get("gpu"),
        gpus=asked.get("gpus_per_replica"),
        values=values,
    )
    return estimate(case, draws=DRAWS, price=price)


def _introduction(made: Estimate, price: ApiPrice | None) -> str:
    how = wording.HOW[made.case.hosting.kind]
    gpu = made.case.hosting.gpu
    what = f" {made.case.hosting.gpus_per_replica} × {gpu} per server" if gpu else ""
    beside = f", beside {price.name} at its prices of {price.on} ({price.package})" if price else ""
    return (
        f"Own hardware by {how}{what}{beside}. Speed is this run's; ranges are the 5th to the 95th percentile of "
        f"{count(made.draws)} draws ({DISTRIBUTION}, seed {made.seed}) over the assumptions below."
    )


def _per_million(made: dict[str, Estimate], price: ApiPrice | None, demand: bool) -> Table:
    columns = [
        Column("Engine", numeric=False),
        Column("at full load", "USD per million tokens"),
        Column("within the SLO", "USD per million tokens"),
        Column("for the demand", "USD per million tokens"),
        Column("by API", "USD per million tokens"),
        Column("Cheaper than the API from"),
        Column("P(cheaper)"),
    ]
    rows: list[list[str | Entry]] = []
    for engine, one in made.items():
        own = one.own_usd_per_mtok
        rows.append(
            [
                engine,
                _usd(own.get(FULL)),
                _usd(own.get(SLO)),
                _usd(own[ACTUAL]) if demand else "",
                _usd(one.api_usd_per_mtok) if price else "",
                _from(one) if price else "",
                _probability(one) if price and demand else "",
            ]
        )
    notes = ["Input and output tokens together, in the run's mix; median and range."]
    if price:
        notes.append(
            "“Cheaper from” is a demand in tokens a month; below it the month, paid whole, costs more than the API."
        )
    return table("cost", "What a million tokens cost", columns, rows, tuple(notes))


def _probability(one: Estimate) -> str:
    if one.probability_cheaper in (0.0, 1.0):
        return "under 0.01 %" if one.probability_cheaper == 0 else "over 99.99 %"
    return wording.probability_text(one.probability_cheaper, one.draws)


def _from(one: Estimate) -> str:
    text = wording.range_text(one.break_even_tokens, "tokens/month")
    return text.replace("unlimited", "never").replace(" tokens/month", "")


def _kinds(run: Json, made: dict[str, Estimate]) -> Table | None:
    """USD per million input and output tokens at full load, for engines measured under different mixes."""
    measured = mixes(run["cells"])
    rows: list[list[str | Entry]] = []
    for engine, one in made.items():
        try:
            found = split([mix for mix in measured if mix.engine == engine])
        except MissingMeasurement:
            continue
        fleet = one.at_medians.fleet
        hours = one.case.inputs["hours_per_month"].median * one.case.inputs["hours_per_day"].median / 24
        ends = found.usd_per_mtok(float(fleet.replica_usd) / hours)
        rows.append(
            [engine, *(wording.figure_text(end, "USD") for end in ends), str(found.mixes), f"{found.misfit:.1%}"]
        )
    if not rows:
        return None
    columns = [
        Column("Engine", numeric=False),
        Column("input", "USD per million tokens, full load"),
        Column("output", "USD per million tokens, full load"),
        Column("Mixes"),
        Column("Largest misfit"),
    ]
    note = "Seconds per input and per output token by least squares over the measured mixes, times the server's cost."
    return table("cost-kinds", "Input and output apart", columns, rows, (note,))


def _assumptions(made: Estimate, demand: bool) -> Table:
    columns = [
        Column("Assumption", numeric=False),
        Column("Value", numeric=False),
        Column("Date", numeric=False),
        Column("Source", numeric=False),
    ]
    # Speed is the run's own and differs by engine.
    skipped = {"output_tok_s", "slo_output_tok_s"} | (set() if demand else {"tokens_per_month"})
    rows: list[list[str | Entry]] = [
        [
            label(made.case, name),
            wording.quantity_text(quantity),
            str(quantity.date or ""),
            quantity.source or "none given",
        ]
        for name, quantity in quantities(made.case).items()
        if name not in skipped
    ]
    return table("cost-assumptions", "Assumptions of the cost", columns, rows)


def _usd(found: Range | None) -> str:
    return wording.range_text(found, "USD") if found is not None else ""


def _given(value: object) -> Given:
    if isinstance(value, list | tuple):
        low, mode, high = (float(end) for end in value)
        return low, mode, high
    return float(str(value))


def _day(report: Report) -> date | None:
    try:
        return datetime.fromisoformat(str(report.document.get("created"))).date()
    except ValueError:
        return None
