"""A history as a table for people and as JSON. Pure."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bench.compare.change_points import LEAST_PART, LEAST_RUNS
from bench.compare.history import Group, History, Series
from bench.compare.printout import aligned, one_line, percent

_HEAD = ("figure", "runs", "level now", "change", "since", "")
_MARKS = {
    "regression": "REGRESSION",
    "improvement": "improvement",
    "no change shown": "~",
    "too few runs": "too few",
}
_SHOWN = 4


def document(found: History, *, threshold: float) -> dict[str, Any]:
    """All of it, for programs. A change's `at` is the place of its first run in `runs`; changes are shares."""
    return {
        "verdict": found.verdict,
        "exit_code": found.exit_code,
        "threshold": threshold,
        "least_runs": LEAST_RUNS,
        "groups": [_group(group) for group in found.groups],
        "unreadable": list(found.unreadable),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "runs": [
            {"run_id": point.run_id, "created": point.created, "differs": [str(one) for one in point.differs]}
            for point in group.points
        ],
        "unlike": [str(one) for one in group.unlike],
        "series": [
            {
                "engine": one.engine,
                "load": one.load,
                "figure": one.figure.name,
                "unit": one.figure.unit,
                "higher_is_better": one.figure.higher_is_better,
                "values": list(one.values),
                "changes": [
                    {**asdict(shift), "run_id": group.points[shift.at].run_id, "worse": one.is_worse(shift)}
                    for shift in one.shifts
                ],
                "verdict": one.verdict,
            }
            for one in group.series
        ],
        "left_out": list(group.left_out),
    }


def text(found: History) -> str:
    """For each group a table with a line for each figure and change, the newest group last, and the verdict."""
    parts = []
    for number, group in enumerate(found.groups, 1):
        parts.append("\n".join(_head(number, len(found.groups), group)))
        places: dict[str, list[tuple[str, ...]]] = {}
        for one in group.series:
            where = one_line(f"{one.engine} at {one.load}")
            places.setdefault(where, []).extend(_rows(one, group))
        parts += ["\n".join([where, *aligned([_HEAD, *rows], right=(1, 2, 3))]) for where, rows in places.items()]
        if group.left_out:
            parts.append("Left out\n" + "\n".join(f"  {one_line(one)}" for one in group.left_out))
    if found.unreadable:
        parts.append("Not read\n" + "\n".join(f"  {one_line(one)}" for one in found.unreadable))
    return "\n\n".join([*parts, verdict_line(found)])


def _head(number: int, groups: int, group: Group) -> Iterator[str]:
    runs = f"{len(group.points)} run{'s' if len(group.points) > 1 else ''}"
    of = f" (group {number} of {groups}: unlike runs are not mixed)" if groups > 1 else ""
    first, last = group.points[0], group.points[-1]
    yield f"{runs}, {one_line(first.run_id)} to {one_line(last.run_id)}{of}"
    if group.unlike:
        shown = "; ".join(one_line(str(one)) for one in group.unlike[:_SHOWN])
        more = f"; and {len(group.unlike) - _SHOWN} more" if len(group.unlike) > _SHOWN else ""
        yield f"  unlike the runs before: {shown}{more}"
    for point in group.points:
        for one in point.differs:
            yield f"  from {one_line(point.run_id)} on: {one_line(str(one))}"


def _rows(one: Series, group: Group) -> Iterator[tuple[str, ...]]:
    first = (one.figure.label, str(one.measured), one.figure.written(one.levels[-1]))
    if not one.shifts:
        yield (*first, "–", "", _MARKS[one.verdict])
    for i, shift in enumerate(reversed(one.shifts)):
        mark = _MARKS[one.verdict] if i == 0 else "worse" if one.is_worse(shift) else "better"
        since = one_line(group.points[shift.at].run_id)
        yield (*(first if i == 0 else ("", "", "")), percent(shift.ratio_change), since, mark)


def verdict_line(found: History) -> str:
    """The verdict in a sentence that a person can act on."""
    newest = found.groups[-1] if found.groups else None
    lines = [one for one in newest.series if one.verdict == found.verdict] if newest else []
    named = ", ".join(one_line(f"{one.figure.label} of {one.engine} at {one.load}") for one in lines[:_SHOWN])
    named += f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    match found.verdict:
        case "regression":
            return f"regression: the newest change is for the worse: {named}"
        case "improvement":
            return f"improvement: the newest change is for the better: {named}"
        case "no change shown":
            return "no change shown: no figure left its level by the threshold for good"
        case _:
            runs = max((one.measured for one in newest.series), default=0) if newest else 0
            return (
                f"too few runs: a history needs {LEAST_RUNS} like runs and the newest group has {runs}. A change is "
                f"told when {LEAST_PART} runs have it."
            )
