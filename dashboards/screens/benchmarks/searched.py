"""What the searches for a capacity measured: every point, the answer with its interval, what limits it. Pure."""

from dataclasses import dataclass
from typing import Any

from inputs.quantities import number
from reports.measured.cells import Report
from reports.measured.searches import Search, point_level, point_verdict, searches, shown_condition
from reports.names import listing, shortened

Rows = list[dict[str, Any]]
OVER = {"rate": "Requests/s offered", "concurrency": "Concurrent requests"}
MET, MISSED, INVALID = "met the SLO", "missed it", "invalid, not counted"
VERDICTS = {"pass": MET, "fail": MISSED, "invalid": INVALID}


@dataclass(frozen=True)
class Searched:
    """All searches of a run, as a figure takes them.

    `condition` is the one that is drawn, `limit` its limit in seconds or as a share; `points` are in the order of their
    measurement, `intervals` hold the capacity of each search that has found one.
    """

    over: str
    slo: str
    condition: str
    limit: float
    is_time: bool
    points: Rows
    intervals: Rows
    said: tuple[str, ...]
    searches: tuple[Search, ...]

    @property
    def ended_early(self) -> bool:
        """Whether a point was ended before it had the value that is drawn."""
        return any(row["value"] is None and row["says"] == MISSED for row in self.points)


def searched(report: Report) -> Searched | None:
    """What a run's searches found; None where nothing was searched, or no point was measured at a level."""
    found = searches(report)
    if not found:
        return None
    name = shown_condition(found)
    points = [
        {
            "engine": one.engine,
            "repeat": one.repeat,
            "point": cell.id,
            "level": level,
            "says": VERDICTS[point_verdict(cell)],
            "value": cell.judged.figures.get(name) if cell.judged else None,
            "goodput_rps": cell.judged.goodput_rps if cell.judged else None,
            "requests": cell.judged.requests if cell.judged else None,
            "why": cell.judged.why if cell.judged else None,
        }
        for one in found
        for cell in one.points
        if (level := point_level(cell)) is not None
    ]
    intervals = [
        {"engine": one.engine, "repeat": one.repeat, **{end: one.answer[end] for end in ("low", "value", "high")}}
        for one in found
        if one.answer["value"] is not None
    ]
    return Searched(
        over=found[0].answer["over"],
        slo=listing(found[0].answer["slo"], 8),
        condition=name,
        limit=float(found[0].answer["limits"][name]),
        is_time="_" in name,
        points=points,
        intervals=intervals,
        said=tuple(f"{shortened(one.engine, 60)}: {one.answer['said']}" for one in found),
        searches=found,
    )


def caption(found: Searched) -> str:
    """The caption of the limiting figure over the level."""
    text = (
        f"{found.condition} of every point of the search, after its warm-up, against the SLO ({found.slo}). Shaded: "
        "the interval of each engine's capacity, from all verdicts together."
    )
    if found.ended_early:
        text += " A point at the upper edge was ended early, as soon as it could no longer pass: it has no value."
    return text


def words(found: Searched) -> str:
    """Every point with its verdict, and the answer."""
    by_engine: dict[str, list[str]] = {}
    for row in found.points:
        by_engine.setdefault(row["engine"], []).append(f"{number(row['level'])} {row['says']}")
    points = ". ".join(f"{shortened(engine, 60)}: {', '.join(parts)}" for engine, parts in by_engine.items())
    return f"{' '.join(found.said)} Points: {points}."
