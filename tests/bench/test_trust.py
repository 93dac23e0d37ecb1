"""Reconciliation and validity: a measurement that cannot be believed is called invalid, with the reason."""

import json
from typing import Any

import pyarrow as pa
import pytest
from test_stats import request, rows

from bench.run.reconcile import Total, reconcile
from bench.run.stats.summary import summarise
from bench.run.validity import validity

CLOSED = {"kind": "closed", "concurrency": 1, "requests": 2, "seconds": None}
OPEN = {"kind": "open", "concurrency": None, "rate_rps": 10.0, "seconds": 1.0, "max_in_flight": 4}


def page(**values: float) -> Total:
    """A /metrics page: series by name, a bucket by name and its bound (`…_bucket_1`)."""

    def total(name: str, le: str | None = None) -> float | None:
        bound = "" if le is None else f"_{float(le):g}"
        return values.get(name.removeprefix("vllm:") + bound)

    return total


def two_requests(**more: Any) -> pa.Table:
    counted = {"reads": 100, "coalesced_reads": 0, "clock": "read", **more}
    first = request(0.0, [0.10, 0.2, 0.3], headers_s=0.001, **counted)
    return rows(first, request(0.3, [0.42, 0.5, 0.6], headers_s=0.303, **counted))


BEFORE = page(
    generation_tokens_total=100, prompt_tokens_total=50, time_to_first_token_seconds_sum=9.0,
    time_to_first_token_seconds_count=90, e2e_request_latency_seconds_sum=1.0, e2e_request_latency_seconds_count=90,
    request_generation_tokens_bucket_1=7,
)  # fmt: skip


def after(**changes: float) -> Total:
    # client's mean TTFT: (0.10 + 0.12) / 2 = 0.11; the server's: 0.212 / 2 = 0.106
    return page(**{
        "generation_tokens_total": 106, "prompt_tokens_total": 70, "time_to_first_token_seconds_sum": 9.212,
        "time_to_first_token_seconds_count": 92, "e2e_request_latency_seconds_sum": 1.59,
        "e2e_request_latency_seconds_count": 92, "request_generation_tokens_bucket_1": 7, **changes,
    })  # fmt: skip


def judged(table: pa.Table, load: dict[str, Any], before: Total | None, later: Total | None) -> dict[str, Any]:
    return validity(table, load, summarise(table, load), reconcile(table, before, later))


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
        # the client's mean E2E is 0.3 s, the server's 0.28 s: 20 ms, of which the response head explains 2, limit 8.4
        (two_requests(), CLOSED, after(e2e_request_latency_seconds_sum=1.56), "mean E2E by 18.0 ms more"),
        (two_requests(coalesced_reads=2), CLOSED, after(), "2.0% of the reads"),
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
    assert [check["ok"] for check in verdict["checks"] if "server" in check["name"]] == [None] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_page_of_odd_numbers_ends_nothing(value: float) -> None:
    names = "generation_tokens_total prompt_tokens_total time_to_first_token_seconds_sum"
    more = "e2e_request_latency_seconds_count num_preemptions_total request_generation_tokens_bucket_1"
    for name in f"{names} {more}".split():
        found = reconcile(two_requests(), BEFORE, after(**{name: value}))
        json.dumps(validity(two_requests(), CLOSED, summarise(two_requests(), CLOSED), found))
        assert name != "generation_tokens_total" or found["exact"] is not True
        reconcile(two_requests(), after(**{name: value}), after())


def test_an_open_load_that_dropped_arrivals_is_invalid() -> None:
    table = rows(request(0.0, [0.1]), *({"outcome": "dropped", "scheduled_s": i / 10} for i in range(1, 5)))
    verdict = judged(table, OPEN, None, None)
    assert any("4 of 5 arrivals were not sent" in reason for reason in verdict["reasons"])


def test_lateness_of_an_open_load_is_held_against_its_gap() -> None:
    # 10 requests/s: a mean gap of 100 ms, of which 5 % are 5 ms; 8 ms late is too late, though under 20 ms
    late = rows(request(0.008, [0.1], scheduled_s=0.0), request(0.508, [0.6], scheduled_s=0.5))
    assert any("8.0 ms late" in reason for reason in judged(late, OPEN, None, None)["reasons"])
    # At 200 requests/s 5 % would be a quarter of a millisecond, which no client keeps: 5 ms are what counts.
    for late_s, is_said in ((0.004, False), (0.008, True)):
        late = rows(request(late_s, [0.1], scheduled_s=0.0), request(0.5 + late_s, [0.6], scheduled_s=0.5))
        reasons = judged(late, OPEN | {"rate_rps": 200}, None, None)["reasons"]
        assert any("limit 5.0 ms" in reason for reason in reasons) is is_said


