"""Is a run that is taken up again still the same run? Its plan, cells, files and machine are held against each other.

Cells of one run are compared with each other, so they must have been measured alike. What differs is named, and
nothing is changed.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from bench.capacity import points
from bench.errors import RunFolderError
from bench.plans.loads import Load
from bench.plans.plan import Plan, cell_id
from bench.plans.tables import Engine
from bench.run import store
from bench.run.store import Run

OUTCOMES = ("pending", "ok", "invalid", "failed", "oom", "timeout", "unsupported", "skipped", "dropped")
MEMORY_SHARE = 0.01  # a kernel of another version keeps some MiB more or less for itself
PACKAGE = "packages."  # before a package's name: a fact's name
_SHOWN = 4


def plan_sha256(plan: dict[str, Any]) -> str:
    """The SHA-256 of a plan as run.json holds it."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def require_same(run: Run, plan: Plan, environment: dict[str, Any]) -> None:
    """Raise RunFolderError that names what differs between a run's parts, or between its machine and this one."""
    found = [*_plan(run, plan), *_cells(run, plan), *_quality(run, plan)]
    if found:
        raise RunFolderError(
            f"{run.path / 'run.json'}: its parts do not belong together, so it was changed by hand or damaged: "
            f"{_listed(found)} Restore it, or start a new run."
        )
    if found := list(_files(run)):
        raise RunFolderError(
            f"{run.path}: its files are not those that run.json tells of: {_listed(found)} Restore them, or start a "
            "new run."
        )
    if found := list(_machine(_table(run.document.get("environment")), environment)):
        raise RunFolderError(
            f"{run.path}: was measured elsewhere or with other software: {_listed(found)} Cells of one run must be "
            "comparable: start a new run here."
        )


def other_commit(before: Any, now: dict[str, Any]) -> str | None:
    """That another commit of Neural Bridge measures now, in a sentence; it does not make another run of it."""
    then, here = (_table(_table(one).get("git")).get("commit") for one in (before, now))
    return None if then == here else f"Measured by commit {then} so far, and by {here} from here on."


def _name(cell: Any) -> str | None:
    found = _table(cell).get("id")
    return found if isinstance(found, str) else None


def _table(value: Any) -> dict[str, Any]:
    """A table of run.json; an empty one where something else stands."""
    return value if isinstance(value, dict) else {}


def _listed(found: list[str]) -> str:
    more = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {more} more." if more > 0 else ".")


def _plan(run: Run, plan: Plan) -> Iterator[str]:
    known = run.document.get("plan_sha256")  # runs of earlier versions have none
    if known is not None and known != plan_sha256(run.document["plan"]):
        yield f"the plan is not the one that the run was started with (its hash was {str(known)[:12]}…)"
    remote = run.document.get("target")
    if remote is not None and (not isinstance(remote, dict) or not isinstance(remote.get("base_url"), str)):
        yield "target has no base_url"
    if remote is not None and len(plan.engines) != 1:
        yield f"one server was measured, and the plan has {len(plan.engines)} engines"


def _cells(run: Run, plan: Plan) -> Iterator[str]:
    alone = plan.capacity is not None and plan.capacity.alone
    planned = {
        cell_id(engine, load, repeat): (engine, load, repeat)
        for repeat in range(1, plan.repeats + 1)
        for engine in plan.engines
        for load in plan.loads
        if not alone
    }
    if not points.are_answers(run.document.get("capacity")):
        yield "capacity is no list of answers"
    for missing in sorted(planned.keys() - {_name(cell) for cell in run.cells}):
        yield f"the plan has a cell {missing}, run.json has none"
    for cell in run.cells:
        name = _name(cell)
        if plan.capacity is not None and name is not None and _table(cell).get("point"):
            yield from _point(name, cell, plan)
            continue
        if name is None or name not in planned:
            yield f"run.json has a cell {name!r}, the plan has none"
            continue
        engine, load, repeat = planned[name]
        yield from _differs(name, "engine", Engine, cell.get("engine"), engine)
        yield from _differs(name, "load", Load, cell.get("load"), load)
        if cell.get("repeat") != repeat:
            yield f"cell {name}: repeat is {cell.get('repeat')!r}, by its id {repeat}"
        if cell.get("outcome") not in OUTCOMES:
            yield f"cell {name}: outcome is {cell.get('outcome')!r}, which is none of {', '.join(OUTCOMES)}"
        elif cell["outcome"] in ("ok", "invalid") and not isinstance(cell.get("metrics"), dict):
            yield f"cell {name}: is {cell['outcome']} and has no metrics"


