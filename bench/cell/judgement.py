"""Metrics, reconciliation, validity and outcome of a cell from what was recorded."""

from typing import Any

import pyarrow as pa

from bench.plans.loads import Load
from bench.run.reconcile import Total, reconcile, reconcile_states
from bench.run.stats.summary import summarise
from bench.run.validity import dispatch_lateness, validity
from monitoring.sampler import Reading
from monitoring.scrape import metrics as metrics_page


def judge(
    cell: dict[str, Any],
    table: pa.Table,
    load: Load,
    phase: dict[str, Any],
    readings: list[Reading],
    slo: dict[str, float] | None,
    tokenizer: str | None,
) -> None:
    """Fill in metrics, reconciliation, validity and outcome from what was recorded."""
    described = load.model_dump(mode="json")
    summary = summarise(table, described, slo)
    summary["tokens_by"] = f"client ({tokenizer})" if tokenizer else "server"
    compare = reconcile_states if load.scenario == "hidden_states" else reconcile
    agreement = compare(table, _totals(phase.get("metrics_before")), _totals(phase.get("metrics_after")))
    if tokenizer:
        agreement["exact"] = None
        agreement["notes"].append(f"Output tokens were counted here, by the tokenizer {tokenizer}, not by the server.")
    summary["memory"] = {
        "server_peak_bytes": _peak(readings, "process", "memory_bytes"),
        "gpu_used_peak_bytes": _peak(readings, "gpu", "memory_used_bytes"),
    }
    summary["client"] = _client(table, phase)
    verdict = validity(table, described, summary, agreement, errors_count=not cell.get("point"))
    cell.update(metrics=summary, reconciliation=agreement, validity=verdict)
    if summary["requests"]["ok"] == 0:
        cell["outcome"], cell["reason"] = "failed", _why_none(table)
    elif verdict["valid"]:
        cell["outcome"], cell["reason"] = "ok", None
    else:
        cell["outcome"], cell["reason"] = "invalid", " ".join(verdict["reasons"])


def _client(table: pa.Table, phase: dict[str, Any]) -> dict[str, Any]:
    """What the load generator says of itself: its share of a core, how late it sent, how long it stood still, and
    what became of its clock meanwhile."""
    duration_s = (phase.get("ended") or 0) - (phase.get("zero") or 0)
    cpu_s, paused_s = phase.get("client_cpu_s"), phase.get("paused_s")
    return {
        "cpu_share": cpu_s / duration_s / max(phase.get("workers", 1), 1)
        if cpu_s is not None and duration_s > 0
        else None,
        "dispatch_lateness_p99_s": dispatch_lateness(table),
        **{name: phase.get(name) for name in ("longest_pause_s", "clock_step_s", "clock_slew")},
        "paused_share": paused_s / duration_s if paused_s is not None and duration_s > 0 else None,
        "machines": phase.get("machines"),
    }


def _peak(readings: list[Reading], source: str, name: str) -> int | None:
    """The highest value of a series, added up over its labels at each instant; None if it was never read."""
    sums: dict[float, float] = {}
    for reading in readings:
        if reading.source == source and reading.name == name:
            sums[reading.at_s] = sums.get(reading.at_s, 0.0) + reading.value
    return round(max(sums.values())) if sums else None


def _why_none(table: pa.Table) -> str:
    errors = [str(error) for error in table["error"].to_pylist() if error]
    if not len(table):
        return "No request was recorded."
    common = max(set(errors), key=errors.count) if errors else "no reason was recorded"
    return f"None of {len(table)} requests was answered. Most often: {common}"


def _totals(page: str | None) -> Total | None:
    if not page:
        return None
    try:
        samples = metrics_page.parse(page)
    except metrics_page.MetricsError:
        return None
    return lambda name, **labels: metrics_page.total(samples, name, **labels)
