"""The content of a report in the order in which it is read; HTML and Markdown lay out the same content."""

from dataclasses import asdict, dataclass

from reports import tables
from reports.definitions import DEFINITIONS
from reports.figures.drawing import Picture
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
from reports.tables import Table

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
        memory=tuple(p for p in drawn if p.name == "memory"),
        sections=(*judged(report), *sections(report)),
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