def _quality(run: Run, plan: Plan) -> Iterator[str]:
    """The quality of every planned engine, and of no other."""
    if plan.quality is None:
        return
    entries = _table(run.document.get("quality")).get("engines")
    listed = [_table(entry).get("engine") for entry in entries] if isinstance(entries, list) else []
    if listed != (planned := [engine.name for engine in plan.engines]):
        yield f"the plan has the quality of {', '.join(planned)}, run.json of {', '.join(map(str, listed)) or 'none'}"
        return
    for entry in entries or ():
        if entry.get("outcome") not in OUTCOMES:
            yield f"quality of {entry['engine']}: outcome is {entry.get('outcome')!r}, which is none"
        elif entry["outcome"] == "ok" and not isinstance(entry.get("figures"), dict):
            yield f"quality of {entry['engine']}: is ok and has no figures"


def _point(name: str, cell: dict[str, Any], plan: Plan) -> Iterator[str]:
    """What is wrong with a point of a search, whose load no plan names."""
    engine = next((one for one in plan.engines if one.name == _table(cell.get("engine")).get("name")), None)
    if engine is None or cell.get("repeat") not in range(1, plan.repeats + 1):
        yield f"cell {name}: is a point of a search that the plan does not have"
        return
    yield from _differs(name, "engine", Engine, cell.get("engine"), engine)
    try:
        Load.model_validate(cell.get("load"))
    except ValidationError:
        yield f"cell {name}: its load is not one"
    if not points.is_point(cell["point"]):
        yield f"cell {name}: its point is not one"
    if cell.get("outcome") not in OUTCOMES:
        yield f"cell {name}: outcome is {cell.get('outcome')!r}, which is none of {', '.join(OUTCOMES)}"


def _differs(name: str, part: str, model: type[BaseModel], said: Any, planned: BaseModel) -> Iterator[str]:
    try:
        found = model.model_validate(said)
    except ValidationError:
        yield f"cell {name}: its {part} is not one"
        return
    for key, here, there in setting_differences(found, planned):
        yield f"cell {name}: {part}.{key} is {here!r}, the plan says {there!r}"


def setting_differences(one: BaseModel, other: BaseModel) -> Iterator[tuple[str, Any, Any]]:
    """(key, in the one, in the other) for every setting that two of a kind (engines, loads) have differently."""
    for key in type(one).model_fields:
        here, there = getattr(one, key), getattr(other, key)
        if here != there:
            yield key, here, there


def _files(run: Run) -> Iterator[str]:
    folder = run.path / "cells"
    names = {cell["id"] for cell in run.cells}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name.partition(store.SET_ASIDE)[0] not in names:
            yield f"{path.name} is the folder of no cell"
    for cell in run.cells:
        total = _table(_table(cell.get("metrics")).get("requests")).get("total")
        if total is None:
            continue
        rows = _rows(store.cell_dir(run.path, cell["id"]) / "requests.parquet")
        if rows != total:
            said = "cannot be read" if rows is None else f"has {rows} requests"
            yield f"cell {cell['id']}: run.json tells of {total} requests, its requests.parquet {said}"
    for entry in _table(run.document.get("quality")).get("engines") or ():
        if (tokens := _table(_table(entry).get("figures")).get("tokens")) is None:
            continue
        path = store.quality_file(run.path, entry["engine"])
        if (rows := _rows(path)) != tokens:
            said = "cannot be read" if rows is None else f"has {rows} tokens"
            yield f"quality of {entry['engine']}: run.json tells of {tokens} tokens, its {path.name} {said}"


def _rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _machine(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for fact, then, here in machine_differences(before, now):
        if fact.startswith(PACKAGE):
            yield f"package {fact.removeprefix(PACKAGE)}: {then} then, {here or 'not installed'} now"
        elif isinstance(then, int) and isinstance(here, int):
            yield f"{fact}: {then:,} then, {here:,} now"
        else:
            yield f"{fact}: {then} then, {here} now"


def machine_differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(fact, then, now) for every fact of `before` about machine and software that `now` has otherwise.

    Facts are `cpu`, `gpus`, `python`, `memory_bytes` and `packages.NAME`; None: there is none now. What `before` does
    not tell of (earlier versions recorded less) is no difference.
    """
    for fact in ("cpu", "gpus", "python"):
        if fact in before and before[fact] != now.get(fact):
            yield fact, before[fact], now.get(fact)
    memory, here = before.get("memory_bytes"), now.get("memory_bytes")
    if isinstance(memory, int) and not (isinstance(here, int) and abs(memory - here) <= MEMORY_SHARE * memory):
        yield "memory_bytes", memory, here
    for name, version in sorted(_table(before.get("packages")).items()):
        if (installed := _table(now.get("packages")).get(name)) != version:
            yield f"{PACKAGE}{name}", version, installed
