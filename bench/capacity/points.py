"""The points and answers of searches as a run's document holds them. Pure; damaged ones are told, never followed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from bench.capacity.answer import Measured
from bench.capacity.judging import Judged
from bench.capacity.steps import Verdict

WANTED = ("number", "level", "expected_s")  # of a cell's `point`, before it is measured

Json = dict[str, Any]


def points_of(document: Mapping[str, Any], engine: str, repeat: int) -> list[Json]:
    """The cells of one search, in the order of their measurement."""
    return [
        cell
        for cell in document["cells"]
        if cell.get("point") and cell["engine"]["name"] == engine and cell["repeat"] == repeat
    ]


def answer_of(document: Mapping[str, Any], engine: str, repeat: int) -> Json | None:
    """What a search has found so far; `ended` is None while it goes on."""
    found = document.get("capacity") or []
    return next((one for one in found if one["engine"] == engine and one["repeat"] == repeat), None)


def goes_on(document: Mapping[str, Any], engine: str, repeat: int) -> bool:
    """Whether a search has not ended yet."""
    return not (answer_of(document, engine, repeat) or {}).get("ended")


def is_point(point: Any) -> bool:
    """Whether a cell's entry `point` can be gone on from: not measured yet, or with a verdict."""
    if not isinstance(point, dict) or not set(WANTED) <= point.keys():
        return False
    level, verdict = point["level"], point.get("verdict")
    positive = level is None or (isinstance(level, int | float) and 0 < level < math.inf)
    judged = set(Judged.__dataclass_fields__) <= point.keys() and verdict in get_args(Verdict)
    return positive and (verdict is None or judged)


def are_answers(found: Any) -> bool:
    """Whether a run's entry `capacity` can be gone on from."""
    return found is None or (
        isinstance(found, list)
        and all(isinstance(one, dict) and {"engine", "repeat", "ended"} <= one.keys() for one in found)
    )


def forget(cell: Json) -> None:
    """A point is to be measured again: what was found there does not count."""
    if cell.get("point"):
        cell["point"] = {name: cell["point"][name] for name in WANTED}


def measured_points(cells: Sequence[Json], judged: Callable[[Json], Judged]) -> list[Measured]:
    """The points that were measured at a level, as `judged` says; not those whose server could not be reached."""
    return [
        Measured(str(cell["id"]), float(cell["point"]["level"]), judged(cell))
        for cell in cells
        if cell["point"]["level"] is not None and "verdict" in cell["point"]
    ]


def judged_of(cell: Mapping[str, Any]) -> Judged:
    """A point's verdict as it is stored in its cell."""
    point = cell["point"]
    stored = {name: point[name] for name in Judged.__dataclass_fields__}
    return Judged(**{**stored, "missed": tuple(stored["missed"])})
