"""The newest run in tiles, what is unfinished, and what changed since the run before. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.comparison import Comparison
from bench.compare.printout import percent
from dashboards.library import Entry
from dashboards.tiles import Tile
from inputs.quantities import MISSING, byte_size, number, plural, seconds, share
from planning.cost.assumptions import quantities
from planning.cost.estimate import Estimate
from planning.cost.monthly import FULL
from reports.measured.cells import Cell, Report
from reports.measured.loads import Load
from reports.measured.repeats import CENTRAL_WORD, central, metric_spread
from reports.names import listing, shortened
from reports.statements.ranking import THROUGHPUT
from reports.tables import peak_memory

NAMED = 3  # folders that are named where there are many


@dataclass(frozen=True)
class Best:
    """The engine and load that the tiles are of."""

    engine: str
    load: Load
    cells: tuple[Cell, ...]
    goodput_rps: float | None


def best(report: Report) -> Best | None:
    """Where the run delivered the most: requests within its SLO, or output tokens where it has none."""
    slo = any(cell.value("goodput_rps") is not None for cell in report.measured)
    name = "goodput_rps" if slo else THROUGHPUT
    found = []
    for engine in report.engines:
        for load in report.loads:
            cells = report.repeats(engine, load)
            if (spread := metric_spread(cells, name)) is not None:
                found.append((spread.median, engine, load, tuple(cells)))
    if not found:
        return None
    median, engine, load, cells = max(found, key=lambda one: one[0])
    return Best(engine, load, cells, median if slo else None)


def tiles(report: Report, entry: Entry, priced: Estimate | None, unpriced: str, alerts: int | None) -> list[Tile]:
    """The five figures of a run that an engineer looks for first; what is not known says why."""
    top, query = best(report), {"run": entry.id}
    return [
        _throughput(top, query),
        _ttft(report, top, query),
        _memory(report, top, query),
        _price(priced, unpriced, entry, top),
        _alerts(alerts),
    ]


def _at(top: Best) -> str:
    return f"{shortened(top.engine, 24)} at {top.load.label}"


def _throughput(top: Best | None, query: dict[str, str]) -> Tile:
    link = "Throughput against latency"
    if top is None:
        return Tile("Best throughput", MISSING, "no valid measurement", "benchmarks", link, query)
    rate = metric_spread(top.cells, THROUGHPUT)
    tokens = f"{number(rate.median)} tok/s" if rate else MISSING
    if top.goodput_rps is None:
        return Tile("Best throughput", tokens, f"output tokens, {_at(top)}", "benchmarks", link, query)
    within = f"{number(top.goodput_rps)} requests/s within the SLO, {_at(top)}"
    return Tile("Best throughput at the SLO", tokens, within, "benchmarks", link, query)


def _ttft(report: Report, top: Best | None, query: dict[str, str]) -> Tile:
    link = "Its distribution"
    p95 = metric_spread(top.cells, "ttft_s.p95") if top else None
    if top is not None and p95 is not None:
        return Tile("TTFT, 95th percentile", seconds(p95.median), _at(top), "benchmarks", link, query)
    middle = central(report, "ttft_s")
    found = metric_spread(top.cells, f"ttft_s.{middle}") if top else None
    value = seconds(found.median) if found else MISSING
    remark = "a p95 takes 200 answers" if found else "no valid measurement"
    return Tile(f"TTFT, {CENTRAL_WORD[middle]}", value, remark, "benchmarks", link, query)


def _memory(report: Report, top: Best | None, query: dict[str, str]) -> Tile:
    link = "What takes it"
    used = peak_memory(top.cells) if top else None
    environment = report.document.get("environment") or {}
    gpus = [gpu for gpu in environment.get("gpus") or [] if isinstance(gpu, dict)]
    whole = sum(gpu["memory_bytes"] for gpu in gpus) if gpus and all(g.get("memory_bytes") for g in gpus) else None
    if not gpus:
        whole = environment.get("memory_bytes")
    if used is None:
        return Tile("Memory", MISSING, "a server elsewhere does not tell", "benchmarks", link, query)
    remark = f"of {byte_size(whole)}, {share(used / whole)}" if whole else "of an unknown budget"
    return Tile("Memory at the peak", byte_size(used), remark, "benchmarks", link, query)


def _price(priced: Estimate | None, unpriced: str, entry: Entry, top: Best | None) -> Tile:
    link, query = "With every assumption", {"speed_from": entry.id}
    if top is not None:
        query["engine"] = top.engine
    own = priced.own_usd_per_mtok.get(FULL) if priced else None
    if priced is None or own is None:
        return Tile("Cost per million tokens", MISSING, unpriced or "not known", "cost", link, {})
    hosting = quantities(priced.case).get("rent_usd_per_gpu_hour")
    rent = f", at ${number(hosting.median)} a GPU hour" if hosting else ""
    api = f"at full load{rent}; {priced.price.name} asks ${number(priced.api_usd_per_mtok.p50)}"
    return Tile("Cost per million tokens", f"${number(own.p50)}", api, "cost", link, query)


def _alerts(alerts: int | None) -> Tile:
    if alerts is None:
        return Tile("Alerts firing", MISSING, "no Alertmanager answers", "live", "What the servers do now")
    return Tile(
        "Alerts firing", str(alerts), "right now" if alerts else "nothing burns", "live", "What burns, and where"
    )


def newest_measured(runs: Sequence[Entry]) -> Entry | None:
    """The newest run that measured something: has a valid cell, else any request; None where no run has."""
    return next((run for run in runs if run.measured), next((run for run in runs if run.requests), None))


def left_over(runs: Sequence[Entry], running: Sequence[str], place: str) -> list[str]:
    """What to do with the runs that are at work, unfinished or empty, a line each."""
    at_work = [run for run in runs if run.id in running]
    open_ended = [run for run in runs if not run.finished and run.cells and run.id not in running]
    empty = [run for run in runs if not run.requests and run not in open_ended and run.id not in running]
    lines = []
    if at_work:
        lines.append(f"At work now: {_named(at_work)}.")
    if open_ended:
        first = open_ended[0].id
        lines.append(
            f"{plural(len(open_ended), 'run')} not finished: {_named(open_ended)}. Go on with `nbridge bench --resume "
            f"{place}/{first}`, or delete the folder."
        )
    if empty:
        lines.append(f"{plural(len(empty), 'run')} without a request: {_named(empty)}. Nothing is lost by deleting.")
    return lines


def _named(runs: Sequence[Entry]) -> str:
    return listing([run.id for run in runs], NAMED)


def before(runs: Sequence[Entry], entry: Entry) -> Entry | None:
    """The run before `entry` of the same plan and engines that measured something."""
    older = runs[[run.id for run in runs].index(entry.id) + 1 :] if entry in runs else ()
    return next((o for o in older if o.measured and (o.name, o.engines) == (entry.name, entry.engines)), None)


def changes(found: Comparison, old: Entry, counts: dict[str, int]) -> str:
    """What changed since the run before, in a sentence or two."""
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    text = f"Since {old.id}: of {plural(len(found.lines), 'figure')}, {said}."
    if found.verdict == "insufficient":
        text = f"Since {old.id} nothing is decided: a verdict needs five valid repeats of each side."
    moved = [line for line in found.lines if line.change.ratio_change is not None]
    if moved:
        widest = max(moved, key=lambda line: abs(line.change.ratio_change or 0.0))
        where = f"{widest.figure.label} of {widest.engine} at {widest.load}"
        text += f" The widest difference: {where}, {percent(widest.change.ratio_change or 0.0)}"
        text += "." if widest.change.verdict in ("regression", "improvement") else ", which noise may be."
    return text


def row(entry: Entry, running: bool = False) -> dict[str, Any]:
    """A run in the list of all."""
    state = ", at work" if running else "" if entry.finished else ", not finished"
    return {
        "Run": entry.id,
        "Started": f"{entry.created:%Y-%m-%d %H:%M}" if entry.created else MISSING,
        "Model": ", ".join(entry.models),
        "Engines": ", ".join(entry.engines),
        "Hardware": entry.hardware,
        "Valid cells": f"{entry.measured} of {entry.cells}{state}",
        "Requests": f"{entry.requests:,}",
        "Best output": f"{number(entry.best_tok_s)} tok/s" if entry.best_tok_s is not None else MISSING,
    }
