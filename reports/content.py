"""The content of a report in the order in which it is read; HTML and Markdown lay out the same content."""

from dataclasses import asdict, dataclass

from inputs.quantities import seconds
from reports import tables
from reports.contest import contest
from reports.definitions import DEFINITIONS
from reports.figures.drawing import Picture
from reports.figures.first_token import MOST_BARS, PARTS, Bar, bars, first_token
from reports.figures.over_time import most_loaded, over_time
from reports.figures.pictures import pictures
from reports.measured.cells import Cell, Json, Report
from reports.measured.searches import searches
from reports.sections import setting, trust
from reports.sections.capacity import capacity
from reports.sections.delivery import delivery
from reports.sections.lost import lost
from reports.sections.planned import sections
from reports.sections.problems import Problem, problems
from reports.sections.quality import judged
from reports.sections.section import Section
from reports.sections.turns import turns
from reports.statements.headline import headline
from reports.statements.verdict import unfinished, verdict
from reports.tables import Column, Entry, Table, table

NOTHING_TO_DRAW = "No cell gave a valid measurement of output tokens, so there is nothing to draw."


@dataclass(frozen=True)
class Content:
    """Everything that a report shows, as text, tables and SVG.

    `verdict` is at most three sentences, `statements` all that is established.
    `loads`: loads of the plan were measured. A search for the capacity by itself has nothing else to show.
    """

    title: str
    subtitle: str
    run_id: str
    verdict: str
    statements: tuple[str, ...]
    loads: bool
    capacity: Section | None
    key_figures: Table
    repeats: Table | None
    performance: tuple[Picture, ...]
    distributions: tuple[Picture, ...]
    over_time: tuple[Section, ...]
    memory: tuple[Picture, ...]
    sections: tuple[Section, ...]
    cells: tuple[Table, ...]
    trust: tuple[Table, ...]
    problems: tuple[Problem, ...]
    setting: tuple[Table, ...]
    environment: tuple[tuple[str, str], ...]
    definitions: tuple[tuple[str, str], ...]
    reproduce: tuple[str, ...]
    numbers: Json


def content(report: Report) -> Content:
    """Put a report's numbers into words, tables and figures."""
    run_id = str(report.document.get("run_id") or report.folder)
    plan = report.document.get("plan") or {}
    name = plan.get("name") if isinstance(plan, dict) else None
    drawn = pictures(report)
    created = str(report.document.get("created") or "at an unknown time")
    subtitle = f"Run {run_id}, started {created}"
    if unfinished(report):
        subtitle += ", not finished"
    return Content(
        title=f"Benchmark report: {name}" if name else "Benchmark report",
        subtitle=subtitle,
        run_id=run_id,
        verdict=" ".join(headline(report)),
        statements=tuple(verdict(report)),
        loads=bool(report.cells) or not report.points,
        capacity=capacity(report),
        key_figures=tables.key_figures(report),
        repeats=tables.repeats(report),
        performance=tuple(p for p in drawn if p.name.startswith("throughput")),
        distributions=tuple(p for p in drawn if p.name.startswith("distribution")),
        over_time=_over_time(report),
        memory=tuple(p for p in drawn if p.name == "memory"),
        sections=(*contest(report), *judged(report), *sections(report)),
        cells=tuple(t for t in (_throughput(report), _latencies(report), turns(report), lost(report)) if t is not None),
        trust=tuple(
            t
            for t in (
                trust.changed(report),
                trust.checks(report),
                delivery(report),
                trust.arrivals(report),
                trust.reconciliation(report),
            )
            if t is not None
        ),
        problems=tuple(problems(report)),
        setting=_setting(report),
        environment=tuple(setting.environment(report)),
        definitions=DEFINITIONS,
        reproduce=tuple(setting.reproduce(report)),
        numbers=numbers(report),
    )


def _setting(report: Report) -> tuple[Table, ...]:
    if not report.cells:
        return (setting.engines(report),) if report.points else ()
    return setting.engines(report), setting.loads(report)


def _throughput(report: Report) -> Table | None:
    return tables.throughput(report) if report.cells or not report.points else None


def _latencies(report: Report) -> Table | None:
    return tables.latencies(report) if any(cell.shown for cell in report.cells) else None


def _over_time(report: Report) -> tuple[Section, ...]:
    """Where the time to the first token goes, and the most loaded cells over time; what is not known has no part."""
    found: list[Section] = []
    picture, said = first_token(report)
    if picture is not None or said:
        left_out = bars(report)[:-MOST_BARS] if picture is not None else ()
        apart = (_undrawn(left_out),) if left_out else ()
        drawn = () if picture is None else (picture,)
        found.append(Section("first-tokens", "Where the time to the first token goes", said, apart, drawn))
    lines = tuple(over_time(cell, cell.over_time) for cell in most_loaded(report) if cell.over_time is not None)
    if lines:
        engines = len({cell.engine for cell in report.cells if cell.over_time is not None})
        more = (f"Of {engines} engines the first {len(lines)} are drawn.",) if engines > len(lines) else ()
        why = ("Of each engine the cell with the most requests in flight.", *more)
        found.append(Section("over-time", "The most loaded cells over time", why, pictures=lines))
    return tuple(found)


def _undrawn(left_out: list[Bar]) -> Table:
    columns = [Column("Engine", numeric=False), Column("Load", numeric=False), *(Column(name) for *_, name in PARTS)]
    rows: list[list[str | Entry]] = [
        [bar.engine, bar.load.label, *(seconds(bar.parts[part]) if part in bar.parts else "" for part, *_ in PARTS)]
        for bar in left_out
    ]
    return table("ttft-parts", "Mean time to the first token in parts, of what is not drawn", columns, rows)


def _judged(cell: Cell) -> Json:
    return {} if cell.judged is None else asdict(cell.judged)


def numbers(report: Report) -> Json:
    """The numbers of the report for programs: one entry per cell with its recomputed metrics."""
    return {
        "format": 1,
        "run_id": report.document.get("run_id") or report.folder,
        "verdict": headline(report),
        "statements": verdict(report),
        "cells": [
            {
                "id": cell.id,
                "engine": cell.engine,
                "load": cell.document["load"],
                "repeat": cell.repeat,
                "outcome": cell.outcome,
                "reason": cell.reason,
                "valid": cell.valid,
                "compared": cell.measured,
                "records": cell.records,
                "metrics": cell.metrics,
                "point": cell.document.get("point") and {"level": cell.document["point"]["level"], **_judged(cell)},
                "differs_from_stored": [difference.name for difference in cell.differences],
            }
            for cell in report.every
        ],
        "quality": list(report.quality),
        "capacity": [search.answer for search in searches(report)],
    }
