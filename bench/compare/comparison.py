"""Two sides, each a run or a folder of runs → what can be held together, and what changed.

Figures are computed anew from the records, so that runs of several versions are measured by one definition.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from bench.compare.figures import FIGURES, REQUESTS, Figure
from bench.compare.inference import Change, Verdict, changes
from bench.compare.likeness import (
    SLO_LIMITS,
    Cell,
    Difference,
    cell_differences,
    check_names,
    require_like,
    run_differences,
)
from bench.errors import RunFolderError
from bench.plans.tables import Engine, Load
from bench.run import stats
from bench.run.store import Run, open_run

Settings = TypeVar("Settings", bound=BaseModel)
Place = tuple[str, str]  # the names of an engine and a load
_OF_ALL = (*FIGURES, REQUESTS)
_ONE_AFTER_THE_OTHER = 2  # stretches of runs of one side


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


@dataclass
class Side:
    """One side's runs, oldest first; its cells by place, and by place and repeat the figures of those that count."""

    word: str
    runs: list[Run]
    cells: dict[Place, list[Cell]] = field(default_factory=dict)
    measured: dict[Place, dict[tuple[int, int], dict[str, float | None]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def repeats(self) -> list[tuple[int, int]]:
        return sorted({key for values in self.measured.values() for key in values})


def compare(old: Path, new: Path, *, allowed: list[str], alpha: float, threshold: float) -> Comparison:
    """Hold two runs, or two folders of runs, against each other.

    Raises RunFolderError when one is no run, both are the same, they are unlike in what `allowed` does not name, or
    they have no engine and load in common; PlanError when `allowed` names no fact.
    """
    check_names(allowed)
    sides = Side("OLD", _runs(old)), Side("NEW", _runs(new))
    _require_different(*sides)
    for side in sides:
        _sort_in(side)
    places = _pairs(*sides)
    accepted = require_like(list(_unlike(*sides, places)), allowed)
    for side, wanted in zip(sides, zip(*places, strict=True), strict=True):
        for place in wanted:
            _measure(side, place)
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


def _runs(path: Path) -> list[Run]:
    """The run at `path`, or all runs in that folder, oldest first."""
    inside = [] if path.name == "run.json" or (path / "run.json").exists() else sorted(path.glob("*/run.json"))
    return sorted((open_run(one) for one in inside or [path]), key=lambda run: str(run.document.get("created")))


def _named(path: Path, runs: list[Run]) -> str:
    return _id(runs[0]) if len(runs) == 1 else f"{path} ({len(runs)} runs)"


def _id(run: Run) -> str:
    return str(run.document.get("run_id") or run.path.resolve().name)


def _require_different(old: Side, new: Side) -> None:
    names = [_id(run) for run in old.runs + new.runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RunFolderError(
            f"{twice} is given twice: a run does not differ from itself, and its repeats would count double. Give two "
            "runs of one plan."
        )


def _sort_in(side: Side) -> None:
    """The side's cells by engine and load."""
    for number, run in enumerate(side.runs):
        for cell in run.cells:
            if not isinstance(cell, dict) or not isinstance(cell.get("id"), str):
                raise RunFolderError(f"{run.path / 'run.json'}: has a cell without an id; it was changed or damaged.")
            known = Cell(cell, _settings(run, cell, Engine), _settings(run, cell, Load), number)
            side.cells.setdefault((known.engine.name, known.load.name), []).append(known)


def _settings(run: Run, cell: dict[str, Any], kind: type[Settings]) -> Settings:
    key = kind.__name__.lower()
    try:
        return kind.model_validate(cell.get(key))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (key, *first["loc"])))
        raise RunFolderError(
            f"{run.path / 'run.json'}: cell {cell['id']}: {where}: {first['msg']}. It was changed by hand, or written "
            "by a version whose settings this one does not know."
        ) from None


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
        yield from cell_differences(_known(old, before), _known(new, after), " at ".join(before))


def _known(side: Side, place: Place) -> Cell:
    """A cell of that place, one whose server started if there is one: it knows the engine's version."""
    cells = side.cells[place]
    return next((cell for cell in cells if cell.document.get("startup")), cells[0])


def _require_one_kind(side: Side) -> None:
    """Runs of one side are repeats of one thing: nothing may differ between them, whatever is allowed between sides."""
    for run in side.runs[1:]:
        if found := list(run_differences(side.runs[0], run)):
            raise RunFolderError(f"the runs of {side.word} are unlike: {_id(side.runs[0])}, {_id(run)}: {found[0]}")
    for place, cells in side.cells.items():
        for cell in cells[1:]:
            if found := list(cell_differences(cells[0], cell, " at ".join(place))):
                raise RunFolderError(f"the cells of {side.word} are unlike: {cells[0].id}, {cell.id}: {found[0]}")


def _measure(side: Side, place: Place) -> None:
    """The figures of the place's cells that count; why the others do not, into `left_out`."""
    values = side.measured.setdefault(place, {})
    for cell in side.cells[place]:
        run = side.runs[cell.run]
        try:
            found = _metrics(run, cell)
        except RunFolderError as error:
            side.left_out.append(f"{side.word} {cell.id}: {error}")
            continue
        if isinstance(found, str):
            side.left_out.append(f"{side.word} {cell.id}: {found}")
        else:
            repeat = cell.document.get("repeat")
            key = (cell.run, repeat if isinstance(repeat, int) else 1)
            values[key] = {figure.name: figure.of(found) for figure in _OF_ALL}


def _metrics(run: Run, cell: Cell) -> dict[str, Any] | str:
    """The cell's metrics from its records; a text that says why it does not count."""
    said = cell.document
    if said.get("outcome") != "ok":
        return f"{said.get('outcome')}{': ' + str(said['reason']) if said.get('reason') else ''}"
    validity = said.get("validity")
    if isinstance(validity, dict) and validity.get("valid") is False:
        return f"invalid: {'; '.join(map(str, validity.get('reasons') or ()))}"
    requests = run.requests(cell.id)
    if not len(requests):
        return "its records (requests.parquet) are missing or empty"
    plan = run.document.get("plan")
    slo = plan.get("slo") if isinstance(plan, dict) else None
    limits = {name: slo[name] for name in SLO_LIMITS if slo.get(name)} if isinstance(slo, dict) else {}
    return stats.summarise(requests, cell.load.model_dump(mode="json"), limits or None)


def _lines(
    old: Side, new: Side, places: list[tuple[Place, Place]], *, alpha: float, threshold: float
) -> tuple[list[Line], list[str]]:
    """Every figure that both sides have, and a sentence for those that one side lacks. One family over all places."""
    family: list[tuple[Place, Figure, list[float], list[float]]] = []
    nowhere: list[str] = []
    absent: list[str] = []
    for before, after in places:
        values = {f: (_column(old, before, f), _column(new, after, f)) for f in _OF_ALL}
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
    order = [word for _, word in sorted((str(r.document.get("created")), s.word) for s in (old, new) for r in s.runs)]
    stretches = len([key for key, _ in groupby(order)])
    if stretches <= max(_ONE_AFTER_THE_OTHER, min(len(old.runs), len(new.runs))):
        yield (
            "The repeats of OLD and NEW were not measured by turns: a machine that was slower during one of them looks "
            "like a change of the server (docs/comparing.md)."
        )
    environments = [side.runs[0].document.get("environment") or {} for side in (old, new)]
    for fact in ("host", "os"):
        one, other = (found.get(fact) if isinstance(found, dict) else None for found in environments)
        if one != other:
            yield f"{fact}: {one} against {other}"
