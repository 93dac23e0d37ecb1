"""Verdicts on servers that we make up: each thing that can be wrong, alone, with the reason that a reader gets."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from monitoring.alerting.thresholds import load
from monitoring.health import printout
from monitoring.health.figures import Gpu, Observation, figures
from monitoring.health.verdict import Health, examine
from monitoring.scrape.canary import Beat
from monitoring.scrape.metrics import parse
from monitoring.scrape.window import Scrape, scrape

THRESHOLDS = load()
ENGINE = 'engine="0",model_name="m"'


def counts(
    *,
    steps: int = 0,
    running: int = 0,
    waiting: int = 0,
    ok: int = 0,
    error: int = 0,
    abort: int = 0,
    slow: int = 0,
    more: str = "",
) -> str:
    """A page. `slow` of the finished requests took 7 s, the others 1 s."""
    finished = ok + error + abort
    e2e = "vllm:e2e_request_latency_seconds"
    return f"""process_start_time_seconds 1000
vllm:iteration_tokens_total_count{{{ENGINE}}} {steps}
vllm:num_requests_running{{{ENGINE}}} {running}
vllm:num_requests_waiting{{{ENGINE}}} {waiting}
vllm:request_success_total{{{ENGINE},finished_reason="length"}} {ok}
vllm:request_success_total{{{ENGINE},finished_reason="error"}} {error}
vllm:request_success_total{{{ENGINE},finished_reason="abort"}} {abort}
{e2e}_bucket{{{ENGINE},le="1.0"}} {finished - slow}
{e2e}_bucket{{{ENGINE},le="5.0"}} {finished - slow}
{e2e}_bucket{{{ENGINE},le="10.0"}} {finished}
{e2e}_bucket{{{ENGINE},le="+Inf"}} {finished}
{e2e}_count{{{ENGINE}}} {finished}
{e2e}_sum{{{ENGINE}}} {finished - slow + 7 * slow}
{more}
"""


def at(at_s: float, text: str, server_time_s: float | None = None) -> Scrape:
    return scrape(at_s, parse(text), server_time_s)


def between(first: str, last: str, **seen: Any) -> Observation:
    """An observation of ten seconds from one page to another, of a server whose canary came back."""
    given: dict[str, Any] = {"health_status": 200, "canary": Beat(latency_s=0.02), **seen}
    return Observation(scrapes=(at(50, first, 1060), at(60, last, 1070)), **given)


def judge(seen: Observation, stalled_s: float = 8) -> Health:
    return examine(seen, THRESHOLDS, stalled_s=stalled_s)


def test_a_server_under_load_is_healthy_and_its_figures_are_of_the_window() -> None:
    health = judge(between(counts(steps=100, ok=1000), counts(steps=200, running=3, waiting=1, ok=1040, slow=1)))
    assert (health.status, health.reasons, health.notes) == ("healthy", (), ())
    found = health.document()
    assert (found["uptime_s"], found["window_s"], found["model"]) == (70, 10, "m")
    assert found["requests"] == {
        "total": 1040,
        "successful": 1040,
        "failed": 0,
        "aborted": 0,
        "qps": 4.0,
        "window": {"finished": 40, "successful": 40, "failed": 0, "aborted": 0, "http_5xx": 0},
    }
    assert found["engine"] == {"running": 3, "waiting": 1, "iterations_per_s": 10.0}
    # 39 of 1 s and one of 7 s; the 38th is the p95, and for a p99 there are too few.
    assert found["latency"]["e2e"] == {
        "count": 40,
        "mean_s": 1.15,
        "p50_more_than_s": 0.0,
        "p50_at_most_s": 1.0,
        "p95_more_than_s": 0.0,
        "p95_at_most_s": 1.0,
    }


def test_what_is_not_known_is_absent() -> None:
    assert figures(Observation()) == {}
    found = figures(Observation(scrapes=(at(0, "a 1\n"),)))
    assert found == {"window_s": 0}


HUNG = counts(steps=7, running=2, waiting=1)
CASES: dict[str, tuple[Observation, str, str]] = {
    "down": (
        Observation(metrics_problem="no connection (refused)", health_problem="no connection (refused)"),
        "unhealthy",
        "The server does not answer: no connection (refused).",
    ),
    "engine failed": (
        between(counts(), counts(), health_status=503),
        "unhealthy",
        "/health answers HTTP 503: the engine has failed.",
    ),
    "html for metrics": (
        Observation(metrics_problem="an HTML page", health_status=200, canary=Beat(latency_s=1)),
        "degraded",
        "/metrics cannot be read: an HTML page.",
    ),
    "hangs with work": (
        between(HUNG, HUNG, canary=None),
        "unhealthy",
        "Engine 0 hangs: 2 requests running and 1 waiting, and no step in the last 10 s.",
    ),
    "hangs while idle": (
        between(counts(steps=7), counts(steps=7), canary=Beat(failed="late", reason="no token within 5 s")),
        "unhealthy",
        "A request for one token was not answered (no token within 5 s), and the engine did no step meanwhile.",
    ),
    "overloaded": (
        between(counts(steps=7), counts(steps=9), canary=Beat(failed="late", reason="no token within 5 s")),
        "degraded",
        "A request for one token was not answered (no token within 5 s), though the engine works: overloaded.",
    ),
    "canary fails": (
        between(counts(), counts(), canary=Beat(failed="error", reason="HTTP 500: no")),
        "unhealthy",
        "A request for one token failed: HTTP 500: no.",
    ),
    "most fail": (
        between(counts(ok=90, error=10), counts(ok=94, error=16)),
        "unhealthy",
        "6 of 10 requests failed in the last 10 s.",
    ),
    "one in fifty fails": (
        between(counts(ok=1), counts(ok=50, error=1)),
        "degraded",
        "1 of 50 requests failed in the last 10 s.",
    ),
    "answers of 5xx": (
        between(counts(ok=1), counts(ok=9, more='http_requests_total{handler="/v1/completions",status="5xx"} 2')),
        "degraded",
        "2 of 8 requests failed in the last 10 s.",
    ),
    "slow": (
        between(counts(ok=100), counts(ok=110, slow=2)),
        "degraded",
        "20% of 10 requests took more than 5 s (at most 5% should).",
    ),
    "turned away": (
        between(counts(ok=1), counts(ok=9, more='vllm:admission_rejections_total{reason="x"} 3')),
        "degraded",
        "3 requests were turned away: the queue is at its limit.",
    ),
    "queue": (
        between(counts(waiting=30), counts(steps=5, waiting=25)),
        "degraded",
        "25 requests or more were waiting all the time.",
    ),
    "KV cache": (
        between(
            counts(),
            counts(more=f"vllm:kv_cache_usage_perc{{{ENGINE}}} 0.97\nvllm:num_preemptions_total{{{ENGINE}}} 4"),
        ),
        "degraded",
        "The KV cache is 97% full, and 4 requests lost their place in it.",
    ),
    "sleeps": (
        between(counts(), counts(more='vllm:engine_sleep_state{sleep_state="awake"} 0')),
        "degraded",
        "The engine sleeps: it answers nothing until it is woken (POST /wake_up).",
    ),
    "restarted": (
        between(counts(ok=10).replace("1000", "900", 1), counts(ok=3)),
        "degraded",
        "The server restarted within the last 10 s.",
    ),
    "hot": (
        between(counts(), counts(), gpus=[Gpu("0", readings={"temperature_celsius": 91.0})]),
        "degraded",
        "GPU 0 is at 91 °C (limit 85 °C).",
    ),
    "throttled": (
        between(counts(), counts(), gpus=[Gpu("1", throttled_ratio=0.4)]),
        "degraded",
        "Heat slowed GPU 1 down for 40% of the time.",
    ),
    "lost GPU": (
        between(counts(), counts(), gpus=[Gpu("0", up=False)]),
        "degraded",
        "GPU 0 is lost or does not answer.",
    ),
    "says so itself": (
        between(counts(), counts(), health_body={"status": "unhealthy", "reasons": ["The engine hangs."]}),
        "unhealthy",
        "Its own /health says: The engine hangs.",
    ),
    "silent inside": (
        Observation(engine_silence_s=13, requests_in_work=4),
        "unhealthy",
        "The engine hangs: no sign of life for 13 s, with 4 requests in work.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_has_its_reason(case: str) -> None:
    seen, status, reason = CASES[case]
    health = judge(seen)
    assert (health.status, [one.text for one in health.reasons]) == (status, [reason])


def test_an_old_fault_is_forgotten() -> None:
    page_of_failures = counts(ok=10, error=500, slow=400)
    assert judge(between(page_of_failures, page_of_failures)).status == "healthy"


def test_few_requests_are_no_share() -> None:
    assert judge(between(counts(ok=1), counts(ok=4, slow=3))).status == "healthy"


def test_an_aborted_request_is_no_failure() -> None:
    assert judge(between(counts(ok=1), counts(ok=2, abort=30))).status == "healthy"


NOTES: list[tuple[Callable[[Observation], Observation], str]] = [
    (lambda seen: replace(seen, canary=Beat(failed="refused", reason="HTTP 401")), "The canary was refused (HTTP 401)"),
    (lambda seen: replace(seen, health_status=404), "/health answers HTTP 404"),
    (lambda seen: replace(seen, clock_skew_s=-90.0), "The server's clock is 90 s behind"),
    (lambda seen: replace(seen, gpu_problem="NVML hangs"), "GPUs: NVML hangs."),
    (lambda seen: replace(seen, scrapes=(at(0, "a 1\n"), at(9, "a 1\n"))), "The page has no count of engine steps"),
    (
        lambda seen: replace(
            seen, scrapes=tuple(at(i, f"process_start_time_seconds {s}\n") for i, s in enumerate((9, 1)))
        ),
        "The address leads to several servers",
    ),
    (lambda seen: replace(seen, gpus=[Gpu("0", readings={"utilization_ratio": 0.99})]), "GPU 0 is fully used"),
]


@pytest.mark.parametrize(("change", "words"), NOTES)
def test_what_is_no_fault_is_a_note(change: Callable[[Observation], Observation], words: str) -> None:
    health = judge(change(between(counts(ok=1), counts(ok=9))))
    assert health.status == "healthy"
    assert any(note.startswith(words) for note in health.notes), health.notes


def test_the_page_shows_the_verdict_the_bounds_and_the_gpu() -> None:
    gpu = Gpu(
        "0", "Fake 9000", readings={"memory_used_bytes": 2**31, "memory_total_bytes": 2**34, "power_watts": 300.0}
    )
    health = judge(between(counts(ok=1000), counts(steps=9, ok=1110, slow=30), gpus=[gpu]))
    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(printout.page({"server": "http://a:1", **health.document()}))
    text = console.export_text()
    for words in (
        "DEGRADED",
        "http://a:1",
        "✗ 27% of 110",
        "≤ 1 s",
        "5 to 10 s",
        "110 requests in 10 s (11/s)",
        "Fake 9000",
        "2.0 of 16 GiB",
    ):
        assert words in text, text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.00034, "340 µs"),
        (0.021, "21 ms"),
        (1.25, "1.25 s"),
        (119, "119 s"),
        (180, "3 min"),
        (7300, "2.03 h"),
        (400000, "5 days"),
    ],
)
def test_durations_are_readable(value: float, words: str) -> None:
    assert printout.seconds(value) == words
