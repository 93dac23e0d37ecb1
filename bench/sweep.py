"""A whole plan, cell by cell. What happens to one cell or engine is recorded and the sweep goes on."""

import contextlib
import copy
import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from bench import resumption
from bench.capacity import points, search
from bench.capacity.task import Task, require_objective
from bench.cell.inputs import request_count, warmup_count
from bench.cell.locust_process import Machines
from bench.cell.measurement import measure, set_aside
from bench.errors import RunFolderError
from bench.plans.loads import Load
from bench.plans.plan import Plan, cell_id, validate
from bench.plans.tables import Engine
from bench.prompts.requests import check
from bench.quality import passes
from bench.remote import again, running_server
from bench.run import store
from bench.target import CannotServe, Served, Target, own_server
from monitoring.machine import describe

RETRIED = ("failed", "timeout")  # outcomes that may have been the server's passing trouble
_RESULTS = ("began", "reason", "known_beforehand", "startup", "metrics", "reconciliation", "validity")


class Watcher(Protocol):
    """Who wants to know how a sweep goes on (a progress display, a log)."""

    def say(self, text: str) -> None: ...
    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...


@dataclass
class Sweep:
    """One run: its folder, its document (run.json), and the plan behind it."""

    run_dir: Path
    document: dict[str, Any]
    plan: Plan
    watcher: Watcher
    remote: dict[str, Any] | None = None
    machines: Machines | None = None
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
) -> Sweep:
    """A sweep with every cell `pending`, of which nothing is written yet. `remote` describes a server that already runs
    (bench.remote).

    `refused`: why which loads, by name, cannot be carried; their cells are `unsupported` from the beginning.
    Raises PlanError for a prompts file, texts or a baseline that are not usable.
    """
    require_objective(plan)
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
        "environment": describe(),
        "cells": [
            _pending_cell(engine, load, repeat, (refused or {}).get(load.name)) | {"prompts": files.get(load.name)}
            for repeat in range(1, plan.repeats + 1)
            for engine in plan.engines
            for load in plan.loads
            if not alone
        ],
        "quality": passes.start(plan, remote=remote is not None),
    }
    return Sweep(runs / run_id, document, plan, watcher, remote)


def resume(run_dir: Path, watcher: Watcher, *, retry_failed: bool = False) -> Sweep:
    """Take up a run: its pending cells are measured, with `retry_failed` the failed ones too; all others stay.

    Raises RunFolderError when it is not the same run any more (see bench.resumption), TargetError when its server does
    not answer. Nothing is written here.
    """
    run = store.open_run(run_dir)
    document = copy.deepcopy(run.document)
    if not isinstance(document.get("plan"), dict):
        raise RunFolderError(f"{run.path / 'run.json'}: has no plan, so it cannot be gone on with.")
    plan = validate(document["plan"], source=f"{run.path / 'run.json'}: plan")
    environment = describe()
    resumption.require_same(run, plan, environment)
    if note := resumption.other_commit(document.get("environment"), environment):
        watcher.say(note)
    sweep = Sweep(run.path, document, plan, watcher, document.get("target"))
    if retry_failed:
        for cell in document["cells"]:
            if cell["outcome"] in RETRIED:
                cell.update(outcome="pending", **dict.fromkeys(_RESULTS))
                points.forget(cell)
        passes.retry(document, RETRIED)
        document["finished"] = None
    search.reopen(document)
    if sweep.unfinished:
        _with_files(plan, watcher)
    if sweep.remote is not None and sweep.unfinished:
        target = again(sweep.remote)
        if other := _other_model(plan.engines[0], target):
            raise RunFolderError(f"{run.path}: {other} Start a new run.")
    return sweep


def _other_model(engine: Engine, target: Target) -> str | None:
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


def _pending_cell(engine: Engine, load: Load, repeat: int, refused: str | None) -> dict[str, Any]:
    return {
        "id": cell_id(engine, load, repeat),
        "engine": engine.model_dump(mode="json"),
        "load": load.model_dump(mode="json"),
        "repeat": repeat,
        **dict.fromkeys(_RESULTS),
        "outcome": "pending" if refused is None else "unsupported",
        "reason": refused,
    }


def run(sweep: Sweep) -> None:
    """Measure every pending cell. Each result is on disk before the next cell begins.

    KeyboardInterrupt ends the current cell and its server, leaves that cell pending, and goes on to the caller.
    """
    with at_work(sweep):
        for repeat in range(1, sweep.plan.repeats + 1):
            run_repeat(sweep, repeat)


