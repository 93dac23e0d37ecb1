"""A sweep at work: server after server, cell after cell; what happens to one is recorded and the rest goes on."""

import contextlib
import copy
import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from bench.adaptive import halving
from bench.capacity import search
from bench.cell.measurement import measure, set_aside
from bench.errors import RunFolderError
from bench.plans import constraints
from bench.plans.loads import Load
from bench.plans.tables import Engine
from bench.quality import passes
from bench.remaining import remaining
from bench.remote import running_server
from bench.run import store
from bench.sweep import RETRIED, Sweep, other_model, pending_cell
from bench.target import CannotServe, Served, Target, own_server


def run(sweep: Sweep) -> None:
    """Measure every pending cell. Each result is on disk before the next cell begins.

    KeyboardInterrupt ends the current cell and its server, leaves that cell pending, and goes on to the caller.
    """
    with at_work(sweep):
        if sweep.plan.adaptive is not None:
            _adapt(sweep)
            return
        for repeat in range(1, sweep.plan.repeats + 1):
            run_repeat(sweep, repeat)


def _adapt(sweep: Sweep) -> None:
    """Measure what successive halving asks for, round after round, until one engine is left."""
    told = ""
    while True:
        found = halving.settle(sweep.plan, sweep.document)
        sweep.save()
        if (said := sweep.document["adaptive"]["said"]) != told:
            sweep.watcher.say(f"adaptive: {said}")
        told = said
        if found.over:
            return
        sweep.only = frozenset(found.wanted)
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
        run_engine(sweep, engine, repeat)


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


def run_engine(sweep: Sweep, engine: Engine, repeat: int) -> None:
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
            cannot_serve(sweep, engine, repeat, problem)
            return


def _next_cell(sweep: Sweep, engine: Engine, repeat: int) -> dict[str, Any] | None:
    """The next cell of an engine and repeat to be measured; the plan's come first, then the points of its search."""
    mine = (
        c
        for c in sweep.pending
        if (c["engine"]["name"], c["repeat"]) == (engine.name, repeat) and (sweep.only is None or c["id"] in sweep.only)
    )
    if (cell := next(mine, None)) is not None:
        return cell
    if (task := sweep.task(engine, repeat)) is None:
        return None
    wanted = search.next_point(task, sweep.document, sweep.watcher.say)
    if wanted is not None:
        cell = pending_cell(engine, wanted.load, repeat, None) | {"point": wanted.point}
        sweep.document["cells"].append(cell)
    sweep.save()
    return cell


def cannot_serve(sweep: Sweep, engine: Engine, repeat: int, problem: CannotServe) -> None:
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
    if (task := sweep.task(engine, repeat)) is not None:
        search.give_up(task, sweep.document, str(problem))
    sweep.save()


def _run_cell(sweep: Sweep, cell: dict[str, Any], load: Load, target: Target, log_path: Path | None) -> None:
    cells = sweep.document["cells"]
    if kept := set_aside(sweep.run_dir, cell["id"]):
        sweep.watcher.say(f"{cell['id']}: records of the earlier attempt are kept in {kept.name}")
    at_most = sweep.plan.adaptive is not None
    sweep.watcher.time_left(remaining(cells, search=sweep.plan.capacity is not None, at_most=at_most))
    sweep.watcher.cell_started(cell, cells.index(cell) + 1, len(cells))
    log_start = log_path.stat().st_size if log_path and log_path.exists() else 0
    result = copy.deepcopy(cell)  # an interrupt must leave the cell as it was: pending
    result["began"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    task = sweep.task(Engine.model_validate(cell["engine"]), cell["repeat"]) if cell.get("point") else None
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
    cell["took_s"] = monotonic() - began_s
    if task is not None:
        requests = store.Run(sweep.run_dir, sweep.document).requests(cell["id"])
        sweep.watcher.say(search.settle(task, sweep.document, cell, requests, monotonic() - began_s))
    sweep.save()
    sweep.watcher.cell_ended(cell)


def _server(sweep: Sweep, engine: Engine, repeat: int) -> AbstractContextManager[Served]:
    if why := constraints.skipped(sweep.plan.skip, engine):
        raise CannotServe("skipped", why, beforehand=True)
    if sweep.remote is not None:
        return _remote(sweep.remote, engine)
    log_path = sweep.run_dir / "logs" / f"{store.slug(engine.name)}-r{repeat}.log"
    return own_server(engine, log_path, start_timeout_s=sweep.plan.start_timeout_s, say=sweep.watcher.say)


@contextlib.contextmanager
def _remote(remote: dict[str, Any], engine: Engine) -> Iterator[Served]:
    with running_server(remote) as served:
        if other := other_model(engine, served.target):
            raise CannotServe("failed", other)
        yield served
