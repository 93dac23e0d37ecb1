"""One run: throughput against latency, distributions, memory, quality, every cell. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from inputs.quantities import number, seconds, share
from reports.figures.captions import not_drawn, pareto_caption, pareto_words
from reports.figures.memory_bars import Stack
from reports.figures.pareto import Point, efficient, points
from reports.measured.cells import Cell, Report
from reports.measured.curves import Curve, steps
from reports.measured.loads import Load
from reports.measured.repeats import CENTRAL_WORD, central, measured_pairs, metric_spread
from reports.names import listing, shortened
from reports.statements.quality import NOT_APPLIED, baseline, delta, scored, standing
from reports.statements.ranking import THROUGHPUT, slo_words

Rows = list[dict[str, Any]]
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E latency"}
DISTRIBUTIONS = {"ttft_s": "TTFT", "itl_s": "ITL", "tpot_s": "TPOT", "e2e_s": "E2E latency"}
LONG_NAMES = {
    "ttft_s": "time to first token (TTFT)",
    "itl_s": "inter-token latency (ITL)",
    "tpot_s": "time per output token (TPOT)",
    "e2e_s": "whole answer, end to end (E2E)",
}
AUTOMATIC_VALUES = 3_000_000  # token gaps that are read without being asked for: about a second's work
GOODPUT = "goodput_rps"
JOULES = "energy.joules_per_output_token"


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


def upwards(report: Report) -> dict[str, str]:
    """What throughput against latency can show upwards: tokens, and goodput where any cell has one."""
    known = {THROUGHPUT: "Output tokens/s"}
    if any(cell.value(GOODPUT) is not None for cell in report.measured):
        known[GOODPUT] = "Goodput, requests/s"
    return known


def pareto(report: Report, metric: str, statistic: str | None = None, up: str = THROUGHPUT) -> Drawing | None:
    """Throughput, or goodput, against a latency: a row per engine and load with a valid measurement; None without."""
    words = statistics(report, metric)
    statistic = statistic if statistic in words else next(iter(words))
    found = points(report, f"{metric}.{statistic}")
    if up == GOODPUT:
        rates = [metric_spread(report.repeats(point.engine, point.load), GOODPUT) for point in found]
        found = [replace(p, tok_s=rate.median) for p, rate in zip(found, rates, strict=True) if rate is not None]
    if not found:
        return None
    label, word = LATENCIES[metric], words[statistic]
    what = "Goodput" if up == GOODPUT else "Output throughput"
    title = f"{what} against {word} {label}"
    caption = pareto_caption(report, found, title, label, slo_limit(report, metric))
    said = pareto_words(found, word, label)
    if up == GOODPUT:
        slo = next(cell.metrics["slo"] for cell in report.measured if cell.metrics and cell.value(GOODPUT) is not None)
        caption += f" Goodput: requests per second that met the whole SLO ({slo_words(slo)})."
        said = said.replace("Output tokens per second", "Goodput").replace(" tokens/s at", " requests/s at")
    best = efficient(found)
    rows = [_point_row(report, point, best=point in best) for point in found]
    name = f"{'goodput' if up == GOODPUT else 'throughput'}-{metric[:-2]}"
    return Drawing(name, title, caption, said, rows)


def _point_row(report: Report, point: Point, *, best: bool) -> dict[str, Any]:
    cells = report.repeats(point.engine, point.load)
    spreads = {name: metric_spread(cells, name) for name in (THROUGHPUT, GOODPUT, "slo_share")}
    known = {name: None if spread is None else spread.median for name, spread in spreads.items()}
    return {
        "engine": point.engine,
        "load": point.load.label,
        "at": point.load.short,
        "line": f"{point.load.kind} {point.load.scenario}",
        "latency_s": point.latency_s,
        "output_tok_s": known[THROUGHPUT],
        **({} if known[GOODPUT] is None else {"goodput_rps": known[GOODPUT], "slo_share": known["slo_share"]}),
        "repeats": len(point.repeats),
        "best_trade_off": best,
        "up": point.tok_s,
    }


def bound_rows(drawing: Drawing, bounds: Mapping[tuple[str, str], float]) -> Rows:
    """The roofline beside the points of a drawing: of each engine and load the most that its GPU could deliver."""
    return [
        {**{name: row[name] for name in ("engine", "load", "line", "latency_s")}, "bound_tok_s": bound}
        for row in drawing.rows
        if (bound := bounds.get((row["engine"], row["load"]))) is not None
    ]


def bound_words(rows: Rows, drawing: Drawing) -> str:
    """How near the points come to the roofline."""
    reached = {(row["engine"], row["load"]): row["output_tok_s"] for row in drawing.rows}
    nearest = max(rows, key=lambda row: (reached[row["engine"], row["load"]] or 0.0) / row["bound_tok_s"])
    share_of = (reached[nearest["engine"], nearest["load"]] or 0.0) / nearest["bound_tok_s"]
    return (
        f" Dashed: the roofline, the most output tokens/s that the GPU's bandwidth and compute allow with that many "
        f"requests in flight. Nearest to it: {nearest['engine']} at {nearest['load']}, {share(share_of)}."
    )


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


def quality(report: Report) -> Drawing | None:
    """ΔNLL against the best throughput, a point per engine, the baseline at 0; None when none was held against it."""
    rows: Rows = []
    base = (report.document.get("quality") or {}).get("baseline")
    for entry in scored(report):
        cells = report.of_engine(entry["engine"])
        rates = [rate for cell in cells if cell.measured and (rate := cell.value(THROUGHPUT)) is not None]
        if rates and (entry.get("against") or entry["engine"] == base):
            rows.append(_quality_row(entry, max(rates)))
    if not any(row["delta_nll_low"] is not None for row in rows):
        return None
    said = {entry["engine"]: delta(entry) for entry in scored(report) if entry.get("against")}
    words = "; ".join(
        f"{row['engine']}: ΔNLL {said.get(row['engine'], '0, the baseline')} at {number(row['output_tok_s'])} tokens/s"
        for row in rows
    )
    caption = (
        f"To the right: the best output throughput of each engine. Downwards is better: ΔNLL, the nats a token by "
        f"which it predicts held-out text worse than {baseline(report)}, with its 95 % interval."
    )
    if idle := [row["engine"] for row in rows if row["says"] == NOT_APPLIED]:
        caption += f" Not applied, because predictions did not change: {listing(idle)}."
    return Drawing("quality", "Quality against throughput", caption, f"{words}.", rows)


def _quality_row(entry: dict[str, Any], tok_s: float) -> dict[str, Any]:
    against = entry.get("against") or {}
    low, high = against.get("delta_nll_95") or (None, None)
    return {
        "engine": entry["engine"],
        "delta_nll": against.get("delta_nll", 0.0),
        "delta_nll_low": low,
        "delta_nll_high": high,
        "output_tok_s": tok_s,
        "says": standing(entry) or "baseline",
    }


def energy(report: Report) -> Drawing | None:
    """Joules of the GPUs per output token, a row per engine and load; None where no cell has them."""
    rows: Rows = []
    for engine, load in measured_pairs(report):
        found = metric_spread(report.repeats(engine, load), JOULES)
        if found is not None:
            known = {"engine": engine, "load": load.label, "at": load.short, "kind": load.kind, "level": load.level}
            rows.append({**known, "joules_per_output_token": found.median, "repeats": found.n})
    if not rows:
        return None
    words = "; ".join(
        f"{row['engine']} at {row['load']}: {number(row['joules_per_output_token'])} J per output token" for row in rows
    )
    caption = (
        "Energy that the GPUs drew over the window, idle power included, for each output token of it, in joules. More "
        "requests at once share what a step costs."
    )
    return Drawing("energy", "Energy per output token", caption, f"{words}.", rows)


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
    ("gpu_mean_power_w", "energy.mean_power_w"),
    ("joules_per_output_token", JOULES),
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
