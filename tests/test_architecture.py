"""The picture of the house: it shows the code as it is, and all its lines run down."""

import graphlib
from pathlib import Path
from typing import Any

import pytest

from tools.architecture import PICTURE, draw, house, layered, shown


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return house()


def test_the_committed_picture_shows_the_code_as_it_is(found: dict[str, Any]) -> None:
    assert shown(PICTURE) == found, "run `make architecture` and commit docs/images/architecture.svg"


def test_every_line_runs_down(found: dict[str, Any]) -> None:
    layer = {room: facts["layer"] for room, facts in found["rooms"].items()}
    order = list(layer)
    assert [layer[room] for room in order] == sorted(layer.values(), reverse=True)
    assert ["dashboards", "reports"] in found["imports"]
    for above, below in found["imports"]:
        assert layer[above] > layer[below]
        assert order.index(above) < order.index(below)


def test_a_layer_is_one_above_the_highest_import() -> None:
    assert layered("abcd", ["ab", "bc", "ac"]) == {"c": 0, "d": 0, "b": 1, "a": 2}
    with pytest.raises(graphlib.CycleError):
        layered("ab", ["ab", "ba"])


def test_a_picture_tells_what_it_shows(tmp_path: Path) -> None:
    facts = {"about": "A & <b>: “ü”", "subrooms": ["x", "y"], "modules": ["z"], "imports_inside": [["x", "y"]]}
    shows = {
        "rooms": {"upper": {"layer": 1, **facts}, "lower": {"layer": 0, **facts, "subrooms": [], "imports_inside": []}},
        "imports": [["upper", "lower"]],
    }
    draw(shows, tmp_path / "first.svg")
    draw(shows, tmp_path / "second.svg")
    assert shown(tmp_path / "first.svg") == shows
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    (tmp_path / "bare.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert shown(tmp_path / "bare.svg") is None
