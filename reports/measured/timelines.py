"""A cell over time: when each request was sent and how long its first token took, and what the server said meanwhile.

Thinned for drawing; everything is in seconds from the cell's zero. Pure: tables in, numbers out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.latencies import column, latencies, ok_only
from bench.run.stats.window import window

Floats = npt.NDArray[np.float64]
POINTS = 160  # of one series
_RUNNING, _WAITING, _KV = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
_HITS, _QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
_PREEMPTIONS = "vllm:num_preemptions_total"


@dataclass(frozen=True)
class Series:
    """Values at instants, in the order of time; empty where the server does not tell."""

    at_s: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.at_s)


@dataclass(frozen=True)
class Timeline:
    """`ttft_s`: at the instant at which each answered request was sent, of `requests` in all. Of the server: requests
    `running` and `waiting`, `kv_usage` (a share of the KV cache), `prefix_hits` (share of the prompt tokens looked up
    since the sample before that the prefix cache had), `preemptions` since the sample before, where there were any.
    `window_s`: what throughput is measured over. `preempted`: in all; None where the server does not tell.
    """

    ttft_s: Series
    requests: int
    running: Series
    waiting: Series
    kv_usage: Series
    prefix_hits: Series
    preemptions: Series
    preempted: int | None
    window_s: tuple[float, float] | None
    until_s: float

    @property
    def of_server(self) -> bool:
        """Whether the server told anything."""
        return any((self.running, self.waiting, self.kv_usage, self.prefix_hits))


def timeline(requests: pa.Table, samples: pa.Table | None, load: dict[str, Any]) -> Timeline | None:
    """A cell's timeline from its requests and the samples beside them; None where no request was sent."""
    ended = column(requests, "ended_s") if len(requests) else np.empty(0)
    if not np.isfinite(ended).any():
        return None
    ok, until_s = ok_only(requests), float(np.nanmax(ended))
    sent, ttft = column(ok, "sent_s"), latencies(ok)["ttft_s"]
    known = ~np.isnan(ttft)
    order = np.argsort(sent[known])
    series = _server_series(samples, until_s)
    preempted_at, preempted = _grown(*series[_PREEMPTIONS])
    hits_at, hits = _grown(*series[_HITS])
    _, queries = _grown(*series[_QUERIES])
    asked = queries > 0 if hits.size == queries.size else np.zeros(hits.size, dtype=bool)
    return Timeline(
        ttft_s=thinned(sent[known][order], ttft[known][order]),
        requests=int(known.sum()),
        running=thinned(*series[_RUNNING]),
        waiting=thinned(*series[_WAITING]),
        kv_usage=thinned(*series[_KV]),
        prefix_hits=thinned(hits_at[asked], hits[asked] / queries[asked] if asked.any() else hits[asked]),
        preemptions=thinned(preempted_at[preempted > 0], preempted[preempted > 0]),
        preempted=int(preempted.sum()) if series[_PREEMPTIONS][0].size > 1 else None,
        window_s=window(requests, load),
        until_s=until_s,
    )


def thinned(at_s: Floats, values: Floats, points: int = POINTS) -> Series:
    """At most `points` of the values: the largest of each of as many equal stretches of time, at its own instant."""
    if at_s.size > points:
        edges = np.linspace(at_s[0], at_s[-1], points + 1)[1:-1]
        starts = np.unique(np.concatenate([[0], np.searchsorted(at_s, edges)]))
        parts = zip(starts, [*starts[1:], at_s.size], strict=True)
        chosen = np.array([start + int(values[start:end].argmax()) for start, end in parts if end > start])
        at_s, values = at_s[chosen], values[chosen]
    return Series(tuple(at_s.tolist()), tuple(values.tolist()))


def _server_series(samples: pa.Table | None, until_s: float) -> dict[str, tuple[Floats, Floats]]:
    """Each series of the server as (instants, values), from the last sample before zero on: several engines' counts
    added up, their shares of the cache as a mean."""
    names = (_RUNNING, _WAITING, _KV, _HITS, _QUERIES, _PREEMPTIONS)
    found = {name: (np.empty(0), np.empty(0)) for name in names}
    if samples is None or not samples.num_rows:
        return found
    of_server = samples.filter(pc.equal(samples["source"], "server"))
    for name in names:
        chosen = of_server.filter(pc.equal(of_server["name"], name))
        how = "mean" if name == _KV else "sum"
        by_time = chosen.group_by("t_s").aggregate([("value", how)]).sort_by("t_s")
        at_s = by_time["t_s"].to_numpy()
        first = max(0, int(np.searchsorted(at_s, 0.0, side="right")) - 1)
        last = int(np.searchsorted(at_s, until_s, side="right")) + 1
        found[name] = (at_s[first:last], by_time[f"value_{how}"].to_numpy()[first:last])
    return found


def _grown(at_s: Floats, counted: Floats) -> tuple[Floats, Floats]:
    """What a counter grew by at each sample since the one before; a counter that was reset counts from nothing."""
    steps = np.diff(counted)
    return at_s[1:], np.where(steps < 0, counted[1:], steps)
