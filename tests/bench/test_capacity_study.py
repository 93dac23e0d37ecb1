"""What the study of searches counts, by hand; and that the simulated half of it says what it means."""

from typing import Any

import pytest

from bench.studies.capacity.page import page, summary
from bench.studies.capacity.simulated import Server, half_rps, plan_of, task_of


def made(value: float | None, low: float = 38.0, high: float = 42.0, **more: Any) -> dict[str, Any]:
    points = [{"level": 45.0, "verdict": "invalid", "why": ""}, {"level": 45.0, "verdict": "fail", "why": ""}]
    answer = {"ended": "found", "value": value, "low": low, "high": high, "took_s": 100.0, "points": points}
    return {"arrival": "constant", "limit_rps": 40.0, **answer, **more}


def test_searches_are_counted_by_how_near_they_came_and_none_is_left_out() -> None:
    searches = [made(40.0), made(41.9), made(42.1), made(37.0, 35.0, 39.0), made(None, ended="time", took_s=300.0)]
    (row,) = summary(searches)
    assert (row["searches"], row["ended_found"], row["near"], row["holds"]) == (5, 4, 2, 3)
    assert (row["median_rps"], row["took_s"], row["points"], row["invalid"]) == (40.95, 100.0, 10, 5)
    text = page({"slo": "ttft_p95<0.5", "server": ["ttft_s=0.05"], "searches": searches})
    assert "| constant | 40 | 5 | 4 | 2 | 3 | 41.0 | 37.0 to 42.1 | 100 | 10 | 5 |" in text


def test_half_of_the_points_pass_a_little_above_the_limit_when_gaps_are_equal() -> None:
    # a rate too high by x makes the wait grow by x: after 95 % of 18 s it is beyond the 450 ms that are left at 2.6 %
    task = task_of(plan_of({"slo": "ttft_p95<0.5", "arrival": "constant"}))
    assert half_rps(task, Server(40.0, noise=0.0), 1) == pytest.approx(40 * (1 + 0.45 / (0.95 * 18)), rel=0.015)
