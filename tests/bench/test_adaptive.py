"""Successive halving: hand-worked contests, simulated grids, and a real one over golden servers that is interrupted."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from golden import golden

from bench import execution, remote, sweep
from bench.adaptive import halving
from bench.adaptive.noise import USUAL_SD, noise
from bench.errors import PlanError
from bench.order import one_form
from bench.plans.plan import Plan, adapting, expand, find_plan, load_plan
from bench.plans.tables import RunningServer
from bench.run.outcome import exit_code
from bench.studies import adaptive as study

Json = dict[str, Any]


def fresh(plan: Plan) -> Json:
    return {
        "plan": plan.model_dump(mode="json"),
        "cells": [
            sweep.pending_cell(engine, load, repeat, None)
            for repeat in range(1, plan.repeats + 1)
            for engine in plan.engines
            for load in plan.loads
        ],
    }


def measure(document: Json, wanted: list[str], values: dict[str, float]) -> None:
    """Cells become ok with their engine's value; an engine without one fails."""
    for cell in document["cells"]:
        if cell["id"] in wanted:
            value = values.get(cell["engine"]["name"])
            cell.update(outcome="failed" if value is None else "ok", reason=None)
            cell["metrics"] = {"output_throughput_tok_s": value}


def outcomes(document: Json) -> dict[str, str]:
    return {cell["id"]: cell["outcome"] for cell in document["cells"]}


def test_the_slower_half_goes_and_the_winner_gets_the_rest_of_the_budget() -> None:
    plan = study.plan_of(4, 2, 3)  # 24 cells, 12 of them at most
    document = fresh(plan)
    speeds = {"e0": 50.0, "e1": 100.0, "e2": 60.0, "e3": 70.0}
    found = halving.settle(plan, document)
    assert found.wanted == [f"e{i}-c2-r1" for i in range(4)]  # the heaviest load, once each
    measure(document, found.wanted, speeds)
    found = halving.settle(plan, document)
    assert found.rounds[0].kept == ["e1", "e3"]
    assert found.wanted == ["e1-c2-r2", "e3-c2-r2"]
    assert [(one.engine, one.surely) for one in found.dropped] == [("e2", True), ("e0", True)]
    assert found.dropped[0].behind == pytest.approx(0.4)
    assert outcomes(document)["e0-c1-r1"] == "dropped"
    assert "40.0% behind e1 after one repeat" in next(c for c in document["cells"] if c["id"] == "e2-c2-r2")["reason"]
    measure(document, found.wanted, speeds)
    found = halving.settle(plan, document)
    assert (found.winner, found.over) == ("e1", False)
    assert found.wanted == ["e1-c1-r1", "e1-c1-r2", "e1-c1-r3", "e1-c2-r3"]  # 6 are measured, 4 of e1's are left
    measure(document, found.wanted, speeds)
    found = halving.settle(plan, document)
    assert found.over
    assert found.measured == 10
    assert not [cell for cell in document["cells"] if cell["outcome"] == "pending"]
    assert document["adaptive"]["said"] == (
        "by output throughput at c2, e1 is the best of 4 engines; 10 of 24 cells were measured"
    )
    assert exit_code(document) == (0, [])  # what was dropped is no failure


def test_what_luck_may_have_done_is_not_dropped_while_there_is_budget() -> None:
    plan = study.plan_of(4, 2, 3)
    document = fresh(plan)
    close = {"e0": 99.0, "e1": 100.0, "e2": 98.0, "e3": 50.0}
    measure(document, halving.settle(plan, document).wanted, close)
    found = halving.settle(plan, document)
    assert found.rounds[0].kept == ["e1", "e0", "e2"]
    assert [one.engine for one in found.dropped] == ["e3"]


def test_what_is_dropped_for_want_of_budget_is_named_as_undecided() -> None:
    plan = study.plan_of(4, 1, 2)  # 8 cells, 4 at most: one repeat of each
    document = fresh(plan)
    close = {"e0": 99.0, "e1": 100.0, "e2": 98.0, "e3": 50.0}
    measure(document, halving.settle(plan, document).wanted, close)
    found = halving.settle(plan, document)
    assert (found.winner, found.over, found.measured) == ("e1", True, 4)
    assert sorted(found.within_noise) == ["e0", "e2"]
    assert "may be as good" in document["adaptive"]["said"]


def test_an_engine_that_cannot_be_judged_is_out_with_the_reason() -> None:
    plan = study.plan_of(3, 2, 2)
    document = fresh(plan)
    measure(document, halving.settle(plan, document).wanted, {"e0": 10.0, "e2": 5.0})
    found = halving.settle(plan, document)
    (gone,) = [one for one in found.dropped if one.engine == "e1"]
    assert (gone.behind, gone.surely) == (None, None)
    assert gone.reason == "e1-c2-r1 is failed, so there is nothing to judge it by"
    measure(document, found.wanted, {"e0": 10.0})
    assert halving.settle(plan, document).over
    assert "e0 is the best of 3 engines, of which e1 could not be judged" in document["adaptive"]["said"]
    nobody = fresh(plan)
    measure(nobody, halving.settle(plan, nobody).wanted, {})
    found = halving.settle(plan, nobody)
    assert (found.over, found.winner) == (True, None)
    assert "no engine could be judged" in nobody["adaptive"]["said"]