@contextlib.contextmanager
def at_work(sweep: Sweep) -> Iterator[None]:
    """Hold the run folder for this process; its end without an exception is the run's end."""
    with _only_one(sweep.run_dir):
        passes.keep_baseline(sweep.run_dir, sweep.document)
        yield
        for engine in sweep.plan.engines:
            passes.judge_elsewhere(sweep.run_dir, sweep.document, sweep.plan, engine, sweep.watcher.say)
            sweep.save()
        sweep.document["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        sweep.save()


def run_repeat(sweep: Sweep, repeat: int) -> None:
    """Measure the pending cells of one repeat as `run` does, within `at_work`."""
    for engine in sweep.plan.engines:
        _run_engine(sweep, engine, repeat)


@contextlib.contextmanager
def _only_one(run_dir: Path) -> Iterator[None]:
    """Hold the run folder for this process: two sweeps in one folder would overwrite each other's cells."""
    with store.explained(run_dir):
        lock = (run_dir / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"{run_dir}: another `nbridge bench` is at work in this run folder.") from None
        yield


def _run_engine(sweep: Sweep, engine: Engine, repeat: int) -> None:
    """All pending cells of one engine and repeat, then its search, on one server, and its quality where that is of the
    same model; a server that dies is started anew for the next cell."""
    while _next_cell(sweep, engine, repeat) is not None or passes.pending(sweep.document, engine):
        try:
            with _server(sweep, engine, repeat) as (target, startup, log_path):
                while (cell := _next_cell(sweep, engine, repeat)) is not None:
                    cell["startup"] = startup
                    _run_cell(sweep, cell, Load.model_validate(cell["load"]), target, log_path)
                    if death := target.failure():
                        if death.outcome == "unsupported":  # it would die again
                            raise CannotServe(*death)
                        break
                    if cell.get("point") and cell["outcome"] in RETRIED:
                        break
                else:
                    passes.judge(sweep.run_dir, sweep.document, sweep.plan, engine, target, sweep.watcher.say)
                    sweep.save()
        except CannotServe as problem:
            _cannot_serve(sweep, engine, repeat, problem)
            return


def _next_cell(sweep: Sweep, engine: Engine, repeat: int) -> dict[str, Any] | None:
    """The next cell of an engine and repeat to be measured; the plan's come first, then the points of its search."""
    mine = (c for c in sweep.pending if c["engine"]["name"] == engine.name and c["repeat"] == repeat)
    if (cell := next(mine, None)) is not None:
        return cell
    if (task := _task(sweep, engine, repeat)) is None:
        return None
    wanted = search.next_point(task, sweep.document, sweep.watcher.say)
    if wanted is not None:
        cell = _pending_cell(engine, wanted.load, repeat, None) | {"point": wanted.point}
        sweep.document["cells"].append(cell)
    sweep.save()
    return cell


def _task(sweep: Sweep, engine: Engine, repeat: int) -> Task | None:
    return next((one for one in sweep.tasks if one.engine == engine and one.repeat == repeat), None)


def _cannot_serve(sweep: Sweep, engine: Engine, repeat: int, problem: CannotServe) -> None:
    """Nothing more of this engine and repeat can be measured: its pending cells and its search say so."""
    cells = [c for c in sweep.pending if c["engine"]["name"] == engine.name and c["repeat"] == repeat]
    names = ", ".join(cell["id"] for cell in cells) or engine.name
    sweep.watcher.say(f"{names}: {problem.outcome}: {problem}")
    passes.give_up(sweep.document, engine, problem)
    for cell in cells:
        cell.update(outcome=problem.outcome, reason=str(problem), startup=None)
        cell["known_beforehand"] = problem.beforehand
        if problem.log_path and problem.log_path.exists():
            folder = store.cell_dir(sweep.run_dir, cell["id"])
            with store.explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "server.log").write_bytes(problem.log_path.read_bytes())
    if (task := _task(sweep, engine, repeat)) is not None:
        search.give_up(task, sweep.document, str(problem))
    sweep.save()


def _run_cell(sweep: Sweep, cell: dict[str, Any], load: Load, target: Target, log_path: Path | None) -> None:
    cells = sweep.document["cells"]
    if kept := set_aside(sweep.run_dir, cell["id"]):
        sweep.watcher.say(f"{cell['id']}: records of the earlier attempt are kept in {kept.name}")
    sweep.watcher.cell_started(cell, cells.index(cell) + 1, len(cells))
    log_start = log_path.stat().st_size if log_path and log_path.exists() else 0
    result = copy.deepcopy(cell)  # an interrupt must leave the cell as it was: pending
    result["began"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    task = _task(sweep, Engine.model_validate(cell["engine"]), cell["repeat"]) if cell.get("point") else None
    began_s = monotonic()
    try:
        measure(
            sweep.run_dir,
            result,
            target,
            load,
            seed=cell["repeat"] + sweep.seeds_from + (search.seed(cell) if task is not None else 0),
            machines=sweep.machines,
            slo=sweep.plan.slo.limits() if task is None else task.limits or None,
            timeout_s=sweep.plan.cell_timeout_s if task is None else search.timeout_s(cell),
            tick=lambda done: sweep.watcher.requests_ended(done, load.requests),
            enough=None if task is None else search.watch_of(task, cell, load),
        )
    finally:
        if log_path and log_path.exists():
            with store.explained(log_path), log_path.open("rb") as log:
                log.seek(log_start)
                store.cell_dir(sweep.run_dir, cell["id"]).joinpath("server.log").write_bytes(log.read())
    cell.update(result)
    if task is not None:
        requests = store.Run(sweep.run_dir, sweep.document).requests(cell["id"])
        sweep.watcher.say(search.settle(task, sweep.document, cell, requests, monotonic() - began_s))
    sweep.save()
    sweep.watcher.cell_ended(cell)


def _server(sweep: Sweep, engine: Engine, repeat: int) -> AbstractContextManager[Served]:
    if sweep.remote is not None:
        return _remote(sweep.remote, engine)
    log_path = sweep.run_dir / "logs" / f"{store.slug(engine.name)}-r{repeat}.log"
    return own_server(engine, log_path, start_timeout_s=sweep.plan.start_timeout_s, say=sweep.watcher.say)


@contextlib.contextmanager
def _remote(remote: dict[str, Any], engine: Engine) -> Iterator[Served]:
    with running_server(remote) as served:
        if other := _other_model(engine, served.target):
            raise CannotServe("failed", other)
        yield served
