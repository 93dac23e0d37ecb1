"""The search for a capacity by itself: simulated servers, hand-worked points, noise with seeds."""

import copy
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity import search
from bench.capacity.answer import Measured, answer, knee
from bench.capacity.estimate import estimate
from bench.capacity.hopeless import Hopeless
from bench.capacity.judging import Judged, enough_beyond, judge
from bench.capacity.size import Floor, bounds_queue, least_requests, least_seconds, search_of, size
from bench.capacity.steps import MOST_POINTS, TRIES, Point, Search, Stop, informative, next_level
from bench.capacity.task import require_objective
from bench.capacity.warmup import warm_up
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.run.records import SCHEMA
from bench.run.slo import Condition, parse
from bench.run.validity import ARRIVALS_NOT_SENT
from bench.studies.capacity.simulated import VALID, Json, Server, carry_out, measured, plan_of, task_of

SLO = "ttft_p95<0.5,errors<0.01"
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


def test_warm_up_is_cut_where_the_rest_is_steadiest() -> None:
    rng = np.random.default_rng(3)
    steady = 1.0 + 0.05 * rng.standard_normal(400)
    rising = np.concatenate([np.linspace(0.2, 1.0, 60), steady[60:]])
    assert warm_up(steady) <= 100
    assert 40 <= warm_up(rising) <= 100
    assert warm_up(np.linspace(0.1, 5.0, 400)) == 100  # never steady: a quarter, and the later part counts
    assert warm_up(rising[:35]) == 0  # too short for a judgement


def test_warm_up_by_hand() -> None:
    # batch means 9, 1, 1, 1, 1, 1, 1, 1: without the first the standard error of the rest is 0
    assert warm_up(np.array([9.0] * 5 + [1.0] * 35)) == 5
    assert warm_up(np.ones(40)) == 0


def requests(latencies_s: list[float], *, failed: int = 0, dropped: int = 0) -> pa.Table:
    """Ten requests a second, with these times to the first token and 10 ms for the nine tokens after it."""
    rows = []
    lost = {**dict.fromkeys(range(failed), "http_error"), **dict.fromkeys(range(failed, failed + dropped), "dropped")}
    for index, late in enumerate(latencies_s):
        at = index / 10
        row: Json = dict.fromkeys(SCHEMA.names) | {"scheduled_s": at, "chunk_s": [], "outcome": lost.get(index, "ok")}
        if index not in lost:
            row |= {
                "sent_s": at,
                "first_token_s": at + late,
                "last_token_s": at + late + 0.09,
                "ended_s": at + late + 0.1,
            }
            row |= {"output_tokens": 10, "tokens_after_first": 9.0}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def point(count: int, **more: Any) -> Json:
    load = Load(kind="open", rate_rps=10.0, requests=count).model_dump(mode="json")
    return {"outcome": "ok", "reason": None, "load": load, "validity": VALID, **more}


def test_a_point_passes_by_its_figures_after_the_warm_up() -> None:
    late = [0.9] * 5 + [0.05] * 260
    found = judge(point(265), requests(late), parse("ttft_p95<0.5,tpot_p95<0.02"), {"ttft_s": 0.5})
    assert (found.verdict, found.missed, found.cut_s, found.requests) == ("pass", (), 0.5, 260)
    assert found.figures == {"ttft_p95": pytest.approx(0.05), "tpot_p95": pytest.approx(0.01)}
    assert found.goodput_rps == pytest.approx(10)  # all that were due in the window, also those answered after it
    assert found.ttft_p50_s == pytest.approx(0.05)


def test_a_short_point_that_is_carried_has_the_goodput_of_its_level() -> None:
    # 25 requests at ten a second, each answered after 0.6 s: six are still under way when the schedule ends.
    slow = judge(point(25), requests([0.5] * 25), parse("ttft_p50<1"), {"ttft_s": 1.0})
    assert (slow.verdict, slow.goodput_rps) == ("pass", pytest.approx(10))
    means = judge(point(25), requests([0.5] * 25), parse("ttft_mean<1"), {})  # no limit on a single request
    assert (means.verdict, means.goodput_rps) == ("pass", pytest.approx(10))
    beyond = judge(point(25), requests([0.5] * 25), parse("ttft_mean<0.1"), {})
    assert beyond.verdict == "fail" and beyond.goodput_rps < 10


