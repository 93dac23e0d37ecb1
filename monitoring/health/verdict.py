"""Is a server well? A verdict with its reasons, from what was seen of it. Pure.

`unhealthy`: requests are not answered, or most of them fail. `degraded`: they are answered, but slowly, partly or not
for long. Every rule looks at the window, never at averages since the server's start.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from monitoring.alerting.thresholds import LATENCIES, Latency, Thresholds
from monitoring.health import progress
from monitoring.health.figures import HISTOGRAMS, KV_USAGE, PREEMPTIONS, REJECTED, Observation, figures, in_window
from monitoring.scrape.window import Window

Status = Literal["healthy", "degraded", "unhealthy"]
SKEW_S = 5.0
FEW = 5  # fewer requests than this say nothing about a share
MOST = 0.5
_LATENCY_WORDS = {
    "e2e": "requests took",
    "ttft": "requests waited for their first token",
    "itl": "tokens came after a pause of",
    "queue": "requests queued",
}


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong, as a sentence with its figures."""

    status: Literal["degraded", "unhealthy"]
    text: str


@dataclass(frozen=True)
class Health:
    """The verdict. `notes` are no faults: what could not be seen, and what a reader should know of the figures."""

    status: Status
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    figures: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "reasons": [reason.text for reason in self.reasons],
            "notes": list(self.notes),
            **self.figures,
        }


def examine(seen: Observation, thresholds: Thresholds, *, stalled_s: float) -> Health:
    """The verdict on an observation; an engine with work that did no step for `stalled_s` hangs."""
    reasons = [*_answers(seen), *_hangs(seen, stalled_s)]
    if window := seen.window:
        reasons += [*_fails(window, thresholds), *_is_slow(seen, thresholds), *_is_full(window, thresholds)]
    reasons += [*_is_hot(seen, thresholds), *_says_itself(seen, reasons)]
    reasons.sort(key=lambda reason: reason.status == "degraded")
    status: Status = reasons[0].status if reasons else "healthy"
    return Health(status, tuple(reasons), tuple(_notes(seen, thresholds)), figures(seen))


def _answers(seen: Observation) -> Iterator[Reason]:
    canary = seen.canary
    if seen.metrics_problem and seen.health_problem and (canary is None or not canary.up):
        same = seen.metrics_problem == seen.health_problem
        more = "" if same else f"; /health: {seen.health_problem}"
        yield Reason("unhealthy", f"The server does not answer: {seen.metrics_problem}{more}.")
        return
    if seen.health_problem:
        yield Reason("unhealthy", f"/health: {seen.health_problem}.")
    elif seen.health_status is not None and seen.health_status >= 500:
        yield Reason("unhealthy", f"/health answers HTTP {seen.health_status}: the engine has failed.")
    if seen.metrics_problem:
        yield Reason("degraded", f"/metrics cannot be read: {seen.metrics_problem}.")
    if canary is not None and canary.failed in ("down", "error", "bad"):
        yield Reason("unhealthy", f"A request for one token failed: {canary.reason}.")


def hang(seen: Observation, stalled_s: float) -> str | None:
    """Which engines hang and why, by their metrics or their silence; None when none does."""
    stalls = sorted(progress.stalls(seen.scrapes, stalled_s), key=_number) if seen.scrapes else []
    if stalls:
        return " ".join(
            f"Engine {stall.engine} hangs: {some(stall.running)} running and {stall.waiting:.0f} waiting, "
            f"and no step in the last {stall.silent_s:.0f} s."
            for stall in stalls
        )
    if seen.engine_silence_s is not None and seen.engine_silence_s >= stalled_s:
        work = f", with {some(seen.requests_in_work)} in work" if seen.requests_in_work else ""
        return f"The engine hangs: no sign of life for {seen.engine_silence_s:.0f} s{work}."
    return None


def _number(stall: progress.Stall) -> tuple[int, str]:
    """Engines in the order of their numbers: 2 before 10."""
    return (int(stall.engine), "") if stall.engine.isdecimal() else (sys.maxsize, stall.engine)


def _hangs(seen: Observation, stalled_s: float) -> Iterator[Reason]:
    if words := hang(seen, stalled_s):
        yield Reason("unhealthy", words)
    late = seen.canary is not None and seen.canary.failed == "late"
    moved = progress.moved(seen.scrapes) if seen.scrapes else None
    if late and seen.canary is not None and moved:
        text = f"A request for one token was not answered ({seen.canary.reason}), though the engine works: overloaded."
        yield Reason("degraded", text)
    elif late and seen.canary is not None and not (seen.metrics_problem and seen.health_problem):
        still = ", and the engine did no step meanwhile" if moved is False else ""
        yield Reason("unhealthy", f"A request for one token was not answered ({seen.canary.reason}){still}.")


def _fails(window: Window, thresholds: Thresholds) -> Iterator[Reason]:
    ended = in_window(window)
    bad = max(ended.get("failed", 0), ended.get("http_5xx", 0))
    answered = max(ended.get("finished", 0) - ended.get("aborted", 0), bad)
    if bad and answered >= FEW and bad / answered > MOST:
        yield Reason("unhealthy", f"{bad} of {some(answered)} failed in the last {window.seconds:.0f} s.")
    elif bad and bad / answered > thresholds.slo.availability.budget_share:
        yield Reason("degraded", f"{bad} of {some(answered)} failed in the last {window.seconds:.0f} s.")
    if rejected := window.increase(REJECTED):
        yield Reason("degraded", f"{some(rejected, 'was', 'were')} turned away: the queue is at its limit.")
    if any(window.resets) and not window.alternates:
        yield Reason("degraded", f"The server restarted within the last {window.seconds:.0f} s.")


