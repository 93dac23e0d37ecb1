"""What an observation of a server says in figures: requests, latency, engine, GPUs. Pure; what is not known is absent.

Percentiles come from the durations of single requests where those are at hand (inside the server), else from histogram
buckets; then they are told as what they are, a bucket's two bounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitoring.health.progress import ITERATIONS, RUNNING, WAITING
from monitoring.scrape.canary import Beat
from monitoring.scrape.window import Histogram, Scrape, Window

FINISHED = "vllm:request_success_total"
REJECTED = "vllm:admission_rejections_total"
PREEMPTIONS = "vllm:num_preemptions_total"
KV_USAGE = "vllm:kv_cache_usage_perc"
HISTOGRAMS = {
    "e2e": "vllm:e2e_request_latency_seconds",
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "queue": "vllm:request_queue_time_seconds",
}
# From fewer values than these a percentile is just one of the largest values. (A measurement asks for more: a run's
# report has no p99 of fewer than 1,000 requests. Health is a look at a moment, and tells the count beside.)
PERCENTILES = {"p50": (0.50, 5), "p95": (0.95, 20), "p99": (0.99, 100)}
GPU_FIELDS = (
    "temperature_celsius",
    "utilization_ratio",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU now. `throttled_ratio` is the share of the window in which heat slowed it down; None is not known."""

    gpu: str
    name: str | None = None
    up: bool = True
    readings: Mapping[str, float] = field(default_factory=dict)
    throttled_ratio: float | None = None

    def document(self) -> dict[str, Any]:
        known = {"name": self.name, **self.readings, "throttled_ratio": self.throttled_ratio}
        return {"gpu": self.gpu, "up": self.up, **{key: value for key, value in known.items() if value is not None}}


@dataclass(frozen=True)
class Observation:
    """All that was seen of one server. Instants are our monotonic clock's; None and empty mean: not seen."""

    scrapes: Sequence[Scrape] = ()
    figures_from: int = 0  # the scrape with which the window for rates and latency begins
    metrics_problem: str | None = None
    health_status: int | None = None
    health_problem: str | None = None
    health_body: Mapping[str, Any] | None = None
    canary: Beat | None = None
    engine_silence_s: float | None = None
    requests_in_work: int | None = None
    durations_s: Mapping[str, Sequence[float]] | None = None
    gpus: Sequence[Gpu] = ()
    gpu_problem: str | None = None
    clock_skew_s: float | None = None

    @property
    def window(self) -> Window | None:
        return Window(self.scrapes[self.figures_from :]) if len(self.scrapes) > self.figures_from else None


def figures(seen: Observation) -> dict[str, Any]:
    """The document's figures; a section without any is left out."""
    window = seen.window
    found: dict[str, Any] = {}
    if window is not None:
        found["window_s"] = round(window.seconds, 3)
        found["uptime_s"] = uptime_s(window.last)
        found["model"] = model(window.last)
        found["requests"] = requests(window)
        found["engine"] = engine(window)
    found["latency"] = latency(seen)
    if seen.requests_in_work is not None:
        found.setdefault("engine", {})["requests_in_work"] = seen.requests_in_work
    if seen.engine_silence_s is not None:
        found.setdefault("engine", {})["silence_s"] = round(seen.engine_silence_s, 1)
    if seen.canary is not None:
        found["canary"] = known(up=seen.canary.up, latency_s=rounded(seen.canary.latency_s), reason=seen.canary.reason)
    found["gpu"] = [gpu.document() for gpu in seen.gpus]
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def uptime_s(page: Scrape) -> float | None:
    """Seconds since the server's process started, both by the server's own clock."""
    started_s = page.total("process_start_time_seconds")
    if started_s is None or page.server_time_s is None:
        return None
    return round(max(0.0, page.server_time_s - started_s), 1)


def model(page: Scrape) -> str | None:
    """The name of the model, or of several, that the engines say they serve."""
    names = {dict(labels).get("model_name") for labels in page.series.get(RUNNING, {})} - {None}
    return ", ".join(sorted(str(name) for name in names)) or None


