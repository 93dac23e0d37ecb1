"""What servers do now: figures over a window of the last seconds, and their course over minutes. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from dashboards.screens.live.alerts import Firing
from dashboards.screens.live.sources import Seen
from inputs.quantities import byte_size, count, number, seconds, share
from monitoring.alerting.thresholds import Thresholds
from monitoring.health.figures import HISTOGRAMS, KV_USAGE, Gpu, Observation, engine, model, requests
from monitoring.health.figures import latency as latencies
from monitoring.health.progress import RUNNING, WAITING
from monitoring.health.server_gpus import of_page
from monitoring.health.verdict import Health, examine
from monitoring.scrape.address import normalised
from monitoring.scrape.window import Scrape, Window

Rows = list[dict[str, Any]]
Fact = tuple[str, str, str]
POINTS = 120  # points of a line over time
STALLED_S = 30.0  # an engine with work that did no step for so long hangs; the alert waits longer, to be sure
NO_ALERTS = " `nbridge stack` starts one with all rules; `nbridge dashboard --alertmanager URL` names another."
LATENCY_WORDS = {"ttft": "TTFT", "itl": "ITL", "e2e": "E2E latency", "queue": "wait in the queue"}


@dataclass(frozen=True)
class Server:
    """One server's lines on the page."""

    address: str
    up: bool
    says: str
    facts: tuple[Fact, ...]
    remark: str
    health: str = "unknown"
    reasons: tuple[str, ...] = ()


def recent(scrapes: tuple[Scrape, ...], window_s: float) -> tuple[Scrape, ...]:
    """The scrapes of the last `window_s` seconds before the last one."""
    return tuple(one for one in scrapes if one.at_s >= scrapes[-1].at_s - window_s - 1e-6) if scrapes else ()


def server(seen: Seen, window_s: float, thresholds: Thresholds) -> Server:
    """What one server does, over the last `window_s` seconds; a server that does not answer says so."""
    if seen.problem is not None:
        ago = f" It last answered at {clock(seen.scrapes[-1].at_s)}." if seen.scrapes else ""
        return Server(seen.address, False, f"does not answer: {seen.problem}.{ago}", (), "", "unhealthy")
    scrapes = recent(seen.scrapes, window_s)
    if not scrapes:
        return Server(seen.address, False, "has not been asked yet.", (), "")
    window = Window(scrapes)
    if not seen.has_engine:
        return Server(seen.address, True, "answers, but its page has no vLLM metrics: is it a vLLM server?", (), "")
    now, ended = engine(window), requests(window)
    facts = (
        ("Output", _rate(now.get("output_tokens_per_s")), "tokens/s"),
        ("Prompt", _rate(now.get("prompt_tokens_per_s")), "tokens/s"),
        ("Requests", _rate(ended.get("qps")), "ended/s"),
        ("Running", count(now.get("running")), "requests"),
        ("Waiting", count(now.get("waiting")), "requests"),
        ("KV cache", share(now.get("kv_cache_usage_ratio")), "in use"),
        *_latency_facts(scrapes),
        *_slo_facts(window, thresholds),
    )
    found = health(seen.scrapes, window_s, thresholds)
    says = f"{found.status}; serves {model(window.last) or 'an unnamed model'}"
    return Server(
        seen.address, True, says, facts, _remark(window), found.status, tuple(reason.text for reason in found.reasons)
    )


def health(scrapes: tuple[Scrape, ...], window_s: float, thresholds: Thresholds) -> Health:
    """Is the server well, by its pages? The rules of `nbridge health`, without asking for a token."""
    first = len(scrapes) - len(recent(scrapes, window_s))
    seen = Observation(scrapes=scrapes, figures_from=first, gpus=tuple(of_page(scrapes[-2:])))
    return examine(seen, thresholds, stalled_s=min(thresholds.engine.stalled_s, STALLED_S))


def addresses(text: str) -> tuple[tuple[str, ...], list[str]]:
    """The addresses in a text, each once and in one form, and what is wrong with those that are none."""
    found, problems = [], []
    for word in re.split(r"[,;\s]+", text.strip()):
        try:
            if word:
                found.append(normalised(word))
        except ValueError as error:
            problems.append(f"{error}.")
    return tuple(dict.fromkeys(found)), problems


