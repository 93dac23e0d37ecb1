"""A cell over time as the app draws it: the TTFT of its requests above what its server said, on one axis."""

from dataclasses import replace

import pytest
from recordings import RECORDED

from bench.run.store import open_run
from dashboards.screens.benchmarks import over_time
from dashboards.theme import DARK, LIGHT
from reports.measured.cells import Cell
from reports.measured.reading import read
from reports.measured.timelines import Series, Timeline


@pytest.fixture(scope="module")
def cell() -> Cell:
    return next(one for one in read(open_run(RECORDED)).cells if one.id == "int8-c16-r1")


@pytest.fixture
def line(cell: Cell) -> Timeline:
    """The sample's, with a KV cache that fills and requests that were preempted."""
    assert cell.over_time is not None
    whole = {"kv_usage": Series((0.0, 1.0), (0.1, 0.9)), "waiting": Series((0.0, 1.0), (0.0, 3.0))}
    return replace(cell.over_time, **whole, preemptions=Series((1.0,), (2.0,)), preempted=2)


def test_every_point_of_the_figure_is_a_row_of_its_data(cell: Cell, line: Timeline) -> None:
    found = over_time.drawing(cell, line)
    of = {name: [row for row in found.rows if row["series"] == name] for name in {row["series"] for row in found.rows}}
    assert [row["value"] for row in of["TTFT"]] == list(line.ttft_s.values)
    assert of["KV cache in use"][-1] == {"series": "KV cache in use", "at_s": 1.0, "value": 0.9, "unit": "share"}
    assert {row["unit"] for row in of["running"]} == {"requests"}
    assert of["preemptions"][0]["value"] == 2.0
    assert "waiting from 0 to 3" in found.words and "2 preemptions" in found.caption


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_panels_share_the_axis_of_time_and_the_height(cell: Cell, line: Timeline, palette) -> None:
    drawn = over_time.chart(line, over_time.drawing(cell, line).rows, palette).to_dict()
    scales = [layer["encoding"]["y"]["scale"] for layer in drawn["layer"] if "y" in layer["encoding"]]
    assert {str(layer["encoding"]["x"].get("scale")) for layer in drawn["layer"] if "x2" not in layer["encoding"]} == {
        str({"domain": [0, line.until_s], "nice": False})
    }
    edges = [[float(end["expr"].removeprefix("height * ")) for end in scale["range"]] for scale in scales]
    assert edges[0][1] == 0.0 and edges[-1][0] == pytest.approx(1.0)
    ttft, requests, preempted, shares = edges
    assert ttft[0] < requests[1] < requests[0] < shares[1] and preempted == requests
    assert drawn["resolve"]["scale"]["y"] == "independent"


def test_what_a_server_does_not_tell_has_no_panel(cell: Cell, line: Timeline) -> None:
    less = replace(line, kv_usage=Series(), prefix_hits=Series(), preemptions=Series())
    drawn = over_time.chart(less, over_time.drawing(cell, less).rows, LIGHT).to_dict()
    titles = [layer["encoding"]["y"]["axis"]["title"] for layer in drawn["layer"] if "y" in layer["encoding"]]
    assert titles == ["TTFT", "Requests"]
    (lines,) = [layer for layer in drawn["layer"] if layer["mark"]["type"] == "line"]
    assert lines["encoding"]["color"]["scale"]["domain"] == ["running", "waiting"]
