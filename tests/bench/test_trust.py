"""Reconciliation and validity: a measurement that cannot be believed is called invalid, with the reason."""

from typing import Any

import pyarrow as pa
import pytest
from test_stats import request, rows

from bench.run import stats
from bench.run.reconcile import Total, reconcile
from bench.run.validity import validity

CLOSED = {"kind": "closed", "concurrency": 1, "requests": 2, "seconds": None}
OPEN = {"kind": "open", "concurrency": None, "rate_rps": 10.0, "seconds": 1.0, "max_in_flight": 4}


def page(**values: float) -> Total:
    return lambda name: values.get(name.removeprefix("vllm:"))


def two_requests(**more: Any) -> pa.Table:
    counted = {"reads": 100, "coalesced_reads": 0, **more}
    first = request(0.0, [0.10, 0.2, 0.3], headers_s=0.001, **counted)
    return rows(first, request(0.3, [0.42, 0.5, 0.6], headers_s=0.303, **counted))


BEFORE = page(
    generation_tokens_total=100, prompt_tokens_total=50, time_to_first_token_seconds_sum=9.0,
    time_to_first_token_seconds_count=90, e2e_request_latency_seconds_sum=1.0, e2e_request_latency_seconds_count=90,
)  # fmt: skip


def after(**changes: float) -> Total:
    # client's mean TTFT: (0.10 + 0.12) / 2 = 0.11; the server's: 0.212 / 2 = 0.106
    return page(**{
        "generation_tokens_total": 106, "prompt_tokens_total": 70, "time_to_first_token_seconds_sum": 9.212,
        "time_to_first_token_seconds_count": 92, "e2e_request_latency_seconds_sum": 1.59,
        "e2e_request_latency_seconds_count": 92, **changes,
    })  # fmt: skip


def judged(table: pa.Table, load: dict[str, Any], before: Total | None, later: Total | None) -> dict[str, Any]:
    return validity(table, load, stats.summarise(table, load), reconcile(table, before, later))


def test_counters_that_agree_make_a_valid_cell() -> None:
    found = reconcile(two_requests(), BEFORE, after())
    assert found["exact"] is True
    assert found["output_tokens"] == {"client": 6, "server": 6, "equal": True}
    assert found["prompt_tokens"]["equal"] and found["requests"]["equal"]
    assert found["ttft_mean_s"]["difference"] == pytest.approx(0.004)
    assert found["ttft_mean_s"]["to_head"] == pytest.approx(0.002)
    assert found["ttft_mean_s"]["unexplained"] == pytest.approx(0.002)
    assert found["ttft_mean_s"]["tolerance"] == 0.005
    assert judged(two_requests(), CLOSED, BEFORE, after())["valid"]


@pytest.mark.parametrize(
    ("table", "load", "later", "reason"),
    [
        (two_requests(), CLOSED, after(generation_tokens_total=107), "6 against 7"),
        # the server says 0.1 s where the client saw 0.11: 10 ms, of which the response head explains 2
        (two_requests(), CLOSED, after(time_to_first_token_seconds_sum=9.2), "mean TTFT by 8.0 ms more"),
        # the server cannot have seen the token later than the client: here it says 0.12 s
        (two_requests(), CLOSED, after(time_to_first_token_seconds_sum=9.24), "mean TTFT by 10.0 ms more"),
        (two_requests(coalesced_reads=2), CLOSED, after(), "2.0% of its reads"),
        (two_requests(scheduled_s=-0.05), CLOSED, after(), "left it"),
        (two_requests(), {**CLOSED, "concurrency": 2}, after(), "instead of 2"),
    ],
)
def test_each_disagreement_invalidates_and_says_why(
    table: pa.Table, load: dict[str, Any], later: Total, reason: str
) -> None:
    verdict = judged(table, load, BEFORE, later)
    assert not verdict["valid"]
    assert any(reason in sentence for sentence in verdict["reasons"]), verdict["reasons"]


def test_what_a_failed_request_generated_is_not_guessed() -> None:
    table = rows(request(0.0, [0.1, 0.2]), request(0.2, [0.3], outcome="aborted"))
    found = reconcile(table, BEFORE, after(generation_tokens_total=103))
    assert found["exact"] is None
    assert found["unfinished_requests"] == 1
    assert "1 requests did not end well" in found["notes"][0]
    assert not judged(table, CLOSED, BEFORE, after())["valid"]  # half of the requests failed


def test_a_reset_counter_or_a_silent_server_is_said_not_compared() -> None:
    assert reconcile(two_requests(), None, None)["exact"] is None
    restarted = reconcile(two_requests(), BEFORE, page(generation_tokens_total=6))
    assert restarted["exact"] is None
    assert restarted["output_tokens"]["server"] is None
    verdict = judged(two_requests(), CLOSED, None, None)
    assert verdict["valid"]
    assert [check["ok"] for check in verdict["checks"] if "server" in check["name"]] == [None, None]


def test_an_open_load_that_dropped_arrivals_is_invalid() -> None:
    table = rows(request(0.0, [0.1]), *({"outcome": "dropped", "scheduled_s": i / 10} for i in range(1, 5)))
    verdict = judged(table, OPEN, None, None)
    assert any("4 of 5 arrivals were not sent" in reason for reason in verdict["reasons"])


def test_lateness_of_an_open_load_is_held_against_its_gap() -> None:
    # 10 requests/s: a mean gap of 100 ms, of which 5 % are 5 ms; 8 ms late is too late, though under 20 ms
    late = rows(request(0.008, [0.1], scheduled_s=0.0), request(0.508, [0.6], scheduled_s=0.5))
    assert any("8.0 ms late" in reason for reason in judged(late, OPEN, None, None)["reasons"])
