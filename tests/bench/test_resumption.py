"""A run that is gone on with must still be the same run; what differs is named, and nothing is written."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import resumption, sweep
from bench.errors import PlanError, RunFolderError
from bench.plans.plan import Plan, expand
from bench.run import records, store

pytestmark = pytest.mark.slow

PLAN = {
    "name": "kept",
    "repeats": 2,
    "engines": [{"name": "a", "model": "m"}, {"name": "b", "model": "m", "quantization": "int8"}],
    "loads": [{"name": "c1", "concurrency": 1, "requests": 4}],
}


class Silent:
    def say(self, text: str) -> None: ...
    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def time_left(self, left: Any) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...


def plan() -> Plan:
    return expand(copy.deepcopy(PLAN), source="the test")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four cells: one was measured (4 requests), one failed, two are pending."""
    started = sweep.start(plan(), tmp_path_factory.mktemp("runs"), Silent(), command_line="nbridge bench")
    folder = store.cell_dir(started.run_dir, "a-c1-r1")
    folder.mkdir(parents=True)
    (folder / "requests.jsonl").write_text('{"sent": 1.0, "outcome": "ok"}\n' * 4)
    records.write_parquet([folder / "requests.jsonl"], folder / "requests.parquet", 0.0)
    started.document["cells"][0].update(outcome="ok", metrics={"requests": {"total": 4, "ok": 4}})
    started.document["cells"][1].update(outcome="failed", reason="The server was down.")
    started.save()
    return started.run_dir


@pytest.fixture
def run_dir(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


def edit(run_dir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((run_dir / "run.json").read_text())
    change(document)
    (run_dir / "run.json").write_text(json.dumps(document))


def test_the_same_run_is_taken_up_and_finished_cells_stay(run_dir: Path) -> None:
    resumed = sweep.resume(run_dir, Silent())
    assert [cell["id"] for cell in resumed.pending] == ["a-c1-r2", "b-c1-r2"]


def test_failed_cells_are_measured_again_when_asked(run_dir: Path) -> None:
    resumed = sweep.resume(run_dir, Silent(), retry_failed=True)
    assert [cell["id"] for cell in resumed.pending] == ["b-c1-r1", "a-c1-r2", "b-c1-r2"]
    assert resumed.document["cells"][1]["reason"] is None
    assert resumed.document["cells"][0]["outcome"] == "ok"


def renamed_in_both(document: dict[str, Any]) -> None:
    """The load's name changed wherever it stands: every part agrees, and the figures have another label."""
    document["plan"]["loads"][0]["name"] = "c16"
    for cell in document["cells"]:
        cell["id"] = cell["id"].replace("c1-", "c16-")
        cell["load"]["name"] = "c16"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["plan"]["loads"][0].update(concurrency=2), "load.concurrency is 1, the plan says 2"),
        (lambda d: d["plan"]["loads"][0].update(output_tokens={"mean": 8}), "the plan is not the one"),
        (lambda d: d["plan"].update(repeats=3), "the plan has a cell a-c1-r3, run.json has none"),
        (lambda d: d["plan"]["engines"][1].update(name="c"), "run.json has a cell 'b-c1-r1', the plan has none"),
        (lambda d: d.pop("plan"), "has no plan"),
        (lambda d: d["plan"].update(loads=[]), "loads"),
        (renamed_in_both, "the plan is not the one"),
        (lambda d: d["cells"][1]["engine"].update(quantization="int4"), "quantization is 'int4', the plan"),
        (lambda d: d["cells"][1].update(engine="b"), "its engine is not one"),
        (lambda d: d["cells"][1].update(repeat=2), "repeat is 2, by its id 1"),
        (lambda d: d["cells"][1].update(outcome="done"), "outcome is 'done'"),
        (lambda d: d["cells"][0].update(metrics=None), "is ok and has no metrics"),
        (lambda d: d["cells"].pop(), "run.json has none"),
        (lambda d: d["cells"].append("cell"), "run.json has a cell None"),
        (lambda d: d["cells"].append(d["cells"][0]), "two cells are called 'a-c1-r1'"),
        (lambda d: d["cells"][0].update(id="../../x"), "'../../x' is not a plain name"),
        (lambda d: d["cells"][0].update(id="a/../b"), "is not a plain name"),
        (lambda d: d["cells"][0]["metrics"]["requests"].update(total=5), "tells of 5 requests"),
        (lambda d: d["environment"]["packages"].update(numpy="0.1"), "package numpy: 0.1 then,"),
        (lambda d: d["environment"]["packages"].update(torch=None), "package torch: None then,"),
        (lambda d: d["environment"].update(python="2.7.18"), "python: 2.7.18 then,"),
        (lambda d: d["environment"]["cpu"].update(cores=999), "cpu: "),
        (lambda d: d["environment"].update(memory_bytes=2**30), "memory_bytes: 1,073,741,824 then,"),
        (lambda d: d["cells"][0].update(metrics=[1]), "is ok and has no metrics"),
        (lambda d: d["cells"][0].update(metrics={"requests": 7}, engine=None), "its engine is not one"),
        (lambda d: d["cells"][0].update(id=[]), "run.json has a cell None"),
        (lambda d: d.update(target={"url": "x"}), "target has no base_url"),
    ],
)  # fmt: skip
def test_what_was_changed_is_named(run_dir: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    edit(run_dir, change)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    with pytest.raises((RunFolderError, PlanError)) as refused:
        sweep.resume(run_dir, Silent())
    assert words in str(refused.value)
    assert refused.value.exit_code == 2
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cells: (cells / "a-c1-r1" / "requests.parquet").unlink(), "its requests.parquet cannot be read"),
        (lambda cells: (cells / "a-c1-r1" / "requests.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda cells: shutil.rmtree(cells / "a-c1-r1"), "its requests.parquet cannot be read"),
        (lambda cells: (cells / "a-c1-r1").rename(cells / "a-c16-r1"), "a-c16-r1 is the folder of no cell"),
    ],
)  # fmt: skip
def test_files_that_are_not_the_cells_own_are_named(
    run_dir: Path, change: Callable[[Path], object], words: str
) -> None:
    change(run_dir / "cells")
    with pytest.raises(RunFolderError) as refused:
        sweep.resume(run_dir, Silent())
    assert words in str(refused.value)


def test_an_earlier_attempt_belongs_to_its_cell(run_dir: Path) -> None:
    (run_dir / "cells" / "b-c1-r1.interrupted-1").mkdir()
    sweep.resume(run_dir, Silent())


def test_a_run_of_an_earlier_version_is_taken_up(run_dir: Path) -> None:
    def age(document: dict[str, Any]) -> None:
        del document["plan_sha256"], document["environment"]["python"]
        document["environment"]["packages"] = ["numpy"]
        document["environment"]["git"] = "main"
        document["environment"]["memory_bytes"] += 4096  # another kernel keeps a little more for itself
        for cell in document["cells"]:
            del cell["known_beforehand"]

    edit(run_dir, age)
    assert len(sweep.resume(run_dir, Silent()).pending) == 2


def test_the_hash_is_the_plans_whatever_the_order_of_its_keys() -> None:
    said = plan().model_dump(mode="json")
    assert resumption.plan_sha256(dict(reversed(said.items()))) == resumption.plan_sha256(said)
