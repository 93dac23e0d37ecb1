"""Scaling thresholds from a measured replica: each with the sentence that says where it comes from. Pure.

A replica that is ordered now helps after `lag_s`: the wait until somebody looks, and its start. Until then those that
run must carry what comes, so each is kept at its capacity divided by the growth within the lag.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.scaling.autoscaler import SYNC_S, TOLERANCE
from deploy.scaling.demand import Day
from deploy.scaling.replica import Replica, growth
from inputs.quantities import seconds, trimmed

SCRAPE_S = 5.0
KV_SHARE = 0.7
CHANCE_SDS = 2.0
DOUBLES_IN_S = 3600.0
WINDOW_LEAST_S = 300.0


@dataclass(frozen=True)
class Scaling:
    """When to have more replicas. `least` and `most` are None where no demand is known; `words` say why each is so."""

    waiting: int
    in_work: float
    rate_rps: float
    kv_share: float
    down_window_s: float
    lag_s: float
    least: int | None
    most: int | None
    words: Mapping[str, str]


def scaling(one: Replica, *, day: Day | None, provision_s: float = 0.0) -> Scaling:
    """The thresholds for a replica, and for a day of demand where one is known."""
    lag_s = SCRAPE_S + SYNC_S + provision_s + one.start_s
    lag = (
        f"{seconds(lag_s)} until a new replica helps: scrape {seconds(SCRAPE_S)}, look {seconds(SYNC_S)}"
        + (f", a node {seconds(provision_s)}" if provision_s else "")
        + f", start {seconds(one.start_s)}"
    )
    if day is None:
        factor = 2 ** (lag_s / DOUBLES_IN_S)
        grows = f"demand is assumed to double within {seconds(DOUBLES_IN_S)} at most: by {_percent(factor)} in the lag"
    else:
        factor, at_s = growth(day, lag_s)
        grows = f"demand grows by {_percent(factor)} at most in the lag (from {at_s / 3600:.2f} h on)"
    # Nothing happens within the tolerance, so the threshold stands that much below. And requests come by chance.
    chance = 1 + CHANCE_SDS / math.sqrt(max(one.capacity_rps * lag_s, 1.0))
    headroom = factor * chance * (1 + TOLERANCE)
    share = (
        f"divided by {trimmed(headroom)} ({grows}; by chance {_percent(chance)} more come in it, two standard "
        f"deviations of {one.capacity_rps * lag_s:.0f}; the autoscaler does nothing within {TOLERANCE:.0%})"
    )
    rate_rps = math.floor(one.capacity_rps / headroom * 100) / 100
    in_work = max(1.0, math.floor(one.in_work(one.capacity_rps / headroom) * 10) / 10)
    # What one replica works off in the tolerated time, less what piles up before help comes.
    queue = one.capacity_rps * one.ttft_limit_s - one.capacity_rps * (factor - 1) * lag_s / 2
    waiting = max(1, math.floor(queue))
    late = " So a queue is a late signal here: it is the requests in work that are in time." if queue < 1 else ""
    words = {
        **one.words,
        "lag": lag + ".",
        "in_work": (
            f"what is in work at {trimmed(rate_rps)} requests/s, by the measured loads "
            f"({trimmed(one.at_capacity)} at capacity)."
        ),
        "rate_rps": f"{trimmed(one.capacity_rps)} requests/s, {share}.",
        "waiting": (
            f"{trimmed(one.capacity_rps)} requests/s × {seconds(one.ttft_limit_s)} tolerated are "
            f"{trimmed(one.capacity_rps * one.ttft_limit_s)} waiting requests; less the "
            f"{trimmed(one.capacity_rps * (factor - 1) * lag_s / 2)} that pile up in the lag; at least 1.{late}"
        ),
        "kv_share": f"{KV_SHARE:.0%} is no measured figure: below the 95 % at which requests lose their place.",
        "down_window": (
            f"the longer of {seconds(WINDOW_LEAST_S)} and four lags, so that nothing is ended that is wanted again "
            "before it could be back."
        ),
    }
    least = most = None
    if day is not None:
        rates = [rate for _, rate in day]
        least = max(1, math.ceil(min(rates) / rate_rps))
        most = max(least, math.ceil(max(rates) / rate_rps)) + 1
        words["least"] = f"the quietest {trimmed(min(rates))} requests/s ÷ {trimmed(rate_rps)}, at least 1."
        words["most"] = f"the peak of {trimmed(max(rates))} requests/s ÷ {trimmed(rate_rps)}, and one to spare."
    window_s = math.ceil(max(WINDOW_LEAST_S, 4 * lag_s) / 60) * 60.0
    return Scaling(waiting, in_work, rate_rps, KV_SHARE, window_s, lag_s, least, most, words)


def _percent(factor: float) -> str:
    return f"{(factor - 1) * 100:.3g} %"