def with_canaries(requests: int, prompt_tokens: int, **changes: float) -> Total:
    """The page after two requests of the load and some of one token, each answered in 50 ms."""
    more = {
        "generation_tokens_total": 106 + requests, "prompt_tokens_total": 70 + prompt_tokens,
        "time_to_first_token_seconds_sum": 9.212 + 0.05 * requests, "time_to_first_token_seconds_count": 92 + requests,
        "e2e_request_latency_seconds_sum": 1.59 + 0.05 * requests, "e2e_request_latency_seconds_count": 92 + requests,
        "request_generation_tokens_bucket_1": 7 + requests,
    }  # fmt: skip
    return after(**{**more, **changes})


def long_requests() -> pa.Table:
    """As `two_requests`, with prompts of 500 tokens: what a canary asks is little beside them."""
    return two_requests(prompt_tokens=500)


def test_canaries_beside_the_load_are_left_out() -> None:
    later = with_canaries(2, 4, prompt_tokens_total=1054)  # 50 before, 2 × 500 of the load, 2 × 2 of the canaries
    found = reconcile(long_requests(), BEFORE, later)
    assert found["beside"] == {"requests": 2, "output_tokens": 2, "prompt_tokens": 4}
    assert found["exact"] is True
    assert found["output_tokens"] == {"client": 6, "server": 6, "equal": True}
    assert found["prompt_tokens"] == {"client": 1000, "server": 1000, "equal": True}
    assert found["requests"] == {"client": 2, "server": 2, "equal": True}
    assert "2 requests of one token each (4 prompt tokens)" in found["notes"][0]
    # The server's TTFTs add up to 0.312 s. Each canary took between nothing and the load's longest TTFT, 0.12 s, so the
    # load's two took 0.072 to 0.312 s, 0.036 to 0.156 s each; the client's 0.11 s lies between.
    assert found["ttft_mean_s"]["server"] == pytest.approx((0.036 + 0.156) / 2)
    assert found["ttft_mean_s"]["unexplained"] == 0
    assert judged(long_requests(), CLOSED, BEFORE, later)["valid"]


@pytest.mark.parametrize(
    "changes",
    [
        {"generation_tokens_total": 118},  # ten tokens more: somebody asked for more than one
        {"request_generation_tokens_bucket_1": 8},  # two requests more, of which one had one token
        {"request_generation_tokens_bucket_1": 7 + 4},  # more of them than there are requests
        {"e2e_request_latency_seconds_count": 92},  # two tokens more, and no request that had them
        {"prompt_tokens_total": 1150},  # 100 prompt tokens more: a tenth of the load
    ],
)
def test_other_traffic_is_no_canary(changes: dict[str, float]) -> None:
    later = with_canaries(2, 4, **{"prompt_tokens_total": 1054, **changes})
    found = reconcile(long_requests(), BEFORE, later)
    assert found["beside"] is None
    assert found["exact"] is False
    assert not judged(long_requests(), CLOSED, BEFORE, later)["valid"]


def test_a_token_that_the_client_lost_is_no_canary() -> None:
    # One request more by the server, of one token: the client's own table says that it sent such a one.
    table = rows(*long_requests().to_pylist(), request(0.6, [0.7], prompt_tokens=1))
    found = reconcile(table, BEFORE, with_canaries(1, 1, prompt_tokens_total=1051, generation_tokens_total=108))
    assert found["beside"] is None
    assert found["exact"] is False


def test_a_client_that_stood_still_is_not_valid() -> None:
    table, metrics = two_requests(), summarise(two_requests(), CLOSED)
    agreement = reconcile(table, BEFORE, after())
    for client, words in (
        ({"longest_pause_s": 4.0, "paused_share": 0.01}, "stood still for 4.0 s"),
        ({"longest_pause_s": 0.2, "paused_share": 0.03}, "stood still for 3.0% of the time"),
        ({"clock_step_s": 1.5}, "clock was set by 1.5 s"),
        ({"clock_slew": 0.05}, "ran 5.00% too fast or too slow"),
        ({"paused_share": 0.03, "stolen_share": 0.02}, "host kept 2.0% of the processors' time from it."),
    ):
        verdict = validity(table, CLOSED, {**metrics, "client": client}, agreement)
        assert [reason for reason in verdict["reasons"] if words in reason]
    calm = {
        "longest_pause_s": 0.2,
        "paused_share": 0.01,
        "clock_step_s": 1e-6,
        "clock_slew": 0.0005,
        "stolen_share": 0.3,
    }
    assert validity(table, CLOSED, {**metrics, "client": calm}, agreement)["valid"]