def test_it_goes_on_from_its_cells_alone() -> None:
    """Stopped after every cell, the contest ends as if it had not been."""
    plan = study.plan_of(5, 2, 3)
    speeds = {f"e{i}": 100.0 - 9 * i for i in range(5)}
    whole, pieces = fresh(plan), fresh(plan)
    while not (found := halving.settle(plan, whole)).over:
        measure(whole, found.wanted, speeds)
    while not (found := halving.settle(plan, pieces)).over:
        measure(pieces, found.wanted[:1], speeds)
        pieces = {"plan": pieces["plan"], "cells": copy.deepcopy(pieces["cells"])}
    assert outcomes(whole) == outcomes(pieces)
    assert whole["adaptive"] == pieces["adaptive"]


def test_noise_is_the_usual_until_repeats_say_more() -> None:
    assert noise({"a": [100.0]}).sd == pytest.approx(USUAL_SD)
    steady = noise({name: [100.0] * 5 for name in "abcd"})
    assert steady.freedom == 4 + 16
    assert steady.sd == pytest.approx(USUAL_SD / 5**0.5)
    assert steady.margin(5, 5) < noise({}).margin(1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adaptive": {"objective": "goodput"}}, "needs limits on requests"),
        ({"adaptive": {"objective": "ttft_p95"}}, "takes 200 answers, and the load c2 has 8"),
        ({"engines": [{"name": "a", "model": "m"}]}, "there is one engine"),
        ({"repeats": 1, "loads": [{"name": "c2", "concurrency": 2, "requests": 8}]}, "too few to see each"),
        ({"adaptive": {"load": "c9"}}, "none of the loads: c1, c2"),
        ({"adaptive": {"objective": "speed"}}, "adaptive.objective = 'speed'"),
    ],
)
def test_a_contest_that_cannot_be_is_refused(change: Json, words: str) -> None:
    document = study.plan_of(2, 2, 2).model_dump(mode="json") | change
    with pytest.raises(PlanError, match=words):
        halving.contest(expand(document, source="the test"))


def test_the_default_plan_becomes_a_contest_without_its_search_and_quality() -> None:
    said: list[str] = []
    plan = adapting(load_plan(find_plan(None)), said.append)
    assert (plan.capacity, plan.quality) == (None, None)
    assert "[capacity] and [quality] left out" in said[0]
    what = halving.contest(plan)
    assert (what.load.name, what.objective.name, what.budget) == ("c16", "throughput", 4)


def test_simulated_grids_end_with_the_whole_grids_winner_in_half_the_cells() -> None:
    """One load, so that half of the cells are half of all that could decide."""
    apart = study.study("10 % apart", [100 * 0.9**i for i in range(8)], loads=1, repeats=5, noise=0.03, trials=40)
    assert apart.cells <= 0.5
    assert apart.reached >= 0.95
    near = study.study("2 % apart", [100 * 0.98**i for i in range(8)], loads=1, repeats=5, noise=0.03, trials=40)
    assert near.cells <= 0.5
    assert near.regret < 0.02  # another one may win, but none that is much slower
    assert near.said is None or near.said > 0.5  # and the grid's winner is named as one that may be as good
    known = study.study("recorded", study.recorded(), loads=1, repeats=5, noise=0.03, trials=20)
    assert (known.reached, known.regret) == (1.0, 0.0)
    assert known.cells <= 0.5


class Stops:
    """A watcher that interrupts after so many cells."""

    def __init__(self, after: int) -> None:
        self.left, self.said = after, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def cell_started(self, cell: Json, number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def time_left(self, left: Any) -> None: ...

    def cell_ended(self, cell: Json) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of vLLM: golden servers of known speeds, one for each engine."""
    with ExitStack() as stack:
        known = {}
        for name, gap_s in (("slow", 0.06), ("fast", 0.01), ("middle", 0.03)):
            folder = tmp_path / name
            folder.mkdir()
            running = stack.enter_context(golden(folder, model=f"golden?ttft_s=0.02&gap_s={gap_s}"))
            found = remote.find(RunningServer(url=one_form(running.url)))
            known[name] = remote.describe(found)
        monkeypatch.setattr(execution, "_server", lambda _, engine, __: remote.running_server(known[engine.name]))
        yield


@pytest.mark.slow
def test_a_real_contest_is_interrupted_and_ends_with_the_fastest(tmp_path: Path, servers: None) -> None:
    document = {
        "name": "contest",
        "repeats": 2,
        "adaptive": {},
        "engines": [{"name": name, "model": "golden"} for name in ("slow", "fast", "middle")],
        "loads": [{"concurrency": 2, "requests": 12, "prompt_tokens": 8, "output_tokens": 16}],
    }
    started = sweep.start(
        expand(document, source="the test"), tmp_path / "runs", Stops(2), command_line="nbridge bench"
    )
    with pytest.raises(KeyboardInterrupt):
        execution.run(started)
    watcher = Stops(0)
    resumed = sweep.resume(started.run_dir, watcher)
    execution.run(resumed)
    found = resumed.document["adaptive"]
    measured = [cell for cell in resumed.document["cells"] if cell["outcome"] != "dropped"]
    assert [cell["outcome"] for cell in resumed.document["cells"]].count("dropped") == 3
    assert found["measured"] == 3 <= found["budget_cells"]
    # On a machine too busy to measure on, a cell is invalid and its engine not judged.
    values = {c["engine"]["name"]: c["metrics"]["output_throughput_tok_s"] for c in measured if c["outcome"] == "ok"}
    assert found["winner"] == max(values, key=lambda name: values[name], default=None)
    assert found["winner"] == "fast" or "fast" not in values
    assert resumed.document["finished"] is not None
    assert watcher.said[-1].startswith("adaptive: by output throughput at c2, ")
