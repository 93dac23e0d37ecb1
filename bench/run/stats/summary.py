"""The `metrics` of a cell from its rows, all of them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.conversations import arrivals as arrivals_of
from bench.run.delivery import delivery
from bench.run.stats.distributions import distribution
from bench.run.stats.gaps import token_gaps
from bench.run.stats.latencies import column, latencies, left_s, ok_only, uncounted
from bench.run.stats.losses import causes, noted
from bench.run.stats.reads import reads
from bench.run.stats.turns import by_turn
from bench.run.stats.window import slo_share, window_rates


def _total(ok: pa.Table, name: str) -> int | None:
    """The sum of a count; None when some answer has none: a part is no total."""
    return None if ok[name].null_count else pc.sum(ok[name]).as_py()


def _ended_by_model(ok: pa.Table) -> int | None:
    """How many answers the model ended before the tokens asked for; None where no finish_reason is recorded."""
    if "finish_reason" not in ok.column_names or ok["finish_reason"].null_count == len(ok):
        return None
    return int(pc.sum(pc.not_equal(ok["finish_reason"], "length")).as_py() or 0)


def _delivery(requests: pa.Table, load: dict[str, Any]) -> dict[str, Any] | None:
    """How an open load's arrivals were delivered (bench.run.delivery), and how late requests left the client."""
    if load["kind"] != "open":
        return None
    late = left_s(requests) - column(requests, "scheduled_s")
    came = arrivals_of(requests)
    found = delivery(column(came, "scheduled_s"), left_s(came), load)
    return {**found, "lateness_s": distribution(late[~np.isnan(late)])}


def summarise(
    requests: pa.Table, load: dict[str, Any], slo: dict[str, float] | None = None, *, from_s: float = 0.0
) -> dict[str, Any]:
    """The `metrics` of a cell from its measured rows: counts, rates over the window, and latency distributions.

    `from_s`: the rows are those scheduled since then (without a warm-up), and so the window begins there.
    """
    ok = ok_only(requests)
    outcomes = {item["values"]: item["counts"] for item in pc.value_counts(requests["outcome"]).to_pylist()}
    dropped, aborted = outcomes.get("dropped", 0), outcomes.get("aborted", 0)
    values = latencies(ok)
    gaps, itl = token_gaps(requests)
    absent_why: dict[str, str] = {}
    summary: dict[str, Any] = {
        "requests": {
            "total": len(requests),
            "ok": len(ok),
            "failed": len(requests) - len(ok) - dropped - aborted,
            "dropped": dropped,
            "aborted": aborted,
            "by_outcome": outcomes,
        },
        **window_rates(requests, ok, load, slo, absent_why, from_s),
        "slo": slo,
        "slo_share": slo_share(requests, ok, load, slo),
        "prompt_tokens": _total(ok, "prompt_tokens"),
        "output_tokens": _total(ok, "output_tokens"),
        "cached_tokens": _total(ok, "cached_tokens"),
        "uncounted": uncounted(ok),
        "ended_by_model": _ended_by_model(ok),
        "causes": causes(requests),
        "notes": noted(requests),
        "turns": by_turn(requests),
        "delivery": _delivery(requests, load),
        "reads": reads(requests),
        "absent": absent_why,
    }
    for name, seconds in values.items():
        summary[name] = distribution(seconds[~np.isnan(seconds)])
    if load["kind"] == "closed":  # no schedule to be late against: a user sends when it is free
        summary.update(ttft_from_schedule_s=None, e2e_from_schedule_s=None)
    summary["chunk_gap_s"] = distribution(gaps)
    summary["itl_s"] = summary["chunk_gap_s"] if itl is gaps else None if itl is None else distribution(itl)
    if itl is None and gaps.size:
        absent_why["itl_s"] = "the server does not say how many tokens each chunk carries"
    if summary["tpot_s"] is None and summary["uncounted"]:
        absent_why["tpot_s"] = "the server gave no token counts"
    return summary
