"""The time to the first token taken apart, with hand-worked values."""

from typing import Any

import pyarrow as pa
import pytest

from bench.run.records import SCHEMA
from bench.run.stats.growth import Total, delta, totals
from bench.run.stats.ttft_parts import PARTS, ttft_parts


def request(
    due_s: float, *, late_s: float = 0.01, connect_s: float | None = None, ttft_s: float = 0.5
) -> dict[str, Any]:
    """Due at `due_s`, left `late_s` later, and was sent when its connection was open."""
    sent = due_s + late_s + (connect_s or 0.0)
    row = dict.fromkeys(SCHEMA.names) | {"outcome": "ok", "scheduled_s": due_s, "sent_s": sent, "connect_s": connect_s}
    return row | {"first_token_s": sent + ttft_s, "last_token_s": sent + 1, "ended_s": sent + 1, "output_tokens": 2}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def page(**histograms: tuple[float, int]) -> Total:
    """A metrics page with the sums and counts of vLLM's histograms, and of a second engine that did nothing."""
    lines = []
    for name, (total, count) in histograms.items():
        lines.append(f"# TYPE vllm:{name} histogram")
        for end, value in (("sum", total), ("count", count)):
            lines += [f'vllm:{name}_{end}{{engine="0"}} {value}', f'vllm:{name}_{end}{{engine="1"}} 0']
    found = totals("\n".join(lines) + "\n")
    assert found is not None
    return found


def server(ttft: tuple[float, int], queue: tuple[float, int], prefill: tuple[float, int]) -> Total:
    return page(
        time_to_first_token_seconds=ttft, request_queue_time_seconds=queue, request_prefill_time_seconds=prefill
    )


BEFORE = server((10.0, 5), (1.0, 5), (4.0, 5))
TWO = table(request(0.0, connect_s=0.004), request(2.0, late_s=0.03))


def test_parts_add_up_to_the_time_from_due_to_first_token() -> None:
    # Two requests: TTFT 0.5 each by the client; the server's own mean is 0.45, of it 0.2 queue and 0.22 prefill.
    found = ttft_parts(TWO, BEFORE, server((10.9, 7), (1.4, 7), (4.44, 7)))
    assert found is not None
    expected = {"client_s": 0.02, "connect_s": 0.002, "network_s": 0.05, "server_s": 0.03, "queue_s": 0.2}
    expected |= {"prefill_s": 0.22}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["n"] == 2
    assert found["total_s"] == pytest.approx(sum(expected.values())) == pytest.approx(0.522)
    assert (found["undivided_s"], found["unknown"], found["note"], found["below_zero"]) == (None, None, None, [])


def test_a_server_without_a_page_leaves_its_parts_absent_with_the_reason() -> None:
    found = ttft_parts(TWO, None, None)
    assert found is not None
    assert [found[name] for name in PARTS[2:-1]] == [None] * 4
    assert found["undivided_s"] == pytest.approx(0.5)
    assert found["unknown"] == "there is no /metrics page of the server"
    assert found["total_s"] == pytest.approx(found["client_s"] + found["connect_s"] + found["undivided_s"])


def test_a_server_with_a_ttft_and_nothing_inside_keeps_it_whole() -> None:
    after = page(time_to_first_token_seconds=(10.9, 7))
    found = ttft_parts(TWO, page(time_to_first_token_seconds=(10.0, 5)), after)
    assert found is not None
    assert found["network_s"] == pytest.approx(0.05)
    assert found["server_s"] == pytest.approx(0.45)
    assert (found["queue_s"], found["prefill_s"], found["undivided_s"]) == (None, None, None)
    assert "no histogram vllm:request_queue_time_seconds" in found["unknown"]


def test_histograms_of_other_requests_are_not_held_against_ours() -> None:
    after = server((12.0, 9), (1.4, 9), (4.44, 9))  # four requests, of which we sent two
    found = ttft_parts(TWO, BEFORE, after)
    assert found is not None
    assert found["network_s"] is None
    assert "holds 4 requests and the client 2 answers" in found["unknown"]


def test_one_request_more_among_many_is_noted() -> None:
    many = table(*(request(float(at)) for at in range(200)))
    after = server((10.0 + 201 * 0.45, 206), (1.0 + 200 * 0.1, 205), (4.0 + 200 * 0.3, 205))
    found = ttft_parts(many, BEFORE, after)
    assert found is not None
    assert found["network_s"] == pytest.approx(0.05)
    assert (
        found["note"]
        == "the server's histogram vllm:time_to_first_token_seconds holds 201 requests, the client 200 answers"
    )


def test_a_negative_rest_is_said_and_kept() -> None:
    found = ttft_parts(
        TWO, BEFORE, server((11.2, 7), (1.4, 7), (4.44, 7))
    )  # the server's mean: 0.6, above the client's 0.5
    assert found is not None
    assert found["network_s"] == pytest.approx(-0.1)
    assert found["below_zero"] == ["network_s"]
    within = ttft_parts(TWO, BEFORE, server((11.0001, 7), (1.4, 7), (4.44, 7)))  # 0.05 ms: rounding
    assert within is not None
    assert within["below_zero"] == []


def test_a_counter_that_was_reset_tells_nothing() -> None:
    found = ttft_parts(TWO, BEFORE, server((0.9, 2), (0.4, 2), (0.44, 2)))
    assert found is not None
    assert (
        found["unknown"]
        == "the server's /metrics page has no histogram vllm:time_to_first_token_seconds that only grew"
    )
    assert delta(BEFORE, BEFORE, "vllm:nothing_total") is None


def test_without_a_first_token_there_is_nothing_to_take_apart() -> None:
    whole = request(0.0) | {"first_token_s": None, "output_tokens": None}
    failed = request(0.0) | {"outcome": "timeout", "first_token_s": None}
    assert ttft_parts(table(whole), BEFORE, BEFORE) is None
    assert ttft_parts(table(failed), BEFORE, BEFORE) is None
    assert ttft_parts(table(), BEFORE, BEFORE) is None
