"""A sweep: a whole plan as a run folder with every cell pending, or an interrupted one taken up."""

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench import resumption
from bench.adaptive import halving
from bench.capacity import points, search
from bench.capacity.task import Task, require_objective
from bench.cell.inputs import request_count, warmup_count
from bench.cell.locust_process import Machines
from bench.errors import RunFolderError
from bench.plans import constraints
from bench.plans.loads import Load
from bench.plans.plan import Plan, cell_id, validate
from bench.plans.tables import Engine
from bench.prompts.requests import check
from bench.quality import passes
from bench.remaining import Remaining
from bench.remote import again
from bench.run import store
from bench.target import Target
from monitoring.machine import describe

RETRIED = ("failed", "timeout")  # outcomes that may have been the server's passing trouble
_RESULTS = ("began", "took_s", "reason", "known_beforehand", "startup", "metrics", "reconciliation", "validity")


class Watcher(Protocol):
    """Who wants to know how a sweep goes on (a progress display, a log)."""

    def say(self, text: str) -> None: ...
    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...
    def time_left(self, left: Remaining | None) -> None: ...


@dataclass
class Sweep:
    """One run: its folder, its document (run.json), and the plan behind it."""

    run_dir: Path
    document: dict[str, Any]
    plan: Plan
    watcher: Watcher
    remote: dict[str, Any] | None = None
    machines: Machines | None = None
    only: frozenset[str] | None = None  # ids of the cells that are measured now; None: all that are pending
    _lock: list[Any] = field(default_factory=list)

    @property
    def pending(self) -> list[dict[str, Any]]:
        return [cell for cell in self.document["cells"] if cell["outcome"] == "pending"]

    @property
    def unjudged(self) -> list[dict[str, Any]]:
        """The engines whose quality has not been measured yet."""
        return passes.pending(self.document)

    @property
    def seeds_from(self) -> int:
        """What is added to a repeat's number where it seeds: two sides by turns on one server send other prompts."""
        return int((self.document.get("against") or {}).get("seeds_from") or 0)

    @property
    def unfinished(self) -> bool:
        """Whether anything is left to measure; a search says only as it goes how many points it takes."""
        return bool(self.pending or self.unjudged) or any(
            points.goes_on(self.document, task.engine.name, task.repeat) for task in self.tasks
        )

    @property
    def tasks(self) -> list[Task]:
        """The searches of the plan, one for each engine in each repeat."""
        if self.plan.capacity is None:
            return []
        repeats = range(1, self.plan.repeats + 1)
        return [Task(self.plan, self.plan.capacity, one, repeat) for repeat in repeats for one in self.plan.engines]

    def task(self, engine: Engine, repeat: int) -> Task | None:
        """The search of one engine in one repeat, if the plan has any."""
        return next((one for one in self.tasks if one.engine == engine and one.repeat == repeat), None)

    def save(self) -> None:
        store.write_json(self.run_dir / "run.json", self.document)


def start(
    plan: Plan,
    runs: Path,
    watcher: Watcher,
    *,
    command_line: str,
    remote: dict[str, Any] | None = None,
    refused: dict[str, str] | None = None,
) -> Sweep:
    """Make the run folder with every cell `pending` (see `new`)."""
    sweep = new(plan, runs, watcher, command_line=command_line, remote=remote, refused=refused)
    sweep.save()
    return sweep


def new(
    plan: Plan,
    runs: Path,
    watcher: Watcher,
    *,
    command_line: str,
    remote: dict[str, Any] | None = None,
    refused: dict[str, str] | None = None,
    environment: dict[str, Any] | None = None,
) -> Sweep:
    """A sweep with every cell `pending`, of which nothing is written yet. `remote` describes a server that already runs
    (bench.remote), `environment` the machine that will measure, unless it is this one.

    `refused`: why which loads, by name, cannot be carried; their cells are `unsupported` from the beginning.
    Raises PlanError for a prompts file, texts or a baseline that are not usable.
    """
    require_objective(plan)
    if plan.adaptive is not None:
        halving.contest(plan)
    plan, files = _with_files(plan, watcher)
    alone = plan.capacity is not None and plan.capacity.alone
    now = datetime.now(UTC)
    run_id = store.new_run_id(plan.name, now)
    document = {
        "format": store.FORMAT,
        "run_id": run_id,
        "created": now.isoformat(timespec="seconds"),
        "finished": None,
        "command": command_line,
        "target": remote,
        "plan": (planned := plan.model_dump(mode="json")),
        "plan_sha256": resumption.plan_sha256(planned),
        "environment": environment or describe(),
        "cells": [
            pending_cell(engine, load, repeat, (refused or {}).get(load.name), _skipped(plan, engine, load))
            | {"prompts": files.get(load.name)}
            for repeat in range(1, plan.repeats + 1)
            for engine in plan.engines
            for load in plan.loads
            if not alone
        ],
        "quality": passes.start(plan, remote=remote is not None),
    }
    return Sweep(runs / run_id, document, plan, watcher, remote)


