"""One point of a search for a capacity: its warm-up, its verdict, when it is hopeless, and how long it has to be."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.capacity.hopeless import Hopeless
from bench.capacity.judging import enough_beyond, judge
from bench.capacity.size import Floor, bounds_queue, least_requests, least_seconds, search_of, size
from bench.capacity.steps import Search
from bench.capacity.task import require_objective
from bench.capacity.warmup import warm_up
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.run.records import SCHEMA
from bench.run.slo import Condition, parse
from bench.run.validity import ARRIVALS_NOT_SENT
from bench.studies.capacity.simulated import VALID, Json, plan_of

SLO = "ttft_p95<0.5,errors<0.01"


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