def test_a_point_fails_with_its_reason() -> None:
    late = [0.1, 0.9] * 150
    found = judge(point(300), requests(late), parse(SLO), {"ttft_s": 0.5})
    assert (found.verdict, found.missed, found.why) == ("fail", ("ttft_p95",), "ttft_p95 is 900 ms")
    errors = judge(point(300), requests([0.1] * 300, failed=6), parse("ttft_p95<0.5,errors<0.01"), {})
    assert (errors.verdict, errors.missed) == ("fail", ("errors",))
    assert errors.figures["errors"] == pytest.approx(0.02)


def test_too_few_requests_are_no_verdict_but_too_many_late_ones_are() -> None:
    few = judge(point(267), requests([0.1] * 60), parse(SLO), {})
    assert (few.verdict, few.why[:20]) == ("invalid", "Not known: ttft_p95;")
    # of 267 requests more than 14 beyond the limit: whatever the others would have been, the p95 is above it
    assert enough_beyond(parse("ttft_p95<0.5")[0], 267) == 15
    sure = judge(point(267, ended_early="…"), requests([0.1] * 45 + [0.9] * 15), parse(SLO), {})
    assert (sure.verdict, sure.missed) == ("fail", ("ttft_p95",))
    assert "ttft_p95 beyond 500 ms in too many requests already" in sure.why


@given(st.lists(st.floats(0.0, 1.0), min_size=20, max_size=300), st.sampled_from(["p50", "p90", "p95", "p99"]))
def test_enough_beyond_is_always_certain(values: list[float], statistic: str) -> None:
    condition = Condition("ttft", statistic, 0.5)
    enough = enough_beyond(condition, len(values))
    if enough is not None and sum(value > 0.5 for value in values) >= enough:
        assert np.quantile(values, int(statistic[1:]) / 100) > 0.5


def check(name: str) -> Json:
    return {"name": name, "ok": False, "detail": f"{name}: too much."}


def test_a_point_whose_client_was_saturated_is_neither_pass_nor_fail() -> None:
    saturated = {"valid": False, "checks": [check("dispatch lateness p99")]}
    for late in (0.1, 0.9):
        found = judge(point(300, outcome="invalid", validity=saturated), requests([late] * 300), parse(SLO), {})
        assert (found.verdict, found.why) == ("invalid", "dispatch lateness p99: too much.")


def test_arrivals_that_were_not_sent_excuse_no_fail_and_allow_no_pass() -> None:
    spared = {"valid": False, "checks": [check(ARRIVALS_NOT_SENT)]}
    cell = point(300, outcome="invalid", validity=spared)
    assert judge(cell, requests([0.1] * 300, dropped=2), parse(SLO), {}).verdict == "invalid"
    assert judge(cell, requests([0.9] * 300, dropped=30), parse(SLO), {}).verdict == "fail"


def test_a_server_that_died_says_nothing_of_the_level() -> None:
    gone = point(300, outcome="failed", reason="The engine died.", validity=None)
    assert judge(gone, requests([0.9] * 40), parse(SLO), {}).verdict == "died"


def record(scheduled: float, late_s: float, outcome: str = "ok") -> Json:
    """As the load generator writes it: absolute seconds."""
    at = 5000.0 + scheduled
    known = {"sent": at, "first_token": at + late_s, "last_token": at + late_s, "ended": at + late_s}
    return {"scheduled": at, "outcome": outcome, "chunk_s": [at], "tokens_after_first": 0.0, **known}


def test_a_hopeless_point_is_ended_when_that_is_certain_and_not_before() -> None:
    load = Load(kind="open", rate_rps=10.0, requests=267)
    hopeless = Hopeless(load, parse(SLO), {}, expected_s=26.7)
    early = [record(index / 10, 0.9) for index in range(66)]  # may all turn out to be warm-up
    assert hopeless.look(early) is None
    assert hopeless.look([record(7.0 + index / 10, 0.9) for index in range(14)]) is None
    assert hopeless.look([record(9.0, 0.1)] * 50) is None
    assert hopeless.look([record(9.1, 0.9)]) == "15 requests beyond TTFT p95 < 500 ms: it cannot pass any more."
    broken = Hopeless(load, parse(SLO), {}, expected_s=26.7)
    assert broken.look([record(0.0, 0.1)]) is None
    assert broken.look([record(10.0, 0.0, "connection_error")] * 50) is None  # the server may be gone
    assert broken.look([record(10.0, 0.0, "http_error")] * 4) is not None


