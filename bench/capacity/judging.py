"""What one point says: from its records and its validity to pass, fail or invalid. Pure.

A point is a cell like others: one load against one engine, every request on record. Its warm-up is cut off
(`bench.capacity.warmup`), and the SLO's figures are those of the requests scheduled afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bench.capacity.steps import Verdict
from bench.capacity.warmup import warm_up
from bench.run.slo import Condition
from bench.run.stats.latencies import column, latencies, ok_only
from bench.run.stats.summary import summarise
from bench.run.validity import ARRIVALS_NOT_SENT

DIED = ("failed", "timeout", "oom")
# An SLO of means has no limit on one request: each answer counts, when it was due where the level is carried.
_ANY = {"e2e_s": math.inf}


@dataclass(frozen=True)
class Judged:
    """A point's verdict with its reason in words, and what it is from.

    `figures`: the SLO's by name, None where there were too few requests; `missed`: those that failed it; `cut_s`: when
    the warm-up was over, in seconds from the cell's zero; `requests`: how many came after it. Medians count from the
    schedule under open loops.
    """

    verdict: Verdict
    why: str
    figures: dict[str, float | None]
    missed: tuple[str, ...]
    cut_s: float
    requests: int
    goodput_rps: float | None
    ttft_p50_s: float | None
    e2e_p50_s: float | None


def judge(
    cell: Mapping[str, Any], requests: pa.Table, conditions: Sequence[Condition], limits: Mapping[str, float]
) -> Judged:
    """The verdict of a measured cell. `limits`: per request, for goodput and the share that missed them."""
    load, open_loop = cell["load"], cell["load"]["kind"] == "open"
    cut_s = steady_from_s(requests, from_schedule=open_loop)
    kept = requests.filter(column(requests, "scheduled_s") >= cut_s) if len(requests) else requests
    metrics = summarise(kept, load, dict(limits) or _ANY, from_s=cut_s)
    figures = {one.name: one.value(metrics, from_schedule=open_loop) for one in conditions}
    sure = {one.name: surely_missed(one, kept, load, limits) for one in conditions}
    missed = [one for one in conditions if sure[one.name] or ((v := figures[one.name]) is not None and not one.met(v))]
    verdict, why = _verdict(cell, conditions, figures, missed)
    return Judged(
        verdict,
        why,
        figures,
        tuple(one.name for one in missed) if verdict == "fail" else (),
        cut_s,
        len(kept),
        goodput_rps=metrics["goodput_rps" if limits or verdict == "pass" else "request_throughput_rps"],
        ttft_p50_s=Condition("ttft", "p50", 1.0).value(metrics, from_schedule=open_loop),
        e2e_p50_s=Condition("e2e", "p50", 1.0).value(metrics, from_schedule=open_loop),
    )


def steady_from_s(requests: pa.Table, *, from_schedule: bool) -> float:
    """When the warm-up of a point was over, in seconds from the cell's zero: by its E2E latencies."""
    ok = ok_only(requests)
    scheduled = column(ok, "scheduled_s")
    order = np.argsort(scheduled, kind="stable")
    e2e_s = latencies(ok)["e2e_from_schedule_s" if from_schedule else "e2e_s"]
    dropped = warm_up(e2e_s[order])
    return float(scheduled[order][dropped]) if dropped else 0.0


def surely_missed(condition: Condition, kept: pa.Table, load: Mapping[str, Any], limits: Mapping[str, float]) -> bool:
    """Whether so many of these requests lie beyond the limit that all others of the load could not mend it."""
    enough = enough_beyond(condition, load["requests"])
    if enough is None or len(kept) < enough:
        return False
    return condition.beyond(kept, limits, from_schedule=load["kind"] == "open") >= enough


def enough_beyond(condition: Condition, planned: int) -> int | None:
    """How many requests beyond the limit make a miss of `planned` ones certain; None where a count does not decide.

    A percentile is interpolated between two values, hence one more than the share that may lie beyond and the next.
    """
    share = condition.share_beyond
    return None if share is None else math.floor(round(share * planned, 9)) + 2


def _verdict(
    cell: Mapping[str, Any],
    conditions: Sequence[Condition],
    figures: Mapping[str, float | None],
    missed: Sequence[Condition],
) -> tuple[Verdict, str]:
    if cell["outcome"] in DIED and not cell.get("ended_early"):
        return "died", str(cell["reason"])
    wrong = [check for check in (cell.get("validity") or {}).get("checks", []) if check["ok"] is False]
    # Arrivals that were not sent spare the server: what it missed without them it would have missed with them.
    untrue = [check for check in wrong if check["name"] != ARRIVALS_NOT_SENT or not missed]
    if untrue:
        return "invalid", " ".join(str(check["detail"]) for check in untrue)
    if missed:
        return "fail", "; ".join(_said(one, figures[one.name]) for one in missed)
    if unknown := [one.name for one in conditions if figures[one.name] is None]:
        return "invalid", f"Not known: {', '.join(unknown)}; too few requests, or the server does not count tokens."
    return "pass", "; ".join(_said(one, figures[one.name]) for one in conditions)


def _said(condition: Condition, value: float | None) -> str:
    if value is None:
        return f"{condition.name} beyond {condition.shown(condition.limit)} in too many requests already"
    return f"{condition.name} is {condition.shown(value)}"
