"""Where the time to the first token went: in the client, on the way, in the server's queue, in its prefill.

Means over the answered requests, which add up; the client's parts are of its records, the server's of the sums of its
histograms over exactly the measured requests. A quantile of a sum is no sum of quantiles, so there are none here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bench.run.stats.growth import Total, delta
from bench.run.stats.latencies import answered_whole, column, left_s, ok_only

# In the order of time. `undivided_s` stands for all after `connect_s` where the server tells nothing of it.
PARTS = ("client_s", "connect_s", "network_s", "server_s", "queue_s", "prefill_s", "undivided_s")
# Histograms of other requests than those that were answered: so many more or fewer, as a share, still tell their mean.
OTHERS_SHARE = 0.01
# A rest below −this is more than rounding: as closely is it known when bytes came (the limit of a clock's step).
ROUNDING_S = 0.0001
# Why nothing of the server's is known where it has no page, or none was kept.
NO_PAGE = "there is no /metrics page of the server"

_TTFT = "time_to_first_token_seconds"
_INSIDE = {"queue_s": "request_queue_time_seconds", "prefill_s": "request_prefill_time_seconds"}


@dataclass(frozen=True)
class Mean:
    """The mean of a histogram over what it counted between two pages, in seconds, and how many that were."""

    seconds: float
    count: int


def ttft_parts(requests: pa.Table, before: Total | None, after: Total | None) -> dict[str, Any] | None:
    """The mean time from when a request was due to its first token, taken apart; None where none has a first token.

    `client_s`: due → left the client. `connect_s`: opening a connection (TCP, TLS; a kept one takes none). `network_s`:
    the client's TTFT less the server's: the way there and back, and what neither side explains. `server_s`: the
    server's own TTFT less queue and prefill (taking up, tokenizing, handing on). `queue_s`, `prefill_s`: as it says.
    They add up to `total_s`. What the server does not tell is None, and `unknown` says why: then `undivided_s` is the
    whole TTFT, or `server_s` all of the server's. `below_zero` names the parts that came out negative by more than
    rounding, `note` says where a histogram holds a few requests more or fewer than were answered.
    `before`, `after`: the server's pages, which enclose the measured requests.
    """
    ok = ok_only(requests)
    first = column(ok, "first_token_s")
    has_first = ~np.isnan(first)
    if not has_first.any() or answered_whole(ok):
        return None
    sent, left, due = column(ok, "sent_s"), left_s(ok), column(ok, "scheduled_s")
    n = int(has_first.sum())
    client = float((left - due)[has_first].mean())
    connect = float((sent - left)[has_first].mean())
    answered = float((first - sent)[has_first].mean())
    found: dict[str, Any] = {
        "n": n,
        "total_s": float((first - due)[has_first].mean()),
        **dict.fromkeys((*PARTS, "unknown", "note")),
    }
    found |= {"client_s": client, "connect_s": connect}
    found |= _by_the_server(answered, n, before, after)
    negative = [name for name in PARTS if found[name] is not None and found[name] < -ROUNDING_S]
    return {**found, "below_zero": negative}


def _by_the_server(answered_s: float, n: int, before: Total | None, after: Total | None) -> dict[str, Any]:
    """How the time from sent to first token divides, as far as the server's pages say."""
    whole, why = _mean(_TTFT, n, before, after)
    if whole is None:
        return {"undivided_s": answered_s, "unknown": why}
    network = {"network_s": answered_s - whole.seconds}
    inside: dict[str, float] = {}
    notes = [_counted(_TTFT, whole, n)]
    for name, series in _INSIDE.items():
        part, why = _mean(series, n, before, after)
        if part is None:
            return {**network, "server_s": whole.seconds, "unknown": why}
        inside[name] = part.seconds
        notes.append(_counted(series, part, n))
    rest = whole.seconds - sum(inside.values())
    return {**network, "server_s": rest, **inside, "note": next((note for note in notes if note), None)}


def _mean(series: str, n: int, before: Total | None, after: Total | None) -> tuple[Mean | None, str | None]:
    """The mean of a histogram over the measured requests, or why it is not known."""
    if before is None or after is None:
        return None, NO_PAGE
    total, counted = (delta(before, after, f"vllm:{series}_{end}") for end in ("sum", "count"))
    if total is None or counted is None:
        return None, f"the server's /metrics page has no histogram vllm:{series} that only grew"
    count = round(counted)
    if not count or abs(count - n) > OTHERS_SHARE * n:
        return None, (
            f"the server's histogram vllm:{series} holds {count:,} requests and the client {n:,} answers, so they are "
            "of different requests"
        )
    return Mean(total / count, count), None


def _counted(series: str, found: Mean, n: int) -> str | None:
    if found.count == n:
        return None
    return f"the server's histogram vllm:{series} holds {found.count:,} requests, the client {n:,} answers"
