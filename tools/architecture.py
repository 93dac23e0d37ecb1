"""The house as one picture, drawn from its imports: `python -m tools.architecture` writes docs/images/architecture.svg.

Rooms stand in layers, each above all that it imports. What the picture shows is also in it as data, so that a test can
tell when it no longer shows the code.
"""

import ast
import graphlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tools.imports import MODULES, ROOMS, ROOT, floor, imported

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
# Doors may call any room, and every module of a room its errors: neither says how the house is built.
_UNSHOWN = ("cli", "errors")
_COLORS = ("#2f6db3", "#b3562f", "#3f8f5a", "#7d4fa3", "#a68a1f", "#2b8a91", "#b0416b", "#5c6b7a", "#8a5a3b", "#4455aa")
_INK, _FAINT = "#222222", "#6b7280"
# Inches.
_WIDTH, _LEFT, _TEXT, _LANE, _GAP, _CHIP, _CHIP_WIDTH = 13.0, 0.9, 3.5, 0.28, 0.16, 0.3, 1.3


def house() -> dict[str, Any]:
    """What the picture shows: each room with its layer, first sentence, sub-rooms and modules; who imports whom.

    Doors (cli.py) are left out on both sides. Raises graphlib.CycleError when imports go in a circle.
    """
    pairs = {
        (floor(name), floor(other))
        for name, path in MODULES.items()
        for other in imported(path) & set(MODULES)
        if name.rpartition(".")[2] != "cli"
    }
    between = sorted({(a.partition(".")[0], b.partition(".")[0]) for a, b in pairs})
    arrows = [(a, b) for a, b in between if a != b]
    layers = layered(ROOMS, arrows)
    rooms = {}
    for room in sorted(ROOMS, key=lambda one: (-layers[one], one)):
        floors = sorted({floor(name) for name in MODULES if name.startswith(f"{room}.")})
        subrooms = [name for name in floors if MODULES[name].name == "__init__.py"]
        inner = sorted((a, b) for a, b in pairs if a != b and {a, b} <= set(subrooms))
        rooms[room] = {
            "layer": layers[room],
            "about": _first_sentence(MODULES[room]),
            "subrooms": [name.rpartition(".")[2] for name in subrooms],
            "modules": [name.rpartition(".")[2] for name in floors if name not in subrooms and _is_shown(name)],
            "imports_inside": [[a.rpartition(".")[2], b.rpartition(".")[2]] for a, b in inner],
        }
    return {"rooms": rooms, "imports": [list(pair) for pair in arrows]}