def requests(window: Window) -> dict[str, Any]:
    """Finished requests since the server's start, and those of the window. Aborted ones (the client left) are apart."""
    total = window.last.total(FINISHED)
    if total is None:
        return {}
    failed = window.last.total(FINISHED, finished_reason="error") or 0.0
    aborted = window.last.total(FINISHED, finished_reason="abort") or 0.0
    return known(
        total=round(total),
        successful=round(total - failed - aborted),
        failed=round(failed),
        aborted=round(aborted),
        qps=rounded(window.rate(FINISHED)),
        window=in_window(window),
    )


def in_window(window: Window) -> dict[str, int]:
    """Requests that ended in the window, by how they ended; `http_5xx` are answers, which overlap with `failed`."""
    finished = window.increase(FINISHED)
    if finished is None:
        return {}
    failed = window.increase(FINISHED, finished_reason="error") or 0.0
    aborted = window.increase(FINISHED, finished_reason="abort") or 0.0
    return known(
        finished=round(finished),
        successful=round(finished - failed - aborted),
        failed=round(failed),
        aborted=round(aborted),
        http_5xx=round(server_errors(window)),
        rejected=whole(window.increase(REJECTED)),
    )


def server_errors(window: Window) -> float:
    """Answers of 5xx on the routes under /v1 in the window, 0 where the server has not counted any."""
    last = window.last.series.get("http_requests_total", {})
    handlers = {dict(labels).get("handler", "") for labels in last if ("status", "5xx") in labels}
    grown = [window.increase("http_requests_total", status="5xx", handler=one) for one in handlers if "/v1/" in one]
    return sum(value for value in grown if value is not None)


def engine(window: Window) -> dict[str, Any]:
    """Load and speed of the engines together; the KV cache's use is that of the fullest."""
    usage = window.last.series.get(KV_USAGE)
    queries = window.increase("vllm:prefix_cache_queries_total")
    hits = window.increase("vllm:prefix_cache_hits_total")
    return known(
        running=whole(window.last.total(RUNNING)),
        waiting=whole(window.last.total(WAITING)),
        kv_cache_usage_ratio=rounded(max(usage.values())) if usage else None,
        output_tokens_per_s=rounded(window.rate("vllm:generation_tokens_total")),
        prompt_tokens_per_s=rounded(window.rate("vllm:prompt_tokens_total")),
        iterations_per_s=rounded(window.rate(ITERATIONS)),
        preemptions=whole(window.increase(PREEMPTIONS)),
        prefix_cache_hit_ratio=rounded(hits / queries) if queries and hits is not None else None,
    )


def latency(seen: Observation) -> dict[str, Any]:
    """Percentiles over the window by kind of latency, and how they were come by."""
    if seen.durations_s is not None:
        kinds = {name: of_durations(values) for name, values in seen.durations_s.items() if values}
        return {"from": "the durations of single requests", **kinds} if kinds else {}
    if seen.window is None:
        return {}
    counted = {name: seen.window.histogram(metric) for name, metric in HISTOGRAMS.items()}
    found = {name: of_histogram(one) for name, one in counted.items() if one is not None and one.count}
    return {"from": "histogram buckets, which know a percentile only by its bounds", **found} if found else {}


def of_durations(values: Sequence[float]) -> dict[str, Any]:
    """Count, mean and the percentiles (nearest rank) that there are enough values for."""
    ordered = sorted(values)
    found: dict[str, Any] = {"count": len(ordered), "mean_s": rounded(sum(ordered) / len(ordered))}
    for name, (q, needed) in PERCENTILES.items():
        if len(ordered) >= needed:
            found[f"{name}_s"] = rounded(ordered[math.ceil(q * len(ordered) - 1e-9) - 1])
    return found


def of_histogram(counted: Histogram) -> dict[str, Any]:
    """Count, exact mean, and each percentile's bucket as `p95_more_than_s` and `p95_at_most_s` (absent: no limit)."""
    found: dict[str, Any] = {"count": round(counted.count), "mean_s": rounded(counted.mean)}
    for name, (q, needed) in PERCENTILES.items():
        if counted.count >= needed and (bound := counted.percentile(q)):
            found[f"{name}_more_than_s"] = bound.more_than
            if bound.at_most is not None:
                found[f"{name}_at_most_s"] = bound.at_most
    return found


def known(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def rounded(value: float | None) -> float | None:
    """Four significant digits, which is more than a window of seconds can tell."""
    return None if value is None else float(f"{value:.4g}")


def whole(value: float | None) -> int | None:
    return None if value is None else round(value)
