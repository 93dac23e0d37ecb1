"""Metrics, reconciliation, validity and outcome of a cell from what was recorded."""

from typing import Any

import pyarrow as pa

from bench.plans.loads import Load
from bench.run.reconcile import reconcile, reconcile_states
from bench.run.stats.beside import beside_load
from bench.run.stats.growth import totals
from bench.run.stats.summary import summarise
from bench.run.validity import dispatch_lateness, validity


def judge(
    cell: dict[str, Any],
    table: pa.Table,
    load: Load,
    phase: dict[str, Any],
    samples: pa.Table | None,
    slo: dict[str, float] | None,
    tokenizer: str | None,
) -> None:
    """Fill in metrics, reconciliation, validity and outcome from what was recorded."""
    described = load.model_dump(mode="json")
    summary = summarise(table, described, slo)
    summary["tokens_by"] = f"client ({tokenizer})" if tokenizer else "server"
    compare = reconcile_states if load.scenario == "hidden_states" else reconcile
    pages = totals(phase.get("metrics_before")), totals(phase.get("metrics_after"))
    agreement = compare(table, *pages)
    summary |= beside_load(table, described, summary, pages, samples)
    if tokenizer:
        agreement["exact"] = None
        agreement["notes"].append(f"Output tokens were counted here, by the tokenizer {tokenizer}, not by the server.")
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
    """What the load generator says of itself: its share of a core, how late it sent, how long it stood still,
    what became of its clock meanwhile, and what the host of its virtual machine took of the processors."""
    duration_s = (phase.get("ended") or 0) - (phase.get("zero") or 0)
    cpu_s, paused_s = phase.get("client_cpu_s"), phase.get("paused_s")
    return {
        "cpu_share": cpu_s / duration_s / max(phase.get("workers", 1), 1)
        if cpu_s is not None and duration_s > 0
        else None,
        "dispatch_lateness_p99_s": dispatch_lateness(table),
        **{name: phase.get(name) for name in ("longest_pause_s", "clock_step_s", "clock_slew", "stolen_share")},
        "paused_share": paused_s / duration_s if paused_s is not None and duration_s > 0 else None,
        "machines": phase.get("machines"),
    }


def _why_none(table: pa.Table) -> str:
    errors = [str(error) for error in table["error"].to_pylist() if error]
    if not len(table):
        return "No request was recorded."
    common = max(set(errors), key=errors.count) if errors else "no reason was recorded"
    return f"None of {len(table)} requests was answered. Most often: {common}"
