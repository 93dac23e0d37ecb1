"""Where labels go in a figure. Pure."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reports.measured.curves import Floats

_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area shared with `other`, in square points."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def around(x: float, y: float, radius: float) -> Box:
    """The square of half-width `radius` about a point."""
    return Box(x - radius, y - radius, x + radius, y + radius)


def along(ends: list[tuple[float, float]], step: float = 3.0) -> list[Box]:
    """Small boxes along the line through `ends`, so that a label can be kept off the line."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(ends):
        count = min(400, max(1, int(math.hypot(x1 - x0, y1 - y0) / step)))
        boxes += [around(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count, step / 2) for i in range(count + 1)]
    return boxes


def place(
    points: list[tuple[float, float]],
    texts: list[str],
    frame: Box,
    *,
    obstacles: list[Box],
    size: float = 8.0,
    radius: float = 5.0,
) -> list[tuple[float, float]]:
    """Centres (points) for a label beside each point, chosen one after the other where it covers the least.

    `size` is the text's height, `radius` the half-width of a marker, `obstacles` what else is drawn. Deterministic.
    """
    taken = _array([*obstacles, *(around(x, y, radius * 0.8) for x, y in points)])
    centres = []
    for (x, y), text in zip(points, texts, strict=True):
        half = (0.32 * size * max(1, len(text)), 0.5 * size)
        _, centre = min(
            (_cost(spot, half, taken, frame) + 0.01 * rank + step, spot)
            for step in (1.0, 1.7, 2.6)
            for rank, (dx, dy) in enumerate(_DIRECTIONS)
            for spot in [_beside((x, y), (dx, dy), half, radius * step)]
        )
        taken = np.vstack([taken, _array([_box(centre, half)])])
        centres.append(centre)
    return centres


def _beside(
    point: tuple[float, float], direction: tuple[int, int], half: tuple[float, float], gap: float
) -> tuple[float, float]:
    reach = gap * (0.72 if all(direction) else 1.0)
    return point[0] + direction[0] * (reach + half[0]), point[1] + direction[1] * (reach + half[1])


def _box(centre: tuple[float, float], half: tuple[float, float]) -> Box:
    return Box(centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])


def _array(boxes: list[Box]) -> Floats:
    """One row (left, bottom, right, top) for each box: a figure has thousands of them to keep a label off."""
    return np.array([(box.left, box.bottom, box.right, box.top) for box in boxes])


def _cost(centre: tuple[float, float], half: tuple[float, float], taken: Floats, frame: Box) -> float:
    box = _box(centre, half)
    width = np.minimum(taken[:, 2], box.right) - np.maximum(taken[:, 0], box.left)
    height = np.minimum(taken[:, 3], box.top) - np.maximum(taken[:, 1], box.bottom)
    covered = float((np.maximum(width, 0) * np.maximum(height, 0)).sum())
    return covered + 3 * (box.area - box.overlap(frame))


def columns_that_fit(widths: list[float], available: float) -> int:
    """The most columns of a legend, filled column by column, whose widest entries fit into `available`."""
    for columns in range(len(widths), 1, -1):
        rows = -(-len(widths) // columns)
        used = sum(max(widths[start : start + rows]) for start in range(0, len(widths), rows))
        if used <= available:
            return columns
    return 1
