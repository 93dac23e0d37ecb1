"""One side of a comparison: its runs, their cells by engine and load, and the figures of those that count.

Figures are computed anew from the records, so that runs of several versions are measured by one definition, unless
those that the runs hold are asked for.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.compare.figures import ALL
from bench.compare.likeness import SLO_LIMITS, Cell
from bench.errors import RunFolderError
from bench.plans.loads import Load
from bench.plans.tables import Engine
from bench.run.stats.summary import summarise
from bench.run.store import Run, engines_called, open_run

Settings = TypeVar("Settings", bound=BaseModel)
Place = tuple[str, str]  # the names of an engine and a load


@dataclass
class Side:
    """One side's runs, oldest first; its cells by place, and by place and repeat the figures of those that count.

    `stored`: figures are those that run.json holds, by the version that measured, and no records are read.
    """

    word: str
    runs: list[Run]
    stored: bool = False
    cells: dict[Place, list[Cell]] = field(default_factory=dict)
    measured: dict[Place, dict[tuple[int, int], dict[str, float | None]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def cached_share(self) -> float | None:
        """Of the prompt tokens that the servers counted, the share that they had in their prefix caches."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def repeats(self) -> list[tuple[int, int]]:
        return sorted({key for values in self.measured.values() for key in values})


def runs_at(path: Path) -> list[Run]:
    """The run at `path`, or all runs in that folder, oldest first."""
    inside = [] if path.name == "run.json" or (path / "run.json").exists() else sorted(path.glob("*/run.json"))
    return sorted((open_run(one) for one in inside or [path]), key=lambda run: str(run.document.get("created")))


def run_id(run: Run) -> str:
    return str(run.document.get("run_id") or run.path.resolve().name)


def sort_in(side: Side) -> None:
    """The side's cells by engine and load."""
    for number, run in enumerate(side.runs):
        for cell in engines_called(run.document)["cells"]:
            if not isinstance(cell, dict) or not isinstance(cell.get("id"), str):
                raise RunFolderError(f"{run.path / 'run.json'}: has a cell without an id; it was changed or damaged.")
            if cell.get("point"):
                continue  # each search has levels of its own
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


def known(side: Side, place: Place) -> Cell:
    """A cell of that place, one whose server started if there is one: it knows the engine's version."""
    cells = side.cells[place]
    return next((cell for cell in cells if cell.document.get("startup")), cells[0])


def measure(side: Side, place: Place) -> None:
    """The figures of the place's cells that count; why the others do not, into `left_out`."""
    values = side.measured.setdefault(place, {})
    for cell in side.cells[place]:
        run = side.runs[cell.run]
        try:
            found = _metrics(run, cell, stored=side.stored)
        except RunFolderError as error:
            side.left_out.append(f"{side.word} {cell.id}: {error}")
            continue
        if isinstance(found, str):
            side.left_out.append(f"{side.word} {cell.id}: {found}")
        else:
            repeat = cell.document.get("repeat")
            key = (cell.run, repeat if isinstance(repeat, int) else 1)
            values[key] = {figure.name: figure.of(found) for figure in ALL}
            asked, cached = found.get("prompt_tokens"), found.get("cached_tokens")
            if isinstance(asked, int) and isinstance(cached, int):
                side.prompt_tokens += asked
                side.cached_tokens += cached


def _metrics(run: Run, cell: Cell, *, stored: bool) -> dict[str, Any] | str:
    """The cell's metrics from its records; a text that says why it does not count."""
    said = cell.document
    if said.get("outcome") != "ok":
        return f"{said.get('outcome')}{': ' + str(said['reason']) if said.get('reason') else ''}"
    validity = said.get("validity")
    if isinstance(validity, dict) and validity.get("valid") is False:
        return f"invalid: {'; '.join(map(str, validity.get('reasons') or ()))}"
    if stored:
        found = said.get("metrics")
        return found if isinstance(found, dict) else "run.json holds no figures of it"
    requests = run.requests(cell.id)
    if not len(requests):
        return "its records (requests.parquet) are missing or empty"
    plan = run.document.get("plan")
    slo = plan.get("slo") if isinstance(plan, dict) else None
    limits = {name: slo[name] for name in SLO_LIMITS if slo.get(name)} if isinstance(slo, dict) else {}
    return summarise(requests, cell.load.model_dump(mode="json"), limits or None)


def began(side: Side) -> list[str]:
    """When each repeat of a side began; of a run that does not say, when it was made."""
    found: list[str] = []
    for run in side.runs:
        first: dict[str, str] = {}
        for cell in run.cells:
            if isinstance(cell.get("began"), str):
                repeat = str(cell.get("repeat"))
                first[repeat] = min(cell["began"], first.get(repeat, cell["began"]))
        found += list(first.values()) or [str(run.document.get("created"))]
    return found
