"""Two sides, each a run or a folder of runs → what can be held together, and what changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from bench.compare import sides as parts
from bench.compare.figures import ALL, FIGURES, REQUESTS, Figure
from bench.compare.inference import Change, Verdict, changes
from bench.compare.likeness import Difference, cell_differences, check_names, require_like, run_differences
from bench.compare.sides import Place, Side, run_id
from bench.errors import RunFolderError
from bench.run.store import Run

_ONE_AFTER_THE_OTHER = 2  # stretches of repeats of one side
_CACHED_APART = 0.05


@dataclass(frozen=True)
class Line:
    """One figure of one engine under one load in both sides."""

    engine: str
    load: str
    figure: Figure
    change: Change


@dataclass(frozen=True)
class Comparison:
    """What two sides say about each other. `left_out`: what could not be held together, and why; `notes`: what a reader
    should know before believing the verdict."""

    old: str
    new: str
    lines: tuple[Line, ...]
    allowed: tuple[Difference, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """A regression anywhere is one; else nothing can be said while a figure has too few repeats."""
        found = {line.change.verdict for line in self.lines}
        order: tuple[Verdict, ...] = ("regression", "insufficient", "improvement")
        return next((one for one in order if one in found), "no change shown" if found else "insufficient")

    @property
    def exit_code(self) -> int:
        return 1 if self.verdict == "regression" else 0


def compare(
    old: Path, new: Path, *, allowed: list[str], alpha: float, threshold: float, stored: bool = False
) -> Comparison:
    """Hold two runs, or two folders of runs, against each other; `stored` as of a Side.

    Raises RunFolderError when one is no run, both are the same, they are unlike in what `allowed` does not name, or
    they have no engine and load in common; PlanError when `allowed` names no fact.
    """
    check_names(allowed)
    sides = Side("OLD", parts.runs_at(old), stored), Side("NEW", parts.runs_at(new), stored)
    _require_different(*sides)
    places, accepted = _held_together(*sides, allowed)
    for side, wanted in zip(sides, zip(*places, strict=True), strict=True):
        for place in wanted:
            parts.measure(side, place)
    lines, absent = _lines(*sides, places, alpha=alpha, threshold=threshold)
    left_out = [*sides[0].left_out, *sides[1].left_out, *_alone(*sides, places), *absent]
    return Comparison(
        old=_named(old, sides[0].runs),
        new=_named(new, sides[1].runs),
        lines=tuple(lines),
        allowed=tuple(accepted),
        left_out=tuple(left_out),
        notes=tuple(_notes(*sides)),
    )


def differences(old: Run, new: Run) -> list[Difference]:
    """By what two runs are unlike. Raises RunFolderError when they have nothing in common or are damaged."""
    sides = Side("OLD", [old]), Side("NEW", [new])
    for side in sides:
        parts.sort_in(side)
    found = _unlike(*sides, _pairs(*sides))
    return list({str(one): one for one in found}.values())


def held_together(old: Run, new: Run, allowed: list[str]) -> list[tuple[Place, Place]]:
    """Which engine and load of OLD would be held against which of NEW, for runs that need not be measured yet.

    Raises RunFolderError as `compare` does.
    """
    return _held_together(Side("OLD", [old]), Side("NEW", [new]), allowed)[0]


def _held_together(old: Side, new: Side, allowed: list[str]) -> tuple[list[tuple[Place, Place]], list[Difference]]:
    for side in (old, new):
        parts.sort_in(side)
    places = _pairs(old, new)
    return places, require_like(list(_unlike(old, new, places)), allowed)


def _named(path: Path, runs: list[Run]) -> str:
    return run_id(runs[0]) if len(runs) == 1 else f"{path} ({len(runs)} runs)"


def _require_different(old: Side, new: Side) -> None:
    names = [run_id(run) for run in old.runs + new.runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RunFolderError(
            f"{twice} is given twice: a run does not differ from itself, and its repeats would count double. Give two "
            "runs of one plan."
        )


def _pairs(old: Side, new: Side) -> list[tuple[Place, Place]]:
    """Which place of OLD is held against which of NEW: those of the same names. The only engine of each is held against
    the other whatever their names (they are a fact, `engine.name`), and so is the only load."""
    there = {}
    for part in (0, 1):
        names = [list(dict.fromkeys(place[part] for place in side.cells)) for side in (old, new)]
        only = len(names[0]) == len(names[1]) == 1
        there[part] = {names[0][0]: names[1][0]} if only else {name: name for name in names[0] if name in names[1]}
    pairs = [
        (place, (there[0][place[0]], there[1][place[1]]))
        for place in old.cells
        if place[0] in there[0] and place[1] in there[1]
    ]
    pairs = [(one, other) for one, other in pairs if other in new.cells]
    if not pairs:
        said = " against ".join(", ".join(f"{e} at {w}" for e, w in side.cells) or "no cell" for side in (old, new))
        raise RunFolderError(f"the runs have no engine and load in common: {said}.")
    return pairs


def _unlike(old: Side, new: Side, places: list[tuple[Place, Place]]) -> Iterator[Difference]:
    first = old.runs[0]
    for side in (old, new):
        _require_one_kind(side)
    yield from run_differences(first, new.runs[0])
    for before, after in places:
        yield from cell_differences(parts.known(old, before), parts.known(new, after), " at ".join(before))


def _require_one_kind(side: Side) -> None:
    """Runs of one side are repeats of one thing: nothing may differ between them, whatever is allowed between sides."""
    for run in side.runs[1:]:
        if found := list(run_differences(side.runs[0], run)):
            raise RunFolderError(
                f"the runs of {side.word} are unlike: {run_id(side.runs[0])}, {run_id(run)}: {found[0]}"
            )
    for place, cells in side.cells.items():
        for cell in cells[1:]:
            if found := list(cell_differences(cells[0], cell, " at ".join(place))):
                raise RunFolderError(f"the cells of {side.word} are unlike: {cells[0].id}, {cell.id}: {found[0]}")


def _lines(
    old: Side, new: Side, places: list[tuple[Place, Place]], *, alpha: float, threshold: float
) -> tuple[list[Line], list[str]]:
    """Every figure that both sides have, and a sentence for those that one side lacks. One family over all places."""
    family: list[tuple[Place, Figure, list[float], list[float]]] = []
    nowhere: list[str] = []
    absent: list[str] = []
    for before, after in places:
        values = {f: (_column(old, before, f), _column(new, after, f)) for f in ALL}
        tokens = any(np.isfinite(side).any() for side in values[FIGURES[0]])
        for figure in FIGURES if tokens else (REQUESTS, *FIGURES[1:]):
            has = [bool(np.isfinite(side).any()) for side in values[figure]]
            if all(has):
                family.append((before, figure, *values[figure]))
            elif any(has):
                lacks = "NEW" if has[0] else "OLD"
                absent.append(f"{' at '.join(before)}: {figure.label}: {lacks} has no value of it")
            elif any(old.measured[before]) and any(new.measured[after]):
                nowhere.append(figure.label)
    if nowhere:
        absent.append(f"in neither run's records (of some cells at least): {', '.join(dict.fromkeys(nowhere))}")
    if not family:
        return [], absent
    old_values, new_values = (np.array([entry[i] for entry in family], dtype=np.float64).T for i in (2, 3))
    higher = [entry[1].higher_is_better for entry in family]
    found = changes(old_values, new_values, higher, alpha=alpha, threshold=threshold)
    return [Line(*entry[0], entry[1], change) for entry, change in zip(family, found, strict=True)], absent


def _column(side: Side, place: Place, figure: Figure) -> list[float]:
    """The figure of every repeat of the side, NaN where this place has none."""
    of_repeat = side.measured[place]
    found = (of_repeat.get(key, {}).get(figure.name) for key in side.repeats)
    return [np.nan if value is None else value for value in found]


def _alone(old: Side, new: Side, places: list[tuple[Place, Place]]) -> Iterator[str]:
    for side, used in zip((old, new), zip(*places, strict=True), strict=True):
        for place in sorted(side.cells.keys() - set(used)):
            yield f"{' at '.join(place)}: only in {side.word}"


def _notes(old: Side, new: Side) -> Iterator[str]:
    times = [parts.began(side) for side in (old, new)]
    order = sorted((time, side.word) for side, at in zip((old, new), times, strict=True) for time in at)
    stretches = len([word for word, _ in groupby(order, key=lambda entry: entry[1])])
    if stretches <= max(_ONE_AFTER_THE_OTHER, min(map(len, times))):
        yield (
            "The repeats of OLD and NEW were not measured by turns: a machine that was slower during one of them looks "
            "like a change of the server (docs/comparing.md)."
        )
    environments = [side.runs[0].document.get("environment") or {} for side in (old, new)]
    for fact in ("host", "os"):
        one, other = (found.get(fact) if isinstance(found, dict) else None for found in environments)
        if one != other:
            yield f"{fact}: {one} against {other}"
    shares = [side.cached_share for side in (old, new)]
    if shares[0] is not None and shares[1] is not None and abs(shares[0] - shares[1]) > _CACHED_APART:
        yield (
            f"Of their prompt tokens, OLD's servers had {shares[0]:.0%} in their prefix cache and NEW's "
            f"{shares[1]:.0%}: a server that has seen the prompts before is faster by that alone."
        )
