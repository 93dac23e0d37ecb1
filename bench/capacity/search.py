"""One search in a run: one engine in one repeat. Its points are cells of the run, and all that it knows is in them.

Pure: the run's document and its records in, the next cell or the answer out. So a search that was interrupted goes on
from its points, and a report can follow it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from bench.capacity import words
from bench.capacity.answer import Measured, Why, answer
from bench.capacity.hopeless import Hopeless
from bench.capacity.judging import Judged, judge
from bench.capacity.points import answer_of, goes_on, judged_of, measured_points, points_of
from bench.capacity.size import floor_load, point_load, search_of, size
from bench.capacity.steps import Stop, next_level
from bench.capacity.task import Task, announcement, floor_of, least, start_of
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.plans.plan import validate
from bench.run.slo import Condition
from inputs.quantities import seconds

_FLOOR_TRIES = 2
_SEEDS_APART = 1000
_OVERRUN, _GRACE_S = 3.0, 300.0

Json = dict[str, Any]
Enough = Callable[[Sequence[Mapping[str, Any]]], str | None]


@dataclass(frozen=True)
class Wanted:
    """The next point: its load, and its entry `point` in the cell (level None: one request at a time)."""

    load: Load
    point: Json


def next_point(task: Task, document: Json, say: Callable[[str], None]) -> Wanted | None:
    """The next point to measure; None when the search has ended, which the document then says."""
    if not goes_on(document, task.engine.name, task.repeat):
        return None
    cells = points_of(document, task.engine.name, task.repeat)
    wanted = _wanted(task, document, cells, say)
    if isinstance(wanted, Wanted):
        return wanted
    found = _update(task, document, *wanted)
    say(f"{task.engine.name}: {found['said']}")
    return None


def _wanted(
    task: Task, document: Json, cells: Sequence[Json], say: Callable[[str], None]
) -> Wanted | tuple[Why, str | None]:
    """The next point, or why the search has ended and what is to be said of it."""
    name, capacity = f"capacity-{len(cells):02d}", task.capacity
    floor = floor_of(task, document)
    if floor is None:
        if len(cells) >= _FLOOR_TRIES:
            return "server", str(cells[-1]["reason"])
        return Wanted(floor_load(task.template, name), {"number": len(cells), "level": None, "expected_s": None})
    if (why := _beyond_at_rest(task, cells)) is not None:
        return "floor", why
    measured = measured_points(cells, judged_of)
    search = search_of(capacity.over, capacity.precision, floor, capacity.start or start_of(task, document))
    level = next_level(search, [one.point for one in measured])
    if isinstance(level, Stop):
        return level.why, _told(task, level.why, measured)
    if not measured:
        say(announcement(task, search, floor))
    sent = size(capacity.over, level, *least(task, floor), floor)
    if measured and _spent_s(cells) + sent.expected_s > capacity.max_time_s:
        return "time", None
    load = point_load(task.template, name, capacity.over, level, sent, floor)
    return Wanted(load, {"number": len(cells), "level": level, "expected_s": sent.expected_s})


def _told(task: Task, why: Why, measured: Sequence[Measured]) -> str | None:
    """What a point says of the search's end: the lowest that failed, or the last that cannot be believed."""
    if why == "nothing":
        lowest = min(measured, key=lambda one: one.level)
        return f"Even at {task.words(lowest.level)} {lowest.judged.why}"
    if why in ("client", "invalid"):
        untrue = [one for one in measured if one.judged.verdict == "invalid"]
        return f"{task.words(untrue[-1].level)}: {untrue[-1].judged.why}" if untrue else None
    return None


def settle(task: Task, document: Json, cell: Json, requests: pa.Table, took_s: float) -> str:
    """Judge a point that was just measured, bring the answer up to date, and say both in a line."""
    judged = judge(cell, requests, task.conditions, task.limits)
    cell["point"] |= {"took_s": took_s, **asdict(judged)}
    found = _update(task, document, None, None)
    level = cell["point"]["level"]
    if level is None:
        return f"{task.engine.name}: one request at a time took {seconds(judged.e2e_p50_s)} in the median"
    early = ", ended early" if cell.get("ended_early") else ""
    so_far = f"; so far {words.capacity(found)}" if found["low"] or found["high"] else ""
    return f"{task.engine.name}: {task.words(level)}: {judged.verdict}{early} ({judged.why}){so_far}"


