"""One run: throughput against latency, distributions, memory, quality, every cell. Pure."""

from dataclasses import dataclass
from typing import Any

from inputs.quantities import seconds
from reports.figures.captions import not_drawn, pareto_caption, pareto_words
from reports.figures.memory_bars import Stack
from reports.figures.pareto import Point, efficient, points
from reports.measured.cells import Cell, Report
from reports.measured.curves import Curve, steps
from reports.measured.loads import Load
from reports.measured.repeats import CENTRAL_WORD, central
from reports.names import shortened
from reports.statements.ranking import THROUGHPUT

Rows = list[dict[str, Any]]
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E latency"}
DISTRIBUTIONS = {"ttft_s": "TTFT", "itl_s": "ITL", "tpot_s": "TPOT", "e2e_s": "E2E latency"}
LONG_NAMES = {
    "ttft_s": "time to first token (TTFT)",
    "itl_s": "time between tokens (ITL)",
    "tpot_s": "time per output token (TPOT)",
    "e2e_s": "whole answer, end to end (E2E)",
}
AUTOMATIC_VALUES = 3_000_000  # token gaps that are read without being asked for: about a second's work
QUALITY = "delta_nll"


@dataclass(frozen=True)
class Drawing:
    """The content of one figure: rows for the chart and the CSV, and what it shows in words."""

    name: str
    title: str
    caption: str
    words: str
    rows: Rows


def slo_limit(report: Report, metric: str) -> float | None:
    """The SLO's limit on `metric` in seconds; None when the run has none."""
    limits = (((cell.metrics or {}).get("slo") or {}).get(metric) for cell in report.measured)
    return next((float(limit) for limit in limits if limit is not None), None)


def statistics(report: Report, metric: str) -> dict[str, str]:
    """What a latency can be drawn by: its median (mean where there is none), and p95 where any cell has one."""
    known = {central(report, metric): CENTRAL_WORD[central(report, metric)]}
    if any(cell.value(f"{metric}.p95") is not None for cell in report.measured):
        known["p95"] = "95th percentile"
    return known


def pareto(report: Report, metric: str, statistic: str | None = None) -> Drawing | None:
    """Output throughput against a latency: one row per engine and load with a valid measurement; None without any."""
    words = statistics(report, metric)
    statistic = statistic if statistic in words else next(iter(words))
    found = points(report, f"{metric}.{statistic}")
    if not found:
        return None
    label, word = LATENCIES[metric], words[statistic]
    title = f"Output throughput against {word} {label}"
    caption = pareto_caption(report, found, title, label, slo_limit(report, metric))
    best = efficient(found)
    rows = [_point_row(point, best=point in best) for point in found]
    return Drawing(f"throughput-{metric[:-2]}", title, caption, pareto_words(found, word, label), rows)


def _point_row(point: Point, *, best: bool) -> dict[str, Any]:
    return {
        "engine": point.engine,
        "load": point.load.label,
        "at": point.load.short,
        "line": f"{point.load.kind} {point.load.scenario}",
        "latency_s": point.latency_s,
        "output_tok_s": point.tok_s,
        "repeats": len(point.repeats),
        "best_trade_off": best,
    }


def curve_rows(cells: list[tuple[Cell, Curve | None]]) -> Rows:
    """Stair-step points of every cell's ECDF: value in seconds and share of values not above it."""
    return [
        {"engine": cell.engine, "repeat": cell.repeat, "value_s": x, "share": y}
        for cell, curve in cells
        if curve is not None
        for x, y in zip(*steps(curve), strict=True)
    ]


def distribution(report: Report, load: Load, metric: str, cells: list[tuple[Cell, Curve | None]]) -> Drawing | None:
    """The ECDF of a latency under one load, a line per engine and repeat; None when no cell has records."""
    rows = curve_rows(cells)
    if not rows:
        return None
    label = DISTRIBUTIONS[metric]
    said = [
        f"{shortened(cell.engine, 40)}{f', repeat {cell.repeat}' if cell.repeat > 1 else ''}: half within "
        f"{seconds(curve.quantile(0.5))}, all {curve.count:,} within {seconds(curve.values_s[-1])}"
        for cell, curve in cells
        if curve is not None
    ]
    what = "tokens" if metric == "itl_s" else "requests"
    caption = (
        f"How large a share of {what} (upwards) had at most that {label} (to the right), at {load.label}. A line "
        f"further left is faster, a steeper one steadier. From the recorded requests, not from buckets."
    )
    return Drawing(
        f"distribution-{metric[:-2]}",
        f"Distribution of {label} at {load.label}",
        caption + not_drawn(report),
        f"Share of values of {label} not above a time, {load.label}. {'; '.join(said)}.",
        rows,
    )


def gaps_expected(cells: list[Cell]) -> int:
    """About how many token gaps the cells hold: what an ITL distribution has to read."""
    return sum(max(0, int(cell.value("output_tokens") or 0) - (cell.records or 0)) for cell in cells)


def memory_rows(found: list[Stack]) -> Rows:
    """One row per engine and part of its memory, in bytes, in the order in which the parts are stacked."""
    parts = ("weights", "KV cache", "rest of the peak")
    return [
        {"engine": stack.engine, "part": part, "order": index, "bytes": size, "peak_bytes": stack.peak_bytes}
        for stack in found
        for index, (part, size) in enumerate(zip(parts, stack.parts, strict=True))
        if size is not None
    ]


def quality(report: Report) -> tuple[str, Rows] | None:
    """(name of the quality measure, rows of quality against the best throughput per engine); None when not measured."""
    rows = []
    for entry in report.quality:
        cells = report.of_engine(entry["engine"])
        rates = [rate for cell in cells if cell.measured and (rate := cell.value(THROUGHPUT)) is not None]
        if entry.get("against") and rates:
            rows.append({"engine": entry["engine"], "quality": entry["against"][QUALITY], "output_tok_s": max(rates)})
    return (QUALITY, rows) if rows else None


CELL_COLUMNS = (
    ("window_s", "window_s"),
    ("requests_ok", "requests.ok"),
    ("requests_total", "requests.total"),
    ("output_tok_s", "output_throughput_tok_s"),
    ("requests_per_s", "request_throughput_rps"),
    ("goodput_per_s", "goodput_rps"),
    ("mean_in_flight", "mean_in_flight"),
    *((f"{name}_{p}", f"{name}.{p}") for name in ("ttft_s", "itl_s", "tpot_s", "e2e_s") for p in ("p50", "p95", "p99")),
    ("server_peak_bytes", "memory.server_peak_bytes"),
    ("gpu_used_peak_bytes", "memory.gpu_used_peak_bytes"),
)


def cell_rows(report: Report) -> Rows:
    """Every cell with its numbers in base units, for a CSV file; what is not known is None."""
    return [
        {
            "cell": cell.id,
            "engine": cell.engine,
            "load": cell.load.label,
            "repeat": cell.repeat,
            "outcome": cell.outcome,
            "valid": cell.valid,
            **{column: cell.value(name) if cell.shown else None for column, name in CELL_COLUMNS},
        }
        for cell in report.cells
    ]
