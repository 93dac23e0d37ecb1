"""Many runs over time → series of figures of like runs, and where they changed their level.

Runs that are unlike in a fact that is not allowed to differ are never in one series: they begin another group.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

from bench.compare import sides
from bench.compare.change_points import LEAST_RUNS, Shift, shifts
from bench.compare.figures import ALL, FIGURES, REQUESTS, Figure
from bench.compare.likeness import Difference, cell_differences, check_names, covers, run_differences
from bench.compare.sides import Place, Side, run_id
from bench.errors import BenchError, RunFolderError
from bench.run.store import Run, open_run

Verdict = Literal["regression", "improvement", "no change shown", "too few runs"]


@dataclass(frozen=True)
class Point:
    """A run in a series: its id, when it was made, and by what it differs from the run before it."""

    run_id: str
    created: str
    differs: tuple[Difference, ...]


@dataclass(frozen=True)
class Series:
    """One figure of one engine under one load over the runs of a group: one value a run (the mean of its valid
    repeats), None where it has none."""

    engine: str
    load: str
    figure: Figure
    values: tuple[float | None, ...]
    shifts: tuple[Shift, ...]

    @property
    def measured(self) -> int:
        return sum(value is not None for value in self.values)

    @property
    def levels(self) -> tuple[float, ...]:
        """The level before the first change, between changes, and after the last; the median without any."""
        if self.shifts:
            return self.shifts[0].before, *(shift.after for shift in self.shifts)
        return (median(value for value in self.values if value is not None),)

    @property
    def verdict(self) -> Verdict:
        """What the newest change is."""
        if self.measured < LEAST_RUNS:
            return "too few runs"
        if not self.shifts:
            return "no change shown"
        return "regression" if self.is_worse(self.shifts[-1]) else "improvement"

    def is_worse(self, shift: Shift) -> bool:
        return (shift.ratio_change > 0) != self.figure.higher_is_better


@dataclass(frozen=True)
class Group:
    """Like runs, oldest first. `unlike`: why they are not in the group before this one."""

    points: tuple[Point, ...]
    series: tuple[Series, ...]
    left_out: tuple[str, ...]
    unlike: tuple[Difference, ...]


@dataclass(frozen=True)
class History:
    """All groups, by their newest run, the newest last; `unreadable`: folders that are no runs, and why."""

    groups: tuple[Group, ...]
    unreadable: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Of the group with the newest run: a regression of any figure, else what there is to say."""
        said = {one.verdict for one in self.groups[-1].series} if self.groups else set()
        order: tuple[Verdict, ...] = ("regression", "improvement", "no change shown")
        return next((one for one in order if one in said), "too few runs")

    @property
    def exit_code(self) -> int:
        return 1 if self.verdict == "regression" else 0


@dataclass
class _Alike:
    """Runs that are gathered: each a side of its own, and what each has otherwise than the one before it."""

    members: list[tuple[Side, tuple[Difference, ...]]] = field(default_factory=list)
    unlike: tuple[Difference, ...] = ()


def history(
    folder: Path, *, allowed: list[str], threshold: float, last: int | None = None, stored: bool = False
) -> History:
    """The history of the runs in a folder, of the newest `last` of each group; `stored` as of a Side.

    Raises RunFolderError when it holds no run, PlanError when `allowed` names no fact.
    """
    check_names(allowed)
    runs, unreadable = _runs(folder)
    found = of_runs(runs, allowed=allowed, threshold=threshold, last=last, stored=stored)
    return replace(found, unreadable=(*unreadable, *found.unreadable))


def of_runs(
    runs: list[Run], *, allowed: list[str], threshold: float, last: int | None = None, stored: bool = False
) -> History:
    """The history of these runs, oldest first."""
    gathered: list[_Alike] = []
    refused: list[str] = []
    for run in runs:
        side = Side("", [run], stored)
        try:
            sides.sort_in(side)
        except RunFolderError as error:
            refused.append(str(error))
            continue
        if side.cells:
            _place(side, gathered, allowed)
    groups = [_group(alike, threshold, last) for alike in gathered]
    groups.sort(key=lambda group: group.points[-1].created)
    return History(tuple(groups), tuple(refused))


def _runs(folder: Path) -> tuple[list[Run], tuple[str, ...]]:
    found: list[Run] = []
    unreadable: list[str] = []
    for path in sorted(folder.glob("*/run.json")):
        try:
            found.append(open_run(path))
        except BenchError as error:
            unreadable.append(str(error))
    if not found:
        why = f" Not read: {unreadable[0]}" if unreadable else ""
        raise RunFolderError(f"{folder}: holds no run folder (*/run.json), so it has no history.{why}")
    return sorted(found, key=lambda run: str(run.document.get("created"))), tuple(unreadable)


def _place(side: Side, gathered: list[_Alike], allowed: list[str]) -> None:
    """Into the group of whose newest run it is a like; the newest such group, else one of its own."""
    first: tuple[Difference, ...] = ()
    for alike in reversed(gathered):
        before = alike.members[-1][0]
        common = [place for place in side.cells if place in before.cells]
        differs = tuple({str(one): one for one in _differences(before, side, common)}.values())
        if common and all(any(covers(name, one.name) for name in allowed) for one in differs):
            alike.members.append((side, differs))
            return
        first = first or differs
    gathered.append(_Alike([(side, ())], first))


def _differences(old: Side, new: Side, places: list[Place]) -> Iterator[Difference]:
    yield from run_differences(old.runs[0], new.runs[0])
    for place in places:
        yield from cell_differences(sides.known(old, place), sides.known(new, place), " at ".join(place))


def _group(alike: _Alike, threshold: float, last: int | None) -> Group:
    members = alike.members[-last:] if last else alike.members
    places = list(dict.fromkeys(place for side, _ in members for place in side.cells))
    for side, _ in members:
        for place in side.cells:
            sides.measure(side, place)
    found = [one for place in places for one in _of_place(place, [side for side, _ in members])]
    return Group(
        tuple(_point(side.runs[0], differs) for side, differs in members),
        tuple(
            Series(*place, figure, values, tuple(shifts(values, family=len(found), threshold=threshold)))
            for place, figure, values in found
        ),
        tuple(f"{run_id(side.runs[0])}:{said}" for side, _ in members for said in side.left_out),
        alike.unlike,
    )


def _point(run: Run, differs: tuple[Difference, ...]) -> Point:
    return Point(run_id(run), str(run.document.get("created") or ""), differs)


def _of_place(place: Place, members: list[Side]) -> Iterator[tuple[Place, Figure, tuple[float | None, ...]]]:
    """Every figure that some run has at the place; requests/s where no run has output tokens."""
    values = {figure: tuple(_mean(side, place, figure) for side in members) for figure in ALL}
    tokens = any(value is not None for value in values[FIGURES[0]])
    for figure in FIGURES if tokens else (REQUESTS, *FIGURES[1:]):
        if any(value is not None for value in values[figure]):
            yield place, figure, values[figure]


def _mean(side: Side, place: Place, figure: Figure) -> float | None:
    of_repeats = side.measured.get(place, {}).values()
    found = [value for repeat in of_repeats if (value := repeat.get(figure.name)) is not None]
    return sum(found) / len(found) if found else None