def limit(what: str, thresholds: Thresholds) -> float | None:
    """From which value on an alert is raised about what a figure shows; None where it has no such limit."""
    limits = {
        "waiting": float(thresholds.engine.waiting_max),
        "kv": float(thresholds.engine.kv_usage_max),
        "temperature_celsius": float(thresholds.gpu.temperature_max_c),
    }
    return limits.get(what)


def slo(what: str, thresholds: Thresholds) -> float | None:
    """The objective of what a figure shows, in seconds; None where there is none."""
    limits = {"ttft": thresholds.slo.ttft.threshold_s, "itl": thresholds.slo.itl.threshold_s}
    return float(limits[what]) if what in limits else None


def alert_rows(found: Sequence[Firing]) -> Rows:
    """The firing alerts, the worst first, each with a link to what to do."""
    return [
        {
            "Alert": one.name,
            "Severity": one.severity,
            "About": one.about,
            "What": one.summary,
            "Since (UTC)": one.since,
            "What to do": one.runbook,
        }
        for one in found
    ]


def outages(seen: list[Seen], now_s: float) -> Rows:
    """When which address did not answer, as far as known: from its last answer to now."""
    return [
        {"from": instant(one.scrapes[-1].at_s), "to": instant(now_s), "series": one.address}
        for one in seen
        if one.problem is not None and one.scrapes
    ]


def _rate(value: float | None) -> str:
    return number(value)


def _latency_facts(scrapes: tuple[Scrape, ...]) -> list[Fact]:
    found = latencies(Observation(scrapes=scrapes))
    facts: list[Fact] = []
    for name in ("ttft", "itl", "e2e"):
        known = found.get(name) or {}
        mean = known.get("mean_s")
        facts.append((f"{LATENCY_WORDS[name]}, mean", seconds(mean), bound_words(known) if mean is not None else ""))
    return facts


def _slo_facts(window: Window, thresholds: Thresholds) -> list[Fact]:
    """The share of the requests in the window whose TTFT met the objective; nothing where its histogram cannot tell."""
    goal = thresholds.slo.ttft
    counted = window.histogram(HISTOGRAMS["ttft"])
    above = counted.share_above(float(goal.threshold_s)) if counted else None
    if above is None:
        return []
    asked = f"the SLO asks {share(1 - goal.budget_share)}"
    return [(f"TTFT ≤ {seconds(goal.threshold_s)}", share(1 - above), asked)]


def bound_words(known: dict[str, Any]) -> str:
    """The p95 of a histogram as the bounds of its bucket, which is all that a bucket tells."""
    low, high = known.get("p95_more_than_s"), known.get("p95_at_most_s")
    if low is None:
        return "too few for a p95"
    if high is None:
        return f"p95 above {seconds(low)}"
    return f"p95 {seconds(low)} to {seconds(high)}" if low else f"p95 at most {seconds(high)}"


def _remark(window: Window) -> str:
    if window.alternates:
        return "The address leads to several servers in turn, so rates cannot be told. Ask each by itself."
    if window.seconds <= 0:
        return "Rates need a second look; the next refresh has them."
    parts = [f"Over the last {window.seconds:.0f} s."]
    if any(window.resets):
        parts.append("The server was started anew in that time.")
    preempted = engine(window).get("preemptions")
    if preempted:
        parts.append(f"{preempted:,} requests lost their place in the KV cache and are computed again.")
    return " ".join(parts)


def clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s).astimezone():%H:%M:%S}"