def watch_of(task: Task, cell: Json, load: Load) -> Enough | None:
    """What ends this point early; None for one request at a time, which is no load."""
    expected_s = cell["point"]["expected_s"]
    if expected_s is None:
        return None
    return Hopeless(load, task.conditions, task.limits, expected_s=expected_s).look


def seed(cell: Json) -> int:
    """What sets a point's prompts and arrivals apart: a level measured again must not see the same ones."""
    return _SEEDS_APART * int(cell["point"]["number"])


def timeout_s(cell: Json) -> float:
    """When a point that does not end is given up: it may wait for answers as long as it sends, and some more."""
    return _GRACE_S + _OVERRUN * (cell["point"]["expected_s"] or 0.0)


def give_up(task: Task, document: Json, reason: str) -> None:
    """The engine cannot be measured: its search ends, with what was found so far."""
    if goes_on(document, task.engine.name, task.repeat):
        _update(task, document, "server", reason)


def reopen(document: Json) -> None:
    """A run is gone on with: searches that the server cut short go on, too."""
    for one in document.get("capacity") or []:
        if one["ended"] == "server":
            one.update(ended=None, reason=None)


def _beyond_at_rest(task: Task, cells: Sequence[Mapping[str, Any]]) -> str | None:
    """Why no load can meet the SLO: half of the requests sent one at a time are beyond a limit. None otherwise."""
    first = next((cell for cell in cells if cell["point"]["level"] is None and cell.get("metrics")), None)
    if first is None:
        return None
    for one in task.conditions:
        if one.statistic is None:
            continue
        at_rest = Condition(one.figure, "mean" if one.statistic == "mean" else "p50", one.limit, one.strict)
        value = at_rest.value(first["metrics"], from_schedule=False)
        if value is not None and not at_rest.met(value):
            return f"Even one request at a time {at_rest.name} is {one.shown(value)}, beyond {one.words}."
    return None


def _spent_s(cells: Sequence[Json]) -> float:
    return sum(cell["point"].get("took_s") or 0.0 for cell in cells)


def _update(task: Task, document: Json, why: Why | None, reason: str | None) -> Json:
    found = _found(task, document, why, reason, judged_of)
    known = answer_of(document, task.engine.name, task.repeat)
    if known is None:
        document["capacity"] = [*(document.get("capacity") or []), found]
    else:
        known.update(found)
    return found


def _found(
    task: Task, document: Mapping[str, Any], why: Why | None, reason: str | None, judged: Callable[[Json], Judged]
) -> Json:
    cells = points_of(document, task.engine.name, task.repeat)
    found = {
        "engine": task.engine.name,
        "repeat": task.repeat,
        "slo": [one.text for one in task.conditions],
        "limits": {one.name: one.limit for one in task.conditions},
        **answer(task.capacity.over, measured_points(cells, judged), floor_of(task, document), why),
        "reason": reason,
        "took_s": _spent_s(cells),
    }
    return found | {"said": words.said(found)}


def rejudged(document: Mapping[str, Any], cell: Mapping[str, Any], requests: pa.Table) -> Judged:
    """A point's verdict from its records, by the plan that the run was made with. Raises PlanError."""
    task = _task_in(document, cell["engine"]["name"], cell["repeat"])
    return judge(cell, requests, task.conditions, task.limits)


def followed(document: Mapping[str, Any], judged: Callable[[Json], Judged]) -> list[Json]:
    """The answers of a run's searches from these verdicts; why each ended is as the run says. Raises PlanError."""
    return [
        _found(_task_in(document, one["engine"], one["repeat"]), document, one["ended"], one.get("reason"), judged)
        for one in document.get("capacity") or []
    ]


def _task_in(document: Mapping[str, Any], engine: str, repeat: int) -> Task:
    plan = validate(document.get("plan") or {}, source="run.json: plan")
    named = next((one for one in plan.engines if one.name == engine), None)
    if plan.capacity is None or named is None:
        raise PlanError(f"run.json: has a search of the engine {engine!r}, which its plan does not.")
    return Task(plan, plan.capacity, named, repeat)