def test_a_point_is_as_long_as_its_figures_and_a_slow_queue_need() -> None:
    floor = Floor(ttft_s=0.1, e2e_s=1.0)
    line = parse("ttft_p95<0.5,tpot_p99<0.05")
    assert least_requests(line) == math.ceil(1000 / 0.75)
    assert least_requests(parse("ttft_p50<1,errors<0.01")) == math.ceil(5 / 0.75)
    # 5 % too much makes the wait grow by 50 ms a second: the 400 ms to the limit take 8 s, twice that are asked for
    assert least_seconds(line, {}, floor, 0.05) == pytest.approx(16.0)
    assert least_seconds(line, {}, floor, 0.2) == pytest.approx(10.0)
    assert least_seconds(line, {}, Floor(0.1, 4.0), 0.2) == pytest.approx(40.0)  # ten answers
    assert size("rate", 5.0, 267, 16.0, floor).requests == 267
    assert size("rate", 50.0, 267, 16.0, floor).requests == 800
    assert size("concurrency", 64, 267, 16.0, floor).requests == 512


def test_the_first_rate_is_the_one_that_was_asked_for() -> None:
    floor = Floor(ttft_s=0.02, e2e_s=0.02)
    assert search_of("rate", 0.05, floor, None) == Search(200.0, 5.0, 0.05)
    assert search_of("rate", 0.05, floor, 40.0) == Search(40.0, 5.0, 0.05)
    assert search_of("rate", 0.05, floor, 4.0) == Search(4.0, 4.0, 0.05)  # below what counts as idle
    assert search_of("concurrency", 0.05, floor, None) == Search(4.0, 1.0, 0.05, whole=True)


def test_an_slo_that_every_rate_meets_is_refused() -> None:
    assert bounds_queue(parse("e2e_mean<5"), {})
    assert not bounds_queue(parse("tpot_p95<0.05,errors<0.01"), {})
    with pytest.raises(PlanError, match="no limit on TTFT or E2E"):
        require_objective(plan_of({"slo": "tpot_p95<0.05"}))
    require_objective(plan_of({"slo": "tpot_p95<0.05", "over": "concurrency"}))
    require_objective(plan_of({"slo": {"ttft_s": 0.5, "share": 0.9}}))
    with pytest.raises(PlanError, match="needs an SLO"):
        require_objective(plan_of({}))


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


def on(server: Server, luck: int = 0) -> Any:
    def serve(load: Load, seed: int) -> tuple[pa.Table, Json]:
        recorded = server.records(load, seed + luck)
        return recorded, measured(load, recorded)

    return serve


@pytest.mark.parametrize("limit_rps", [10.0, 40.0, 160.0])
def test_a_simulated_servers_limit_is_found(limit_rps: float) -> None:
    task = task_of(plan_of({"slo": SLO, "arrival": "constant"}))
    (found,) = carry_out(task, on(Server(limit_rps)))["capacity"]
    assert found["ended"] == "found"
    assert found["value"] == pytest.approx(limit_rps, rel=0.05)
    assert found["low"] <= found["value"] <= found["high"] <= 1.12 * found["low"]
    assert found["limiting"] == ["ttft_p95"]
    assert found["goodput_rps"] == pytest.approx(limit_rps, rel=0.08)


def test_poisson_arrivals_queue_before_the_limit_and_more_so_where_service_is_slow() -> None:
    shares = []
    for limit_rps in (10.0, 160.0):
        (found,) = carry_out(task_of(plan_of({"slo": SLO})), on(Server(limit_rps)))["capacity"]
        shares.append(found["value"] / limit_rps)
    assert shares[0] < 0.9 < shares[1] < 1.05


def test_concurrency_is_searched_in_whole_users() -> None:
    # 40 turns a second: 20 users wait half a second for theirs, so the 21st meets no half second any more
    task = task_of(plan_of({"slo": "e2e_p95<0.5", "over": "concurrency"}))
    (found,) = carry_out(task, on(Server(40.0, noise=0.001)))["capacity"]
    assert found["ended"] == "found"
    assert found["low"] <= 20 <= found["high"]
    assert found["goodput_rps"] == pytest.approx(40, rel=0.05)


def test_a_search_that_was_interrupted_ends_as_if_it_had_not_been() -> None:
    task = task_of(plan_of({"slo": SLO}))
    whole = carry_out(task, on(Server(40.0)))
    part = carry_out(task, on(Server(40.0)), most=5)
    assert part["capacity"][0]["ended"] is None
    again = carry_out(task, on(Server(40.0)), part)
    assert [cell["point"] for cell in again["cells"]] == [cell["point"] for cell in whole["cells"]]
    assert again["capacity"] == whole["capacity"]


