"""Recording rules: what boards and alerts read. Pure: settings → rules as Prometheus' rule files hold them.

A rule's level is its name's first part: `instance:` is one server (labels instance, model_name), `model:` all servers
of a model. Rates are taken first, then summed over engines, servers and API-server processes, and only then divided or
turned into a percentile: shares and percentiles of several servers cannot be averaged. Counters that start again at
zero are handled by rate(). Without traffic there is no sample.

Percentiles are estimates: histogram_quantile assumes that requests lie evenly between two bucket bounds (every request
took 7 s: it says 9.75 s). So no alert reads them. `…slo_bad:share` is exact, because it counts what crossed a bound.
"""

import re
from typing import Any

from monitoring.alerting.thresholds import LATENCIES, Latency, Thresholds
from monitoring.scrape.metrics import RENAMED

Rule = dict[str, Any]

SERIES: dict[Latency, str] = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "queue": "vllm:request_queue_time_seconds",
}
LEVELS = {"instance": "instance, model_name", "model": "model_name"}
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# Objectives with an error budget that burns; waiting in the queue is part of the time to the first token.
BURNING = ("ttft", "itl", "e2e", "availability")
_HTTP = "http_requests_total"
_V1 = 'handler=~"/v1/.*"'


def duration(seconds: float) -> str:
    """Seconds as Prometheus writes them: 90 → 90s, 300 → 5m, 0.5 → 500ms."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def record(name: str, expr: str, **labels: str) -> Rule:
    """One recording rule."""
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def rate(series: str, by: str, window: str) -> str:
    """The summed increase per second of a counter."""
    return f"sum by ({by}) ({either(f'rate({series}[{window}])')})"


def either(expr: str) -> str:
    """An expression of one series, or the same of what vLLM called it up to 0.9."""
    name = re.search(r"vllm:\w+", expr)
    old = next((old for old, new in RENAMED.items() if name and name[0].startswith(new)), None)
    return f"{expr} or {expr.replace(RENAMED[old], old)}" if old else expr


def over_threshold(name: Latency, threshold_s: float, by: str, window: str) -> str:
    """The exact share of requests (for itl: of tokens) that took longer than a bucket bound, 0 to 1."""
    series = SERIES[name]
    within = rate(f'{series}_bucket{{le=~"{bound(threshold_s)}"}}', by, window)
    return f"clamp_min(\n  1 - {within}\n    / {rate(f'{series}_count', by, window)},\n  0\n) >= 0"  # 0/0 is no sample


def bound(threshold_s: float) -> str:
    """A pattern for a bucket's `le` label, which exporters write as 5 or as 5.0."""
    text = f"{threshold_s:g}"
    return text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"


def answered(level: str, window: str) -> str:
    """Requests to /v1 that were answered, per second; the model's name comes from the engine's metrics."""
    named = _with_model(rate(f"{_HTTP}{{{_V1}}}", "instance", window))
    return f"sum by ({LEVELS[level]}) ({named})"


def failed(level: str, window: str) -> str:
    """Requests per second that failed: answered 5xx, or ended by the engine with an error after a 200."""
    by = LEVELS[level]
    five = rate(f'{_HTTP}{{{_V1}, status="5xx"}}', "instance", window)
    none = f"0 * {rate(f'{_HTTP}{{{_V1}}}', 'instance', window)}"
    ended = rate('vllm:request_success_total{finished_reason="error"}', by, window)
    return f"sum by ({by}) ({_with_model(f'({five} or {none})')})\n  + {ended}"


def unavailable(level: str, window: str) -> str:
    """The share of requests that failed, 0 to 1; an error inside a non-streamed answer may count twice."""
    return f"clamp_max(\n  ({failed(level, window)})\n    / {answered(level, window)},\n  1\n) >= 0"


def _with_model(per_instance: str) -> str:
    return (
        f"{per_instance} * on (instance) group_left (model_name) "
        "group by (instance, model_name) (vllm:num_requests_running)"
    )


def latency_rules(settings: Thresholds) -> list[Rule]:
    """Percentiles of TTFT, ITL, E2E and queue time."""
    window = duration(settings.timing.window_s)
    return [
        record(
            f"{level}:nbridge_{name}_seconds:{label}",
            f"histogram_quantile({q}, {rate(f'{SERIES[name]}_bucket', f'{by}, le', window)}) >= 0",
        )
        for name in LATENCIES
        for level, by in LEVELS.items()
        for label, q in QUANTILES.items()
    ]


def slo_rules(settings: Thresholds) -> list[Rule]:
    """The objectives as constants, and the exact share of requests that miss each of them."""
    window = duration(settings.timing.window_s)
    rules = []
    for name in (*LATENCIES, "availability"):
        rules.append(
            record("nbridge_slo:budget_share", f"vector({getattr(settings.slo, name).budget_share:g})", slo=name)
        )
    for name in LATENCIES:
        rules.append(
            record("nbridge_slo:threshold_seconds", f"vector({settings.slo.latency(name).threshold_s:g})", slo=name)
        )
    for level in LEVELS:
        for slo in (*LATENCIES, "availability"):
            rules.append(record(f"{level}:nbridge_slo_bad:share", bad_share(settings, slo, level, window), slo=slo))
    return rules


def burn_rules(settings: Thresholds) -> list[Rule]:
    """The share of requests that miss an objective, over the windows in which its budget is watched."""
    seconds = sorted({s for speed in (settings.burn.fast, settings.burn.slow) for s in (speed.short_s, speed.long_s)})
    return [
        record(
            "model:nbridge_slo_bad:window_share",
            bad_share(settings, slo, "model", duration(window_s)),
            slo=slo,
            window=duration(window_s),
        )
        for slo in BURNING
        for window_s in seconds
    ]


def bad_share(settings: Thresholds, slo: str, level: str, window: str) -> str:
    """The share of requests (for itl: of tokens) that miss one objective."""
    if slo == "availability":
        return unavailable(level, window)
    name = next(one for one in LATENCIES if one == slo)
    return over_threshold(name, settings.slo.latency(name).threshold_s, LEVELS[level], window)


def engine_rules(settings: Thresholds) -> list[Rule]:
    """Traffic, queue, KV cache and prefix cache. Gauges of engines add up, except cache usage: the fullest counts."""
    window = duration(settings.timing.window_s)
    rules = []
    for level, by in LEVELS.items():
        hits, queries = (rate(f"vllm:prefix_cache_{what}_total", by, window) for what in ("hits", "queries"))
        rules += [
            record(f"{level}:nbridge_requests:rate", rate("vllm:e2e_request_latency_seconds_count", by, window)),
            record(f"{level}:nbridge_requests_failed:rate", failed(level, window)),
            record(f"{level}:nbridge_generation_tokens:rate", rate("vllm:generation_tokens_total", by, window)),
            record(f"{level}:nbridge_prompt_tokens:rate", rate("vllm:prompt_tokens_total", by, window)),
            record(f"{level}:nbridge_requests_running:sum", f"sum by ({by}) (vllm:num_requests_running)"),
            record(f"{level}:nbridge_requests_waiting:sum", f"sum by ({by}) (vllm:num_requests_waiting)"),
            record(f"{level}:nbridge_kv_cache_usage:max", f"max by ({by}) ({either('vllm:kv_cache_usage_perc')})"),
            record(f"{level}:nbridge_prefix_cache_hit:share", f"{hits}\n  / {queries} >= 0"),
            record(f"{level}:nbridge_preemptions:rate", rate("vllm:num_preemptions_total", by, window)),
        ]
    return rules
