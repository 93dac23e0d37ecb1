"""A contest and the energy of GPUs in a report, from made-up records."""

from pathlib import Path

import made_runs
import pytest

from bench.adaptive import halving
from bench.plans.plan import expand
from reports.content import content
from reports.report import read_report
from reports.statements import energy


@pytest.fixture
def contest_run(tmp_path: Path) -> Path:
    """Three engines at 16 users, of which two were dropped after one repeat; the loads at 1 and 4 users were the
    winner's alone, as far as the budget reached."""
    run = made_runs.RunFolder(tmp_path / "run")
    names = ("bf16", "int8", "int4")
    for name in names:
        made_runs.add_measured(run, name, 16)
    for name in names:
        for users in (1, 4):
            run.add(name, made_runs.closed_load(users), None, outcome="pending")
    plan = expand(
        {
            "name": "contest",
            "adaptive": {"objective": "throughput"},
            "engines": [{"name": name, "model": "demo-100m"} for name in names],
            "loads": [{"concurrency": users, "requests": 6 * users} for users in (1, 4, 16)],
        },
        source="the test",
    )
    for cell in run.cells:  # ids as a plan gives them
        cell["id"] = f"{cell['engine']['name']}-c{cell['load']['concurrency']}-r1"
    for folder in (run.path / "cells").iterdir():
        folder.rename(folder.with_name(folder.name.replace("closed-", "")))
    document = {"cells": run.cells}
    assert halving.settle(plan, document).wanted == ["int8-c1-r1"]  # the budget: 4 of 9 cells
    run.cells[:] = document["cells"]
    made_runs.add_measured(run, "int8", 1)
    measured = run.cells.pop()
    (run.path / "cells" / measured["id"]).rename(run.path / "cells" / "int8-c1-r1")
    place = next(i for i, cell in enumerate(run.cells) if cell["id"] == "int8-c1-r1")
    run.cells[place] = measured | {"id": "int8-c1-r1"}
    document = {"cells": run.cells}
    assert halving.settle(plan, document).over
    return run.write(adaptive=document["adaptive"])


def test_a_contest_has_a_section_and_its_dropped_cells_are_no_problem(contest_run: Path) -> None:
    made = content(read_report(contest_run))
    (section,) = [part for part in made.sections if part.id == "contest"]
    assert section.paragraphs[0] == (
        "By output throughput at c16, int8 is the best of 3 engines; 4 of 9 cells were measured."
    )
    rows = {row[0].text: [entry.text for entry in row] for row in section.tables[0].rows}
    assert next(iter(rows)) == "int8"
    assert rows["int8"][-1] == "best"
    assert rows["bf16"][-2] == "surely"
    assert "behind int8 after one repeat" in rows["bf16"][-1]
    assert made.problems == ()
    assert section.paragraphs[0] in made.statements
    assert any("dropped by the contest: 5 cells" in text for text in made.statements)


def test_energy_is_said_where_it_was_measured(tmp_path: Path) -> None:
    run = made_runs.nine_cells(tmp_path / "run")
    for cell, joules in zip(run.cells, (9.0, 8.0, 7.0, 3.0, 2.5, 2.0, 6.0, 5.0, 4.0), strict=True):
        cell["metrics"]["energy"] = {
            "joules": 100 * joules,
            "mean_power_w": 250.0,
            "joules_per_output_token": joules,
            "method": "counter",
            "gpus": ["0"],
            "of_server": True,
            "unknown": None,
        }
    report = read_report(run.write())
    assert energy.least(report) == (
        "At 16 concurrent requests the GPUs drew 2.00 J per output token with int8, the least of 3 engines "
        "(int4 4.00 J and bf16 7.00 J)."
    )
    (note,) = energy.notes(report)
    assert "by their energy counters" in note
    made = content(report)
    throughput = next(one for one in made.cells if one.id == "cells-throughput")
    places = {f"{column.group} {column.name}".strip(): i for i, column in enumerate(throughput.columns)}
    assert throughput.rows[0][places["GPU energy J per output token"]].text == "9.00"
    assert throughput.rows[0][places["GPU energy mean power"]].text == "250 W"


def test_without_a_gpu_nothing_is_said_of_energy(nine_run: Path) -> None:
    report = read_report(nine_run)
    assert energy.least(report) == ""
    assert energy.notes(report) == []
    throughput = next(one for one in content(report).cells if one.id == "cells-throughput")
    assert "GPU energy" not in {column.group for column in throughput.columns}


def test_energy_that_could_not_be_told_has_its_reason(tmp_path: Path) -> None:
    run = made_runs.nine_cells(tmp_path / "run")
    run.cells[0]["metrics"]["energy"] = {
        **dict.fromkeys(("joules", "mean_power_w", "joules_per_output_token", "method")),
        "gpus": ["0"],
        "of_server": False,
        "unknown": "GPU 0: the samples do not span the window",
    }
    report = read_report(run.write())
    assert energy.notes(report) == ["No GPU energy of bf16-closed-c1-r1: GPU 0: the samples do not span the window."]