def test_an_slo_that_even_one_request_at_a_time_misses_is_said_after_the_first_point() -> None:
    document = carry_out(task_of(plan_of({"slo": "ttft_p95<20ms"})), on(Server(40.0)))
    (found,) = document["capacity"]
    assert (found["ended"], found["value"], len(document["cells"])) == ("floor", None, 1)
    assert "Even one request at a time ttft_p50 is" in found["said"]


def test_an_slo_that_no_rate_meets_names_the_lowest_that_was_tried() -> None:
    def stalls(load: Load, seed: int) -> tuple[pa.Table, Json]:
        """One request in eight takes a second, however few there are."""
        recorded = Server(40.0).records(load, seed)
        if load.kind == "open":
            first = recorded["first_token_s"].to_pylist()
            late = [at + (index % 8 == 0) for index, at in enumerate(first)]
            place = recorded.schema.get_field_index("first_token_s")
            recorded = recorded.set_column(place, "first_token_s", pa.array(late))
        return recorded, measured(load, recorded)

    (found,) = carry_out(task_of(plan_of({"slo": SLO, "max_time_s": 1e6})), stalls)["capacity"]
    assert found["ended"] == "nothing"
    assert re.fullmatch(r"no load meets the SLO; Even at 1\.1\d requests/s ttft_p95 is 1\.0\d s\.", found["said"])


def test_a_search_that_its_server_cut_short_goes_on_when_it_is_there_again() -> None:
    task = task_of(plan_of({"slo": SLO, "start": 4.0}))
    healthy = on(Server(40.0))

    def dies(load: Load, seed: int) -> tuple[pa.Table, Json]:
        recorded, result = healthy(load, seed)
        gone = {"outcome": "failed", "reason": "server unreachable", "validity": None}
        return recorded, result | (gone if load.kind == "open" else {})

    document = carry_out(task, dies, most=2)
    search.give_up(task, document, "no answer (Connection refused). Is the server up?")
    (cut,) = document["capacity"]
    assert (cut["ended"], cut["low"], cut["high"]) == ("server", None, None)  # that it died says nothing of the level
    assert cut["said"] == (
        "not established; the server cut the search short; no answer (Connection refused). Is the server up?"
    )
    assert search.next_point(task, document, print) is None
    before = copy.deepcopy(document["cells"])
    search.reopen(document)
    (found,) = carry_out(task, healthy, document)["capacity"]
    assert (found["ended"], document["cells"][:2]) == ("found", before)
    assert document["cells"][2]["point"]["level"] == 4.0
    assert found["value"] < 40


def test_the_time_for_a_search_ends_it_with_what_is_known() -> None:
    task = task_of(plan_of({"slo": SLO, "max_time_s": 70.0}))
    (found,) = carry_out(task, on(Server(40.0)))["capacity"]
    assert found["ended"] == "time"
    assert found["took_s"] <= 70.0
    assert "the time for the search ran out" in found["said"]


def test_a_search_says_what_it_will_take_before_it_starts() -> None:
    said = carry_out(task_of(plan_of({"slo": SLO})), on(Server(40.0, noise=0.0)), most=2)["said"]
    assert said[0] == "simulated: one request at a time took 85.0 ms in the median"
    assert "searching the highest rate that meets ttft_p95<0.5, errors<0.01, to ± 5%, from 47.1 requests/s" in said[1]
    assert re.search(r"A point has at least 267 requests and 18 s; about 1\d points, [34]\.\d min", said[1])
    assert "at most 15.0 min" in said[1]


def test_points_start_from_what_the_plans_loads_have_shown() -> None:
    task = task_of(plan_of({"slo": SLO, "alone": False}))
    loads = [
        task.template.model_copy(update={"requests": 20}),
        task.template.model_copy(update={"name": "c8", "concurrency": 8, "requests": 80}),
    ]
    cells = []
    for load in loads:
        recorded = Server(40.0).records(load, 1)
        cells.append(
            {"id": load.name, "engine": {"name": "simulated"}, "repeat": 1, "load": load.model_dump(mode="json")}
            | measured(load, recorded)
        )
    document = carry_out(task, on(Server(40.0)), {"cells": cells}, most=1)
    assert document["cells"][2]["point"]["level"] == pytest.approx(0.7 * 40, rel=0.05)  # no request by itself first
