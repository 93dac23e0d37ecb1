"""A search for a capacity as the Benchmarks page shows it: a simulated server, searched whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from recordings import RECORDED

from bench.capacity.task import Task
from bench.plans.plan import expand
from bench.run.store import open_run
from bench.studies.capacity.simulated import Server, carry_out, measured
from dashboards.screens.benchmarks import request_charts, searched
from dashboards.theme import DARK, LIGHT
from reports.measured.cells import Report
from reports.measured.reading import stored
from reports.sections.capacity import answers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return stored(open_run(searched_run(tmp_path_factory.mktemp("runs") / "searched")))


def searched_run(folder: Path) -> Path:
    """A run folder with the search of a server that carries 20 requests/s."""
    plan = expand(
        {
            "engines": [{"name": "int8", "model": "demo-100m"}],
            "loads": [{"name": "c1", "concurrency": 1, "requests": 20}],
            "capacity": {"slo": "ttft_p95<0.5,errors<0.01", "arrival": "constant", "alone": True},
        },
        source="plan",
    )
    assert plan.capacity is not None
    server, part = Server(20.0), {"cells": []}

    def serve(load: Any, seed: int) -> Any:
        part["cells"][-1]["id"] = f"int8-{load.name}-r1"
        recorded = server.records(load, seed)
        return recorded, measured(load, recorded)

    carry_out(Task(plan, plan.capacity, plan.engines[0], 1), serve, part)
    document = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))
    document |= {"run_id": folder.name, "plan": plan.model_dump(mode="json"), **part}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_every_point_has_its_verdict_and_the_answer_its_interval(report: Report) -> None:
    found = searched.searched(report)
    assert found is not None
    assert (found.over, found.condition, found.limit, found.is_time) == ("rate", "ttft_p95", 0.5, True)
    assert {row["says"] for row in found.points} == {searched.MET, searched.MISSED}
    (interval,) = found.intervals
    assert interval["low"] < interval["value"] < interval["high"]
    assert interval["value"] == pytest.approx(20, rel=0.05)
    met = [row["level"] for row in found.points if row["says"] == searched.MET]
    assert max(met) <= interval["high"] * 1.02
    assert found.said[0].startswith("int8: ") and "limited by ttft_p95" in found.said[0]
    assert "interval of each engine's capacity" in searched.caption(found)
    assert "Points: int8: " in searched.words(found)
    assert [row[0].text for row in answers(found.searches).rows] == ["int8"]


def test_goodput_at_a_level_that_is_carried_is_the_level(report: Report) -> None:
    found = searched.searched(report)
    assert found is not None
    for row in found.points:
        if row["says"] == searched.MET:
            assert row["goodput_rps"] == pytest.approx(row["level"], rel=0.06)


def test_a_run_without_a_search_has_none() -> None:
    assert searched.searched(stored(open_run(RECORDED))) is None


@pytest.mark.parametrize("palette", [LIGHT, DARK])
@pytest.mark.parametrize("goodput", [False, True])
def test_its_figures_are_valid_vega(report: Report, palette: Any, goodput: bool) -> None:
    found = searched.searched(report)
    assert found is not None
    drawn = request_charts.search(found, report.engines, palette, goodput=goodput).to_dict()
    assert drawn["layer"][0]["mark"]["type"] == "rect"  # the interval
    assert ('"says": "the SLO"' in json.dumps(drawn)) is not goodput
    early = [{**row, "value": None} if row["says"] == searched.MISSED else row for row in found.points]
    edge = searched.Searched(**{**found.__dict__, "points": early})
    assert edge.ended_early and "ended early" in searched.caption(edge)
    whole = request_charts.search(edge, report.engines, palette, goodput=False).to_dict()
    rows = whole["datasets"][whole["layer"][-1]["data"]["name"]]
    assert {row["drawn"] for row in rows if row["says"] == searched.MISSED} == {max(row["drawn"] for row in rows)}
