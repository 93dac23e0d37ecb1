"""Whole searches for a capacity, of simulated servers whose noise has seeds."""

import copy
import re
from typing import Any

import pyarrow as pa
import pytest

from bench.capacity import search
from bench.plans.loads import Load
from bench.studies.capacity.simulated import Json, Server, carry_out, measured, plan_of, task_of

SLO = "ttft_p95<0.5,errors<0.01"


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