def by_the_kernel(*late_us: int, **more: Any) -> pa.Table:
    """As `two_requests`, stamped by the kernel: how late each of the first one's reads was, none of the second's."""
    first, second = two_requests(**more).to_pylist()
    first |= {
        "clock": "kernel",
        "read_late_s": [late * 1e-6 for late in late_us],
        "late_reads": first["late_reads"] or 0,
    }
    return rows(first, second | {"clock": "kernel", "read_late_s": [0.0] * 100, "late_reads": 0})


def arrival_checks(table: pa.Table) -> dict[str, tuple[Any, Any]]:
    names = ("chunks read late", "read lateness p99", "coalesced reads")
    checks = judged(table, CLOSED, BEFORE, after())["checks"]
    return {check["name"]: (check["ok"], check["value"]) for check in checks if check["name"] in names}


def test_chunks_that_were_sent_together_do_not_invalidate_and_are_said() -> None:
    table = by_the_kernel(*[200] * 100, coalesced_reads=97)
    assert arrival_checks(table) == {
        "chunks read late": (True, 0.0), "read lateness p99": (True, pytest.approx(0.0002)),
    }  # fmt: skip
    assert summarise(table, CLOSED)["reads"]["together_share"] == 0.97
    assert judged(table, CLOSED, BEFORE, after())["valid"]


def test_chunks_that_a_late_client_found_together_invalidate() -> None:
    assert arrival_checks(by_the_kernel(*[200] * 100, coalesced_reads=2, late_reads=2))["chunks read late"] == (
        True,
        0.01,
    )
    table = by_the_kernel(*[200] * 100, coalesced_reads=5, late_reads=3)  # 3 of 200 reads
    assert arrival_checks(table)["chunks read late"] == (False, 0.015)
    assert any("1.5% of the reads held several chunks that had come one after the other" in reason
               for reason in judged(table, CLOSED, BEFORE, after())["reasons"])  # fmt: skip


def test_a_client_that_read_late_was_saturated() -> None:
    late = by_the_kernel(*[200] * 97, 30_000, 40_000, 50_000)
    # of 200 values in order the 198th is 30 ms and the 199th 40: the 99th percentile lies 0.01 of the way between
    assert arrival_checks(late)["read lateness p99"] == (False, pytest.approx(0.0301))
    assert any("30.1 ms late" in reason for reason in judged(late, CLOSED, BEFORE, after())["reasons"])
    assert summarise(late, CLOSED)["reads"]["late_s"]["max"] == pytest.approx(0.05)


def test_a_client_that_is_late_by_less_than_the_gap_reads_each_chunk_by_itself() -> None:
    slow = [request(10.0 * n, [10 * n + 0.1, 10 * n + 0.2, 10 * n + 0.3], headers_s=10 * n + 0.001) for n in range(3)]
    more = {"clock": "kernel", "reads": 3, "coalesced_reads": 0, "late_reads": 0, "read_late_s": [0.0, 0.04, 0.05]}
    assert arrival_checks(rows(*(each | more for each in slow)))["read lateness p99"] == (True, pytest.approx(0.05))


def test_a_cell_of_both_clocks_is_judged_by_both() -> None:
    stamped, unstamped = by_the_kernel(*[200] * 100).to_pylist()
    unstamped |= {"clock": "read", "read_late_s": None, "late_reads": None, "coalesced_reads": 3}
    table = rows(stamped, unstamped)
    assert arrival_checks(table)["coalesced reads"] == (False, 0.03)
    found = summarise(table, CLOSED)["reads"]
    assert (found["kernel_share"], found["late_share"], found["unknown_share"]) == (0.5, 0.0, 0.03)


def test_runs_from_before_clocks_were_recorded_are_judged_as_they_were() -> None:
    names = ("clock", "read_late_s", "late_reads")
    table = two_requests(coalesced_reads=3).drop_columns(list(names))
    summary = summarise(table, CLOSED)
    assert summary["reads"] is None
    checks = validity(table, CLOSED, summary, reconcile(table, BEFORE, after()))["checks"]
    assert [(c["value"], c["ok"]) for c in checks if c["name"] == "coalesced reads"] == [(0.03, False)]
    assert not [c for c in checks if "late" in c["name"] and c["name"] != "dispatch lateness p99"]


def test_a_check_says_something_only_when_it_fails() -> None:
    verdict = judged(two_requests(coalesced_reads=2), CLOSED, BEFORE, after())
    assert [check["name"] for check in verdict["checks"] if check["detail"]] == ["coalesced reads"]