def _is_slow(seen: Observation, thresholds: Thresholds) -> Iterator[Reason]:
    for name in LATENCIES:
        objective = thresholds.slo.latency(name)
        share, count = _share_above(seen, name, objective.threshold_s)
        if share is not None and count >= FEW and share > objective.budget_share:
            yield Reason(
                "degraded",
                f"{share:.0%} of {count:.0f} {_LATENCY_WORDS[name]} more than {objective.threshold_s:g} s "
                f"(at most {objective.budget_share:.0%} should).",
            )


def _share_above(seen: Observation, name: Latency, limit_s: float) -> tuple[float | None, float]:
    if seen.durations_s is not None:
        values = seen.durations_s.get(name, ())
        return (sum(value > limit_s for value in values) / len(values), len(values)) if values else (None, 0)
    counted = seen.window.histogram(HISTOGRAMS[name]) if seen.window else None
    return (counted.share_above(limit_s), counted.count) if counted else (None, 0)


def _is_full(window: Window, thresholds: Thresholds) -> Iterator[Reason]:
    waiting = window.gauge(progress.WAITING)
    if waiting and min(waiting) > thresholds.engine.waiting_max:
        yield Reason("degraded", f"{min(waiting):.0f} requests or more were waiting all the time.")
    usage = [max(found.values()) for one in window.scrapes if (found := one.series.get(KV_USAGE))]
    preempted = window.increase(PREEMPTIONS)
    if usage and max(usage) >= thresholds.engine.kv_usage_max and preempted:
        text = f"The KV cache is {max(usage):.0%} full, and {some(preempted)} lost their place in it."
        yield Reason("degraded", text)
    if window.last.total("vllm:engine_sleep_state", sleep_state="awake") == 0:
        yield Reason("degraded", "The engine sleeps: it answers nothing until it is woken (POST /wake_up).")


def _is_hot(seen: Observation, thresholds: Thresholds) -> Iterator[Reason]:
    limits = thresholds.gpu
    for gpu in seen.gpus:
        temperature = gpu.readings.get("temperature_celsius")
        if not gpu.up:
            yield Reason("degraded", f"GPU {gpu.gpu} is lost or does not answer.")
        if temperature is not None and temperature > limits.temperature_max_c:
            text = f"GPU {gpu.gpu} is at {temperature:.0f} °C (limit {limits.temperature_max_c:g} °C)."
            yield Reason("degraded", text)
        if gpu.throttled_ratio is not None and gpu.throttled_ratio > limits.throttle_share_max:
            yield Reason("degraded", f"Heat slowed GPU {gpu.gpu} down for {gpu.throttled_ratio:.0%} of the time.")


def _says_itself(seen: Observation, known: list[Reason]) -> Iterator[Reason]:
    """What the hooked server's own /health tells, unless it has been found from here."""
    said = (seen.health_body or {}).get("status")
    if said not in ("degraded", "unhealthy") or any(reason.status == "unhealthy" for reason in known):
        return
    words = (seen.health_body or {}).get("reasons")
    texts = [str(word) for word in words] if isinstance(words, list) else []
    for text in texts or [f"it is {said}"]:
        yield Reason(said, f"Its own /health says: {text}")


def _notes(seen: Observation, thresholds: Thresholds) -> Iterator[str]:
    if seen.canary is not None and seen.canary.failed == "unserved":
        yield f"No canary: {seen.canary.reason}."
    if seen.canary is not None and seen.canary.failed == "refused":
        yield f"The canary was refused ({seen.canary.reason}), so nothing is known of what a request would get."
    if seen.health_status is not None and 300 <= seen.health_status < 500:
        yield f"/health answers HTTP {seen.health_status}: perhaps this is no vLLM server."
    window = seen.window
    if window is not None:
        if progress.ITERATIONS not in window.last.series:
            yield "The page has no count of engine steps, so a hanging engine shows only by the canary."
        if window.alternates:
            yield "The address leads to several servers in turn: rates and latency are absent. Ask each by itself."
        elif len(window.scrapes) > 1 and not window.increase("vllm:e2e_request_latency_seconds_count"):
            yield f"No request ended in the last {window.seconds:.0f} s: nothing can be said of latency."
    if seen.clock_skew_s is not None and abs(seen.clock_skew_s) > SKEW_S:
        direction = "ahead" if seen.clock_skew_s > 0 else "behind"
        skew_s = abs(seen.clock_skew_s)
        yield f"The server's clock is {skew_s:.0f} s {direction} of this machine's; no figure depends on it."
    if seen.gpu_problem:
        yield f"GPUs: {seen.gpu_problem}."
    for gpu in seen.gpus:
        if gpu.readings.get("utilization_ratio", 0) > thresholds.gpu.utilization_max:
            yield f"GPU {gpu.gpu} is fully used, as it should be under load."


def some(count: float, one: str = "", several: str = "") -> str:
    """ "1 request" or "3 requests", with the verb that fits."""
    words = "1 request" if round(count) == 1 else f"{count:,.0f} requests"
    return f"{words} {one if round(count) == 1 else several}".rstrip()
