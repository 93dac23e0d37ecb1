"""The Overview's tiles and sentences, from the reference run and copies of it."""

from pathlib import Path
from typing import Any

from made_shelf import add_run

from bench.compare import comparison
from bench.run.store import open_run
from dashboards import library
from dashboards.screens.overview import view as overview
from planning.cost import measured
from planning.cost.assumptions import load_case
from planning.cost.estimate import estimate
from reports.measured.reading import stored


def shelf_of(folder: Path, **runs: dict[str, Any]) -> tuple[library.Entry, ...]:
    for name, changes in runs.items():
        add_run(folder, name, **changes)
    return library.shelf(folder, {}).runs


def test_the_tiles_of_the_sample_lead_to_their_evidence() -> None:
    entry = library.sample()
    report = stored(open_run(entry.path))
    case = measured.with_run(load_case(), report.document, engine="int8")
    throughput, ttft, memory, price, firing = overview.tiles(report, entry, estimate(case, draws=2000), "", 2)
    assert (throughput.value, throughput.remark) == ("304 tok/s", "output tokens, int8 at 16 concurrent requests")
    assert (throughput.page, throughput.query) == ("benchmarks", {"run": "sample"})
    assert (ttft.what, ttft.value, ttft.remark) == ("TTFT, median", "745 ms", "a p95 takes 200 answers")
    assert memory.remark.startswith("of ") and memory.remark.endswith(" %")
    assert price.value.startswith("$") and "openai/gpt-4o asks $" in price.remark and "a GPU hour" in price.remark
    assert price.query == {"speed_from": "sample", "engine": "int8"}
    assert (firing.value, firing.page) == ("2", "live")
    unknown = overview.tiles(report, entry, None, "no speed to plan with", None)
    assert [(tile.value, tile.remark) for tile in unknown[3:]] == [
        ("–", "no speed to plan with"),
        ("–", "no Alertmanager answers"),
    ]


def test_runs_left_over_say_what_to_do(tmp_path: Path) -> None:
    runs = shelf_of(
        tmp_path,
        a={"created": "2026-01-01T00:00:00+00:00"},
        b={"created": "2026-01-02T00:00:00+00:00", "finished": None},
        c={"created": "2026-01-03T00:00:00+00:00", "finished": None},
        d={"created": "2026-01-04T00:00:00+00:00", "cells": []},
    )
    assert overview.newest_measured(runs) == runs[1]  # d measured nothing
    lines = overview.left_over(runs, ["c"], "runs")
    assert lines[0] == "At work now: c."
    assert lines[1].startswith("1 run not finished: b. Go on with `nbridge bench --resume runs/b`")
    assert lines[2].startswith("1 run without a request: d.")
    assert overview.left_over(runs[3:], [], "runs") == []


def test_what_changed_since_the_run_before(tmp_path: Path) -> None:
    runs = shelf_of(
        tmp_path,
        a={"created": "2026-01-01T00:00:00+00:00"},
        x={"created": "2026-01-02T00:00:00+00:00", "plan": {"name": "another"}},
        b={"created": "2026-01-03T00:00:00+00:00", "speed": 2.0},
    )
    old = overview.before(runs, runs[0])
    assert old is not None and old.id == "a"  # x is of another plan
    assert overview.before(runs, old) is None
    found = comparison.compare(old.path, runs[0].path, allowed=[], alpha=0.05, threshold=0.05, stored=True)
    said = overview.changes(found, old, {"too few repeats": len(found.lines), "worse": 0})
    assert said.startswith("Since a nothing is decided: a verdict needs five valid repeats of each side. The widest ")
    assert said.endswith(", +100.0 %, which noise may be.")
