"""What is wrong with a server that runs, and what to do: findings with evidence, from live metrics. Pure.

The checks follow the deployment guide's troubleshooting chapter. One that nothing can be said of says why.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inputs.quantities import GIB, trimmed
from monitoring.alerting.thresholds import Thresholds
from monitoring.doctor.checks import Finding
from monitoring.health import progress
from monitoring.health.figures import HISTOGRAMS, KV_USAGE, PREEMPTIONS, Observation
from monitoring.health.verdict import FEW, Health
from monitoring.scrape.window import Window

CONFIG = "vllm:cache_config_info"
TIGHT_GPU = 0.98
SMALL_BATCH = 2.0
ENOUGH_TOKENS = 4  # of fewer the same character over and over says nothing
PARTS = {"queue": "waiting in the queue", "prefill": "reading prompts", "decode": "generating"}
_PART_TODO = {
    "queue": "Requests wait for others: raise max_num_seqs if the KV cache has room, add a replica, or send less.",
    "prefill": "Prompts cost most: turn on prefix caching, shorten them, or raise max_num_batched_tokens.",
    "decode": "Generating costs most: quantize, take a smaller model or faster memory, decode speculatively.",
}


@dataclass(frozen=True)
class Probe:
    """What one answer of the model looked like. None is not known: the server was not asked, or cannot tell.

    `text` is what the model finds likeliest after a prompt, `token_count` its length by the server; `state` is the
    hidden state after the last layer but one.
    The problems say why there is none.
    """

    text: str | None = None
    token_count: int | None = None
    text_problem: str | None = None
    state: tuple[float, ...] | None = None
    state_problem: str | None = None


def diagnose(seen: Observation, health: Health, probe: Probe, thresholds: Thresholds) -> Iterator[Finding]:
    """A finding per check, on a server that was observed."""
    yield _alive(health)
    yield from _numbers(probe)
    window = seen.window
    if window is None and health.status == "unhealthy":
        return  # nobody is there, which has been said
    if window is None:
        words = seen.metrics_problem or "the server shows none"
        yield Finding("Metrics", "warn", words, "Without metrics nothing more can be said; is /metrics reachable?")
        return
    yield _slow(window, thresholds)
    yield _batch(window, thresholds)
    yield _kv_cache(window, thresholds)
    yield _prefix_cache(window)
    yield _memory(seen)
    yield _heat(seen, thresholds)


def _alive(health: Health) -> Finding:
    words = " ".join(reason.text for reason in health.reasons) or "the server answers, and makes progress"
    if health.status == "healthy":
        return Finding("Health", "ok", words)
    if health.status == "degraded":
        return Finding("Health", "warn", words, "The checks below look for the cause.")
    if "hangs" in words or "not answered" in words:
        todo = (
            "Restart the server: a hung engine does not recover. Before, keep its log and `py-spy dump` of EngineCore."
        )
    else:
        todo = "Look at the end of the server's log (nbridge doctor --server URL --log FILE explains it)."
    return Finding("Health", "fail", words, todo)


def _numbers(probe: Probe) -> Iterator[Finding]:
    if probe.text_problem is not None:
        yield Finding("Model output", "warn", probe.text_problem, "Without an answer the output cannot be judged.")
    elif probe.text is not None:
        yield _output(probe.text, probe.token_count)
    if probe.state_problem is not None:
        todo = "Not finite: broken weights or an overflow of a 16-bit dtype; try --dtype bfloat16, or float32."
        is_bad = "not finite" in probe.state_problem
        more = todo if is_bad else "See docs/hidden-states.md for what gives states and what does not."
        yield Finding("Hidden states", "fail" if is_bad else "warn", probe.state_problem, more)
    elif probe.state is not None:
        norm = math.sqrt(sum(value * value for value in probe.state))
        if norm == 0:
            todo = "The weights are zero or were not loaded: compare the checkpoint's checksums, and load_format."
            yield Finding("Hidden states", "fail", f"all {len(probe.state)} values are 0", todo)
        else:
            yield Finding("Hidden states", "ok", f"{len(probe.state)} values, not zero, finite (norm {trimmed(norm)})")


def _output(text: str, token_count: int | None) -> Finding:
    length = len(text.strip()) if token_count is None else token_count
    if text.strip() and length < ENOUGH_TOKENS:
        return Finding("Model output", "ok", f"{text.strip()[:40]!r}: too short to judge")
    if len(set(text.strip())) > 1:
        return Finding("Model output", "ok", f"{text.strip()[:40]!r}")
    seen = f"one character over and over: {text[:16]!r}" if text.strip() else "nothing but blanks"
    todo = (
        "So look zero weights, and numbers that overflow (NaN): load the checkpoint anew, try --dtype bfloat16 "
        "or no quantization; nbridge serve's hidden states show which it is."
    )
    return Finding("Model output", "warn", seen, todo)


def _slow(window: Window, thresholds: Thresholds) -> Finding:
    e2e = window.histogram(HISTOGRAMS["e2e"])
    if e2e is None or e2e.count < FEW:
        seen = f"{round(e2e.count) if e2e else 'no'} requests ended in {window.seconds:.0f} s"
        return Finding("Latency", "ok", f"{seen}: too few to judge", "Look for longer (--window 60) or under load.")
    limit_s, budget = thresholds.slo.e2e.threshold_s, thresholds.slo.e2e.budget_share
    share = e2e.share_above(limit_s)
    parts = {name: window.increase(f"vllm:request_{name}_time_seconds_sum") for name in PARTS}
    known = {name: value for name, value in parts.items() if value}
    slow = "how many" if share is None else f"{share:.0%}"
    seen = f"{slow} of {e2e.count:.0f} requests took more than {limit_s:g} s"
    seen += " is not told: the histogram has no bound there" if share is None else ""
    seen += f" (mean {e2e.mean:.2f} s)" if e2e.mean is not None else ""
    if known:
        spent = sum(known.values())
        seen += "; of the time, " + ", ".join(f"{value / spent:.0%} {PARTS[name]}" for name, value in known.items())
    if share is None or share <= budget:
        return Finding("Latency", "ok", seen)
    todo = _PART_TODO[max(known, key=lambda name: known[name])] if known else "Measure it: nbridge bench --target URL."
    return Finding("Latency", "warn", seen, todo)


def _batch(window: Window, thresholds: Thresholds) -> Finding:
    running, waiting = _mean(window.gauge(progress.RUNNING)), window.gauge(progress.WAITING)
    tokens, steps = window.increase("vllm:iteration_tokens_total_sum"), window.increase(progress.ITERATIONS)
    if running is None:
        return Finding("Batch", "warn", "the page does not tell how many requests run", "Is this a vLLM server?")
    seen = f"{running:.1f} requests at once"
    seen += f", {queued:.1f} waiting" if (queued := _mean(waiting)) is not None else ""
    if steps and tokens is not None:
        seen += f", {tokens / steps:.1f} tokens a step"
    usage = window.last.series.get(KV_USAGE)
    fullest = max(usage.values()) if usage else None
    if waiting and min(waiting) >= 1 and fullest is not None and fullest < thresholds.engine.kv_usage_max - 0.15:
        todo = "max_num_seqs is the limit, not memory: raise it (256 is usual on a GPU)."
        return Finding("Batch", "warn", f"{seen}, and the KV cache is only {fullest:.0%} full", todo)
    if steps and running < SMALL_BATCH:
        todo = "Nothing is wrong; but an accelerator that computes one request at a time costs as much as a full one."
        return Finding("Batch", "ok", f"{seen}: little load", todo)
    return Finding("Batch", "ok", seen)


def _kv_cache(window: Window, thresholds: Thresholds) -> Finding:
    series = [found for one in window.scrapes if (found := one.series.get(KV_USAGE))]
    if not series:
        return Finding("KV cache", "warn", "the page does not tell its use", "Is this a vLLM server?")
    highest = max(max(found.values()) for found in series)
    preempted = window.increase(PREEMPTIONS)
    concurrency = config(window).get("kv_cache_max_concurrency")
    seen = f"{highest:.0%} full at most, {preempted or 0:.0f} preemptions"
    if concurrency:
        seen += f"; room for {trimmed(float(concurrency))} requests of full length"
    if highest >= thresholds.engine.kv_usage_max and preempted:
        todo = (
            "Preempted requests are computed twice. Lower max_num_seqs or max_model_len, set kv_cache_dtype fp8, give "
            "vLLM more memory (gpu_memory_utilization), quantize the weights, or add a replica."
        )
        return Finding("KV cache", "warn", seen, todo)
    return Finding("KV cache", "ok", seen)


def _prefix_cache(window: Window) -> Finding:
    enabled = config(window).get("enable_prefix_caching")
    queries, hits = (window.increase(f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits"))
    if enabled == "False":
        return Finding(
            "Prefix cache", "warn", "off", "Prompts that begin alike are read anew: --enable-prefix-caching."
        )
    if queries is None or hits is None:
        seen = "the page does not tell how much came from it"
        return Finding("Prefix cache", "ok", f"on; {seen}" if enabled else seen)
    if not queries:
        return Finding("Prefix cache", "ok", "on; no prompt came meanwhile" if enabled else "no prompt came meanwhile")
    return Finding("Prefix cache", "ok", f"{hits / queries:.0%} of prompt tokens came from it")


def _memory(seen: Observation) -> Finding:
    if not seen.gpus:
        words = seen.gpu_problem or "no GPU seen; --exporter URL names the exporter beside the server"
        return Finding("GPU memory", "ok" if seen.gpu_problem is None else "warn", words)
    tight = []
    for gpu in seen.gpus:
        used, total = gpu.readings.get("memory_used_bytes"), gpu.readings.get("memory_total_bytes")
        if used is not None and total and used / total > TIGHT_GPU:
            tight.append(f"GPU {gpu.gpu}: {(total - used) / GIB:.2f} GiB of {total / GIB:.0f} free")
    if tight:
        todo = (
            "The next peak ends the server with torch.cuda.OutOfMemoryError: lower gpu_memory_utilization (0.9 → "
            "0.85), max_num_batched_tokens or max_num_seqs, quantize, or end the other programs on that GPU."
        )
        return Finding("GPU memory", "warn", "; ".join(tight), todo)
    known = sum("memory_used_bytes" in gpu.readings for gpu in seen.gpus)
    unread = len(seen.gpus) - known
    words = f"{known} GPUs, each with room for a peak" if known else "not to be read"
    if unread:
        shared = "Where GPUs share the machine's memory (GB10, Jetson), free tells what is left."
        more = f"; of {unread} more it cannot be read" if known else ""
        return Finding("GPU memory", "ok" if known else "warn", f"{words}{more}", shared)
    return Finding("GPU memory", "ok", words)


def _heat(seen: Observation, thresholds: Thresholds) -> Finding:
    limits = thresholds.gpu
    hot = [
        f"GPU {gpu.gpu}: {gpu.readings.get('temperature_celsius', math.nan):.0f} °C"
        + (f", slowed down for {gpu.throttled_ratio:.0%} of the time" if gpu.throttled_ratio else "")
        for gpu in seen.gpus
        if gpu.readings.get("temperature_celsius", 0) > limits.temperature_max_c
        or (gpu.throttled_ratio or 0) > limits.throttle_share_max
    ]
    if hot:
        todo = "Clean the air's way, raise the fans, lower the power limit (nvidia-smi -pl), or move load away."
        return Finding("Heat", "warn", "; ".join(hot), todo)
    known = [gpu for gpu in seen.gpus if "temperature_celsius" in gpu.readings]
    return Finding("Heat", "ok", f"{len(known)} GPUs below {limits.temperature_max_c:g} °C" if known else "no GPU seen")


def config(window: Window) -> Mapping[str, Any]:
    """What vLLM says of its cache's configuration, of one engine: all have the same."""
    return next((dict(labels) for labels in window.last.series.get(CONFIG, {})), {})


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