def layered(nodes: Sequence[str], arrows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The layer of each node: 0 for those that import nothing, else one above the highest that it imports.

    Raises graphlib.CycleError when imports go in a circle.
    """
    below = {node: {b for a, b in arrows if a == node} for node in nodes}
    layers: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(below).static_order():
        layers[node] = 1 + max((layers[other] for other in below[node]), default=-1)
    return layers


def shown(picture: Path = PICTURE) -> Any:
    """The data in a committed picture."""
    description = ElementTree.parse(picture).find(".//{http://purl.org/dc/elements/1.1/}description")  # noqa: S314 - our own file
    return json.loads(description.text or "null") if description is not None else None


def draw(shows: Mapping[str, Any], path: Path) -> None:
    """Write the picture of `shows` to `path`; the same data give the same file."""
    rooms: Mapping[str, Any] = shows["rooms"]
    heights = {room: _height(facts) for room, facts in rooms.items()}
    lanes = [room for room in reversed(list(rooms)) if any(b == room for _, b in shows["imports"])]
    total = sum(heights.values()) + _GAP * (len(rooms) - 1) + 1.5
    figure = Figure(figsize=(_WIDTH, total))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(0, total))
    axes.axis("off")
    right = _WIDTH - 0.4 - _LANE * len(lanes)
    _head(axes, total, right)
    y, spans = total - 1.35, {}
    for number, (room, facts) in enumerate(rooms.items()):
        y -= heights[room]
        spans[room] = (y, heights[room])
        _room(axes, room, facts, (_LEFT, y, right - _LEFT, heights[room]), _COLORS[number % len(_COLORS)])
        y -= _GAP
    ports = _ports(spans, lanes, shows["imports"])
    for number, lane in enumerate(lanes):
        color = _COLORS[list(rooms).index(lane) % len(_COLORS)]
        callers = [ports[a, lane] for a, b in shows["imports"] if b == lane]
        _lane(axes, right, right + _LANE * (number + 1), ports[lane, lane], callers, color)
    for layer in sorted({facts["layer"] for facts in rooms.values()}):
        ys = [spans[room][0] + spans[room][1] / 2 for room, facts in rooms.items() if facts["layer"] == layer]
        axes.text(0.45, sum(ys) / len(ys), f"layer\n{layer}", ha="center", va="center", fontsize=9, color=_FAINT)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "house", "font.family": "sans-serif"}):
        data = json.dumps(shows, ensure_ascii=False, indent=1)
        figure.savefig(
            path, format="svg", metadata={"Date": None, "Creator": "tools/architecture.py", "Description": data}
        )


def _head(axes: Axes, top: float, right: float) -> None:
    axes.text(_LEFT, top - 0.32, "Who imports whom in Neural Bridge", fontsize=15, weight="bold", color=_INK)
    words = (
        "A line starts at a dot on a room's right edge and ends with an arrowhead at the room that it imports, in that "
        "room's colour. All of them run down.\n"
        "Inside a room: its sub-rooms, with arrows to those that they import (none where another way leads there); "
        "in italics the modules beside them."
    )
    axes.text(_LEFT, top - 0.46, words, fontsize=9, color=_FAINT, va="top", linespacing=1.4)
    axes.add_patch(_box(_LEFT, top - 1.23, right - _LEFT, 0.32, facecolor="#f3f4f6", edgecolor=_FAINT))
    words = "opens a room's door, its cli.py, when its command runs; doors, which may call any room, are not drawn"
    axes.text(_LEFT + 0.14, top - 1.12, "nbridge.py", fontsize=10, weight="bold", color=_INK)
    axes.text(_LEFT + 1.15, top - 1.12, words, fontsize=9, color=_INK)


def _ports(
    spans: Mapping[str, tuple[float, float]], lanes: Sequence[str], arrows: Sequence[Sequence[str]]
) -> dict[tuple[str, str], float]:
    """The height at which each room meets each lane: its own at the top, then from the outermost lane inwards."""
    ports = {}
    for room, (bottom, height) in spans.items():
        met = [room] * (room in lanes) + [
            lane for lane in reversed(lanes) if [room, lane] in [list(one) for one in arrows]
        ]
        for number, lane in enumerate(met):
            ports[room, lane] = bottom + height * (len(met) - number) / (len(met) + 1)
    return ports


def _columns(facts: Mapping[str, Any]) -> list[list[str]]:
    """Sub-rooms by layer, the highest first."""
    layers = layered(facts["subrooms"], facts["imports_inside"])
    return [
        [name for name in facts["subrooms"] if layers[name] == one]
        for one in sorted(set(layers.values()), reverse=True)
    ]


def _height(facts: Mapping[str, Any]) -> float:
    stacked = max((len(column) for column in _columns(facts)), default=0)
    text = 0.3 + 0.17 * len(textwrap.wrap(facts["about"], 50))
    chips = stacked * (_CHIP + 0.1) + 0.2 * len(_module_lines(facts)) + 0.1
    return max(text, chips) + 0.2


def _module_lines(facts: Mapping[str, Any]) -> list[str]:
    return textwrap.wrap(" · ".join(facts["modules"]), 105)


def _room(axes: Axes, room: str, facts: Mapping[str, Any], box: tuple[float, float, float, float], color: str) -> None:
    x, y, width, height = box
    axes.add_patch(_box(x, y, width, height, facecolor=f"{color}12", edgecolor=color, linewidth=1.4))
    axes.text(x + 0.14, y + height - 0.27, f"{room}/", fontsize=12, weight="bold", color=color)
    for number, line in enumerate(textwrap.wrap(facts["about"], 50)):
        axes.text(x + 0.14, y + height - 0.47 - 0.17 * number, line, fontsize=8.5, color=_INK)
    lines = _module_lines(facts)
    for number, line in enumerate(reversed(lines)):
        low = 0.12 if facts["subrooms"] else (height - 0.2 * len(lines)) / 2
        axes.text(x + _TEXT, y + low + 0.2 * number, line, fontsize=8.5, style="italic", color=_FAINT)
    bottom = y + 0.08 + 0.2 * len(lines)
    columns = _columns(facts)
    step = min(1.75, (width - _TEXT - 0.1) / max(1, len(columns)))
    places = {}
    for i, column in enumerate(columns):
        for j, name in enumerate(column):
            middle = bottom + (y + height - bottom) * (len(column) - j) / (len(column) + 1)
            places[name] = (x + _TEXT + step * i, middle)
            axes.add_patch(
                _box(
                    places[name][0],
                    middle - _CHIP / 2,
                    _CHIP_WIDTH,
                    _CHIP,
                    facecolor="white",
                    edgecolor=color,
                    zorder=3,
                )
            )
            axes.text(places[name][0] + _CHIP_WIDTH / 2, middle, name, ha="center", va="center", fontsize=9, zorder=4)
    for a, b in _needed(facts["imports_inside"]):
        begin, end = (places[a][0] + _CHIP_WIDTH, places[a][1]), places[b]
        axes.add_patch(_arrow(begin, end, color, 9, 0 if end[0] - begin[0] < step else -0.18))


def _needed(arrows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """The arrows without those between two that a longer way joins, too."""
    below: dict[str, set[str]] = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)

    def reached(node: str) -> set[str]:
        return below.get(node, set()).union(*(reached(other) for other in below.get(node, ())))

    return [(a, b) for a, b in arrows if not any(b in reached(other) for other in below[a] - {b})]


def _lane(axes: Axes, edge: float, x: float, end: float, callers: Sequence[float], color: str) -> None:
    """One room's lane at `x`: down from the highest room that imports it, and into it at the height `end`."""
    axes.plot([x, x], [max(callers), end], color=color, linewidth=1.6, zorder=1)
    for caller in callers:
        axes.plot([edge, x], [caller] * 2, color=color, linewidth=1.6, zorder=1)
        axes.plot([edge], [caller], "o", color=color, markersize=4.5, zorder=3)
    axes.add_patch(_arrow((x, end), (edge, end), color, 14))


def _arrow(
    begin: tuple[float, float], end: tuple[float, float], color: str, size: float, bend: float = 0
) -> FancyArrowPatch:
    return FancyArrowPatch(
        begin,
        end,
        arrowstyle="-|>",
        connectionstyle=f"arc3,rad={bend}",
        mutation_scale=size,
        color=color,
        linewidth=size / 9,
        shrinkA=0,
        shrinkB=0,
        zorder=2,
    )


def _box(x: float, y: float, width: float, height: float, **style: Any) -> FancyBboxPatch:
    return FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.07", **style)


def _is_shown(name: str) -> bool:
    return name.rpartition(".")[2] not in _UNSHOWN


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")


if __name__ == "__main__":
    draw(house(), PICTURE)
