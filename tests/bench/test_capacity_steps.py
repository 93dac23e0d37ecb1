"""The levels of a search for a capacity, by verdicts that a function gives, and the answer that follows from them."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity.answer import Measured, answer, knee
from bench.capacity.estimate import estimate
from bench.capacity.judging import Judged
from bench.capacity.size import Floor
from bench.capacity.steps import MOST_POINTS, TRIES, Point, Search, Stop, informative, next_level

RATE = Search(start=8.0, least=0.5, precision=0.05)


def walk(search: Search, verdict: Any) -> tuple[list[Point], Stop]:
    """All points of a search whose verdicts are given by a function of the level and its number."""
    points: list[Point] = []
    while not isinstance(level := next_level(search, points), Stop):
        points.append(Point(level, verdict(level, len(points))))
    return points, level


def limited(capacity: float) -> Any:
    return lambda level, _: "pass" if level <= capacity else "fail"


@settings(max_examples=30, deadline=None)
@given(st.floats(0.6, 5000.0), st.floats(0.5, 500.0))
def test_without_noise_the_interval_holds_the_capacity(capacity: float, start: float) -> None:
    points, end = walk(replace(RATE, start=start), limited(capacity))
    found = estimate([(point.level, point.verdict == "pass") for point in points])
    assert end == Stop("found")
    assert found.precision <= 0.05
    assert found.low <= capacity <= found.high
    assert found.value == pytest.approx(capacity, rel=0.05)
    assert len(points) < 30


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 64))
def test_whole_levels_are_searched_to_the_level_or_to_the_precision(capacity: int, start: int) -> None:
    points, end = walk(Search(start, 1.0, 0.05, whole=True), limited(capacity))
    found = estimate([(point.level, point.verdict == "pass") for point in points])
    assert end == Stop("found")
    assert all(point.level == int(point.level) >= 1 for point in points)
    assert found.low <= capacity + 1 and capacity <= found.high
    assert capacity <= found.value < capacity + 1 or found.precision <= 0.05
    assert len(points) < 40


def test_it_doubles_until_something_fails_then_goes_where_the_capacity_most_likely_is() -> None:
    points, _ = walk(RATE, limited(100.0))
    assert [point.level for point in points[:6]] == [8.0, 16.0, 32.0, 64.0, 128.0, pytest.approx(90, rel=0.02)]
    points, _ = walk(RATE, limited(1.3))
    assert [point.level for point in points[:4]] == [8.0, 4.0, 2.0, 1.0]


def test_what_nothing_meets_is_said_at_the_least_level() -> None:
    points, end = walk(RATE, lambda *_: "fail")
    assert end == Stop("nothing")
    assert [point.level for point in points] == [8.0, 4.0, 2.0, 1.0, 0.5]


def test_a_level_that_the_client_cannot_deliver_bounds_the_search_and_is_no_fail() -> None:
    points, end = walk(RATE, lambda level, _: "pass" if level < 50 else "invalid")
    assert end == Stop("client")
    assert [p.level for p in points if p.verdict == "invalid"][:TRIES] == [64.0] * TRIES
    highest = max(p.level for p in points if p.verdict == "pass")
    assert 45 < highest < 50
    assert answer("rate", [made(p.level, p.verdict) for p in points], None, "client")["high"] is None


def test_a_level_that_is_never_to_be_believed_ends_the_search_below_a_known_one() -> None:
    _, end = walk(RATE, lambda level, _: "invalid" if 20 < level < 30 else "pass" if level < 25 else "fail")
    assert end == Stop("invalid")
    _, end = walk(RATE, lambda *_: "invalid")
    assert end == Stop("invalid")


def test_an_invalid_point_is_measured_again_and_then_forgotten() -> None:
    points, end = walk(RATE, lambda level, n: "invalid" if n == 3 else limited(100.0)(level, n))
    assert end == Stop("found")
    assert points[3].level == points[4].level == 64.0


def test_a_server_that_dies_twice_at_a_level_fails_there() -> None:
    points, end = walk(RATE, lambda level, _: "died" if level > 100 else "pass")
    assert end == Stop("found")
    assert [p.level for p in points].count(128.0) == 2
    assert estimate(informative(points)).value == pytest.approx(100, rel=0.05)


def test_one_wrong_verdict_is_overruled() -> None:
    # fails at 16, of which the server carries six times as many: a hiccup of the machine
    points, end = walk(RATE, lambda level, n: "fail" if n == 1 else limited(100.0)(level, n))
    found = estimate([(point.level, point.verdict == "pass") for point in points])
    assert end == Stop("found")
    assert found.low <= 100 <= found.high


def test_verdicts_that_never_settle_end_somewhere() -> None:
    points, end = walk(RATE, lambda _, n: "pass" if n % 2 else "fail")
    assert end in (Stop("points"), Stop("found"))
    assert len(points) <= MOST_POINTS


def test_more_of_the_same_makes_the_interval_narrow_and_contradiction_makes_it_wide() -> None:
    once = estimate([(90.0, True), (110.0, False)])
    thrice = estimate([(90.0, True), (110.0, False)] * 3)
    against = estimate([(90.0, True), (110.0, False)] * 3 + [(90.0, False), (110.0, True)])
    assert once.value == pytest.approx(math.sqrt(90 * 110), rel=0.01)
    assert thrice.precision < 0.6 * once.precision
    assert thrice.precision < against.precision


def made(level: float, verdict: Any, ttft_s: float = 0.05, missed: tuple[str, ...] = ()) -> Measured:
    missed = missed or (("ttft_p95",) if verdict == "fail" else ())
    return Measured(f"c{level:g}", level, Judged(verdict, "", {}, missed, 0.0, 300, level, ttft_s, 1.0))


def test_the_answer_names_what_limits_and_where_latency_leaves_its_floor() -> None:
    points = [
        made(10, "pass"), made(20, "pass", 0.08), made(40, "fail", 3.0, ("errors", "ttft_p95")), made(28, "pass", 0.2),
        made(33, "fail", 0.6), made(30, "pass", 0.4), made(31, "fail", 0.5), made(31, "invalid", 9.0),
    ]  # fmt: skip
    found = answer("rate", points, Floor(0.05, 1.0), "found")
    assert found["low"] < 30 < found["value"] < 31 < found["high"]
    assert found["limiting"] == ["ttft_p95"]  # errors only far above
    assert (found["goodput_at"], found["goodput_rps"]) == (30, 30)
    assert knee(points, Floor(0.05, 1.0)) == {
        "figure": "ttft_p50", "floor_s": 0.05, "times": 2.0, "low": 20, "high": 28,
    }  # fmt: skip
    assert knee(points[:2], Floor(0.05, 1.0)) is None