def instant(at_s: float) -> str:
    """An instant as figures take it."""
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def thinned(scrapes: tuple[Scrape, ...], points: int = POINTS) -> tuple[Scrape, ...]:
    """At most about `points` of the scrapes, evenly, the last one included."""
    every = max(1, -(-len(scrapes) // points))
    return tuple(reversed(scrapes[::-1][::every]))


GAUGES = {"running": RUNNING, "waiting": WAITING}


def course(seen: list[Seen], what: str) -> Rows:
    """One line per server over the history: `output` or `requests` per second, `kv`, `waiting`, `running`, `ttft`.

    A rate is drawn at the end of the time it is taken over. `part` counts up where a server did not answer for
    longer than usual, so that no line is drawn across the gap.
    """
    rows: Rows = []
    for one in seen:
        scrapes = thinned(one.scrapes)
        usual_s = _usual_gap_s(scrapes)
        part = 0
        for before, after in zip((None, *scrapes[:-1]), scrapes, strict=True):
            if before is not None and after.at_s - before.at_s > 3.5 * usual_s:
                part += 1
                before = None  # noqa: PLW2901 (no rate across a gap)
            value = _value(before, after, what)
            if value is not None:
                key = f"{one.address} {part}"
                rows.append({"at": instant(after.at_s), "series": one.address, "value": value, "part": key})
    return rows


def _usual_gap_s(scrapes: tuple[Scrape, ...]) -> float:
    gaps = sorted(b.at_s - a.at_s for a, b in pairwise(scrapes))
    return gaps[len(gaps) // 2] if gaps else 0.0


def _value(before: Scrape | None, after: Scrape, what: str) -> float | None:
    if what in GAUGES:
        return after.total(GAUGES[what])
    if what == "kv":
        usage = after.series.get(KV_USAGE)
        return max(usage.values()) if usage else None
    if before is None:
        return None
    window = Window((before, after))
    if what in ("ttft", "itl"):
        counted = window.histogram(HISTOGRAMS[what])
        return counted.mean if counted else None
    names = {"output": "vllm:generation_tokens_total", "requests": "vllm:request_success_total"}
    return window.rate(names[what])


def gpu_course(seen: list[Seen], name: str) -> Rows:
    """One line per GPU over the history of what its exporter calls `nbridge_gpu_{name}`; memory as a share of all."""
    rows: Rows = []
    for one in seen:
        scrapes = thinned(one.scrapes)
        usual_s, part = _usual_gap_s(scrapes), 0
        before: float | None = None
        for page in scrapes:
            if before is not None and page.at_s - before > 3.5 * usual_s:
                part += 1
            before = page.at_s
            for labels, value in page.series.get(f"nbridge_gpu_{name}", {}).items():
                known = dict(labels)
                if known.get("mig"):
                    continue
                if name == "memory_used_bytes":
                    whole = page.series.get("nbridge_gpu_memory_total_bytes", {}).get(labels)
                    if not whole:
                        continue
                    value /= whole  # noqa: PLW2901 (its share of the whole)
                series = f"{known.get('gpu', '0')}: {known.get('name') or 'unnamed'}"
                series += f" at {one.address}" if len(seen) > 1 else ""
                rows.append({"at": instant(page.at_s), "series": series, "value": value, "part": f"{series} {part}"})
    return rows


def gpus(seen: list[Seen]) -> Rows:
    """One row per GPU of every exporter that answers."""
    return [
        _gpu_row(one.address, gpu)
        for one in seen
        if one.problem is None and one.has_gpus
        for gpu in of_page(one.scrapes[-2:])
    ]


def _gpu_row(address: str, gpu: Gpu) -> dict[str, Any]:
    known = gpu.readings
    temperature, used, whole = (
        known.get(n) for n in ("temperature_celsius", "memory_used_bytes", "memory_total_bytes")
    )
    watts = known.get("power_watts")
    return {
        "GPU": f"{gpu.gpu}: {gpu.name or 'unnamed'}",
        "At": address,
        "State": "answers" if gpu.up else "lost or not answering",
        "Temperature": f"{temperature:.0f} °C" if temperature is not None else "–",
        "Memory": f"{byte_size(used)} of {byte_size(whole)}" if used is not None else "–",
        "Busy": share(known.get("utilization_ratio")),
        "Power": f"{watts:.0f} W" if watts is not None else "–",
        "Slowed by heat": share(gpu.throttled_ratio) if gpu.throttled_ratio is not None else "–",
    }
