"""Every statistic on numbers worked out by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bench.run.records import SCHEMA
from bench.run.stats.distributions import distribution
from bench.run.stats.gaps import token_gaps
from bench.run.stats.summary import summarise
from bench.run.stats.window import cut_by_time, window


def rows(*requests: dict[str, Any]) -> pa.Table:
    full = [{"outcome": "ok", "request_id": str(i), **request} for i, request in enumerate(requests)]
    return pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in full], schema=SCHEMA)


def request(sent: float, chunks: list[float], tokens: list[int] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "scheduled_s": sent,
        "sent_s": sent,
        "first_token_s": chunks[0],
        "last_token_s": chunks[-1],
        "ended_s": chunks[-1],
        "chunk_s": chunks,
        "chunk_tokens": tokens if tokens is not None else [1] * len(chunks),
        "output_tokens": sum(tokens) if tokens is not None else len(chunks),
        "prompt_tokens": 10,
        **more,
    }


CLOSED_1 = {"kind": "closed", "concurrency": 1, "requests": 2, "seconds": None}


def test_ttft_tpot_and_e2e_of_two_requests() -> None:
    table = rows(request(0.0, [0.5, 0.6, 0.7, 0.8]), request(1.0, [1.3, 1.4, 1.5]))
    summary = summarise(table, CLOSED_1)
    assert summary["ttft_s"]["mean"] == pytest.approx((0.5 + 0.3) / 2)
    assert summary["tpot_s"]["mean"] == pytest.approx(0.1)
    assert summary["e2e_s"]["max"] == pytest.approx(0.8)
    assert summary["requests"] == {
        "total": 2,
        "ok": 2,
        "failed": 0,
        "dropped": 0,
        "aborted": 0,
        "by_outcome": {"ok": 2},
    }
    assert (summary["prompt_tokens"], summary["output_tokens"], summary["cached_tokens"]) == (20, 7, None)
    assert summary["ttft_from_schedule_s"] is None  # a closed loop has no schedule


def test_itl_spreads_a_chunks_gap_over_its_tokens() -> None:
    # 1 token, then 4 tokens after 40 ms, then 2 tokens after 30 ms: gaps 40 and 30 ms, ITL 4 × 10 and 2 × 15 ms
    gaps, itl = token_gaps(rows(request(0.0, [1.0, 1.04, 1.07], [1, 4, 2])))
    assert gaps == pytest.approx([0.04, 0.03])
    assert itl == pytest.approx([0.01] * 4 + [0.015] * 2)


def test_chunks_that_arrived_together_share_their_gap() -> None:
    # A token; 40 ms later three chunks in one read with 1, 2 and 1 tokens; 30 ms later one with 2.
    chunks, tokens = [1.0, 1.04, 1.04, 1.04, 1.07], [1, 1, 2, 1, 2]
    gaps, itl = token_gaps(rows(request(0.0, chunks, tokens), request(5.0, [6.0, 6.0, 6.1], [1, 1, 1])))
    assert gaps == pytest.approx([0.04, 0.03, 0.1])
    assert itl == pytest.approx([0.01] * 4 + [0.015] * 2 + [0.1])
    # a run from before clocks were recorded is read as it was then
    old = rows(request(0.0, chunks, tokens)).drop_columns(["clock"])
    assert token_gaps(old)[0] == pytest.approx([0.04, 0, 0, 0.03])


def test_tokens_of_chunks_that_arrived_together_count_in_the_window() -> None:
    table = rows(request(0.0, [1.0, 1.5, 1.5, 2.0], [1, 2, 3, 4]), request(0.1, [0.5, 3.0]))
    assert summarise(table, {**CLOSED_1, "seconds": 1.9})["output_throughput_tok_s"] == pytest.approx(7 / 1.9)


def test_gaps_do_not_cross_requests_and_failed_requests_have_none() -> None:
    table = rows(request(0.0, [1.0, 1.1]), request(5.0, [9.0]), request(6.0, [7.0, 7.5], outcome="timeout"))
    gaps, _ = token_gaps(table)
    assert gaps == pytest.approx([0.1])


def test_no_itl_when_the_server_does_not_count_tokens_per_chunk() -> None:
    table = rows(request(0.0, [1.0, 1.1, 1.2], output_tokens=9) | {"chunk_tokens": None})
    gaps, itl = token_gaps(table)
    assert gaps == pytest.approx([0.1, 0.1])
    assert itl is None
    assert summarise(table, CLOSED_1)["itl_s"] is None


def test_closed_window_is_the_time_that_all_users_are_busy() -> None:
    # Two users, four requests: sent at 0, 0.1, 2.0, 2.1 and ended at 2.0, 2.1, 4.0, 4.5. Both are busy from 0.1
    # (second user's first request) to 4.0 (the first end after which nothing is left to send).
    table = rows(request(0.0, [1.0, 2.0]), request(0.1, [1.0, 2.1]), request(2.0, [3.0, 4.0]), request(2.1, [3.0, 4.5]))
    load = {"kind": "closed", "concurrency": 2, "requests": 4, "seconds": None}
    assert window(table, load) == (0.1, 4.0)
    summary = summarise(table, load)
    # chunks inside (0.1, 4.0]: 1.0 2.0 1.0 2.1 3.0 4.0 3.0 → 7 tokens; 4.5 is outside
    assert summary["output_throughput_tok_s"] == pytest.approx(7 / 3.9)
    assert summary["request_throughput_rps"] == pytest.approx(3 / 3.9)
    assert summary["mean_in_flight"] == pytest.approx(2.0)


def test_a_load_with_requests_and_seconds_is_measured_to_whichever_ends_first() -> None:
    # two users; the last request but one ends at 4.0, and from then on only one user is busy
    table = rows(*(request(sent, [ended]) for sent, ended in ((0.0, 2.0), (0.1, 3.0), (2.0, 5.0), (3.0, 4.0))))
    load = {"kind": "closed", "concurrency": 2, "requests": 4}
    assert window(table, {**load, "seconds": 60.0}) == (0.1, 4.0)  # all were sent long before its time was over
    assert window(table, {**load, "requests": 9, "seconds": 3.5}) == (0.1, 3.5)  # all users were busy until then
    assert window(table, {**load, "requests": None, "seconds": 60.0}) == (0.1, 5.0)
    assert cut_by_time({**load, "requests": 9, "seconds": 3.5}, 4)
    assert not cut_by_time({**load, "seconds": 60.0}, 4)  # all were sent
    assert not cut_by_time({**load, "requests": None, "seconds": 60.0}, 4)  # nobody said how many
    assert not cut_by_time(load, 3)


def test_open_window_is_the_schedule_and_latency_counts_from_it() -> None:
    table = rows(request(1.5, [2.0], scheduled_s=1.0), request(9.0, [12.0], scheduled_s=9.0))
    load = {"kind": "open", "rate_rps": 0.2, "seconds": 10.0, "concurrency": None}
    summary = summarise(table, load, {"ttft_s": 0.9})
    assert summary["window_s"] == 10.0
    assert summary["ttft_from_schedule_s"]["min"] == pytest.approx(1.0)
    assert summary["ttft_s"]["min"] == pytest.approx(0.5)
    assert summary["output_throughput_tok_s"] == pytest.approx(0.1)  # the second one's token came after the window
    assert summary["goodput_rps"] == 0.0  # 0.5 s from sending, but 1.0 s from the schedule


def test_goodput_counts_requests_that_meet_every_limit() -> None:
    table = rows(request(0.0, [0.1, 0.2]), request(0.2, [0.7, 0.8]), request(0.8, [0.9, 2.0]), request(2.0, [2.1]))
    load = {"kind": "closed", "concurrency": 1, "requests": 4, "seconds": None}
    summary = summarise(table, load, {"ttft_s": 0.3, "tpot_s": 0.5})
    # 1st meets both; 2nd: TTFT 0.5; 3rd: TPOT 1.1; 4th: one token, so no TPOT to miss. Window: 0 to 2.1.
    assert summary["goodput_rps"] == pytest.approx(2 / 2.1)


def test_goodput_of_an_open_load_counts_what_was_due_and_not_what_had_ended() -> None:
    # Twelve requests, one every half second, each answered after 2 s: the last four end after the schedule does.
    table = rows(*(request(i / 2, [i / 2 + 0.2, i / 2 + 2.0]) for i in range(12)))
    load = {"kind": "open", "rate_rps": 2.0, "requests": 12, "seconds": None, "concurrency": None}
    summary = summarise(table, load, {"ttft_s": 0.5})
    assert summary["window_s"] == 5.5
    assert summary["goodput_rps"] == pytest.approx(11 / 5.5)  # two a second were offered, and two a second were good
    assert summary["request_throughput_rps"] == pytest.approx(8 / 5.5)  # answered within the schedule
    assert summarise(table, load, {"ttft_s": 0.1})["goodput_rps"] == 0.0
    # A limit on TPOT alone does not see a queue, so there the ends count.
    assert summarise(table, load, {"tpot_s": 9.0})["goodput_rps"] == pytest.approx(8 / 5.5)
    late = rows(*(request(i / 2, [i / 2 + 0.2 + i, i / 2 + 2.0 + i]) for i in range(12)))
    assert summarise(late, load, {"ttft_s": 0.5})["goodput_rps"] == pytest.approx(1 / 5.5)  # the queue is not good


@pytest.mark.parametrize(
    ("n", "present"),
    [
        (4, set()),
        (5, {"p50"}),
        (99, {"p50"}),
        (100, {"p50", "p90"}),
        (200, {"p50", "p90", "p95"}),
        (1000, {"p50", "p90", "p95", "p99"}),
    ],
)
def test_a_percentile_without_enough_samples_is_absent(n: int, present: set[str]) -> None:
    found = distribution(np.arange(float(n)))
    assert found is not None
    assert {name for name in found if name.startswith("p")} == present


def test_distribution_by_hand() -> None:
    found = distribution(np.array([4.0, 1.0, 3.0, 2.0, 5.0]))
    assert found == {"n": 5, "mean": 3.0, "min": 1.0, "max": 5.0, "sd": pytest.approx(2.5**0.5), "p50": 3.0}
    assert distribution(np.array([])) is None  # never 0


def test_nothing_measured_is_absent_not_zero() -> None:
    summary = summarise(SCHEMA.empty_table(), CLOSED_1, {"ttft_s": 1.0})
    assert summary["requests"]["total"] == 0
    for name in ("window_s", "output_throughput_tok_s", "goodput_rps", "ttft_s", "itl_s", "e2e_s", "output_tokens"):
        assert summary[name] is None


def test_row_groups_do_not_change_the_result() -> None:
    table = rows(*(request(float(i), [i + 0.5, i + 0.6, i + 0.8], [1, 2, 1]) for i in range(50)))
    load = {"kind": "closed", "concurrency": 1, "requests": 50, "seconds": None}
    pieces = pa.concat_tables([table.slice(start, 7) for start in range(0, 50, 7)])
    assert summarise(pieces, load) == summarise(table, load)