def _skipped(plan: Plan, engine: Engine, load: Load) -> str | None:
    """Why a cell is not measured, as far as the plan alone says."""
    return constraints.skipped(plan.skip, engine, load) or constraints.of_load(engine, load)


def resume(
    run_dir: Path, watcher: Watcher, *, retry_failed: bool = False, environment: dict[str, Any] | None = None
) -> Sweep:
    """Take up a run: its pending cells are measured, with `retry_failed` the failed ones too; all others stay.
    `environment`: the machine that will measure, unless it is this one.

    Raises RunFolderError when it is not the same run any more (see bench.resumption), TargetError when its server does
    not answer. Nothing is written here.
    """
    run = store.open_run(run_dir)
    document = copy.deepcopy(run.document)
    if not isinstance(document.get("plan"), dict):
        raise RunFolderError(f"{run.path / 'run.json'}: has no plan, so it cannot be gone on with.")
    plan = validate(document["plan"], source=f"{run.path / 'run.json'}: plan")
    environment = environment or describe()
    resumption.require_same(run, plan, environment)
    if note := resumption.other_commit(document.get("environment"), environment):
        watcher.say(note)
    sweep = Sweep(run.path, document, plan, watcher, document.get("target"))
    if retry_failed:
        for cell in document["cells"]:
            if cell["outcome"] in RETRIED:
                cell.update(outcome="pending", **dict.fromkeys(_RESULTS))
                cell.pop("placed", None)
                points.forget(cell)
        passes.retry(document, RETRIED)
        halving.reopen(document)
        document["finished"] = None
    search.reopen(document)
    if sweep.unfinished:
        _with_files(plan, watcher)
    if sweep.remote is not None and sweep.unfinished:
        target = again(sweep.remote)
        if other := other_model(plan.engines[0], target):
            raise RunFolderError(f"{run.path}: {other} Start a new run.")
    return sweep


def other_model(engine: Engine, target: Target) -> str | None:
    """That a server serves another model than the one its cells are named after, in a sentence; None if it does not."""
    if target.model == engine.model:
        return None
    return f"The server at {target.base_url} serves {target.model} now, and {engine.model} when the run was started."


def _with_files(plan: Plan, watcher: Watcher) -> tuple[Plan, dict[str, str]]:
    """The plan with its prompts files read (a trace's number of requests and rate are in its load), and a line for each
    load with a file, by its name."""
    loads: list[Load] = []
    files: dict[str, str] = {}
    for load in plan.loads:
        checked = load
        if load.prompts_file is not None:
            checked, files[load.name] = check(load, warmup_count(load) + request_count(load))
            watcher.say(files[load.name])
        loads.append(checked)
    return plan.model_copy(update={"loads": tuple(loads)}), files


def pending_cell(
    engine: Engine, load: Load, repeat: int, refused: str | None, skipped: str | None = None
) -> dict[str, Any]:
    """A cell to be measured; or one that is not, because the server refuses its load, or it is skipped."""
    cell = {
        "id": cell_id(engine, load, repeat),
        "engine": engine.model_dump(mode="json"),
        "load": load.model_dump(mode="json"),
        "repeat": repeat,
        **dict.fromkeys(_RESULTS),
        "outcome": "unsupported" if refused else "skipped" if skipped else "pending",
        "reason": refused or skipped,
    }
    return cell | ({"known_beforehand": True} if skipped and not refused else {})
