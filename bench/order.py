"""What shall be measured: a plan and, where it is about a server that already runs, that server and what it refuses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import remote as remotes
from bench.cell.locust_process import Machines
from bench.client import dialect as dialects
from bench.errors import PlanError
from bench.plans.plan import Plan
from bench.plans.tables import Engine, Quality, RunningServer
from bench.run import counting
from bench.sweep import Sweep, Watcher, new
from monitoring.scrape.address import normalised, reachable


@dataclass(frozen=True)
class Asked:
    """What a command line says: a plan's file or name, a server's address, what else is needed to reach it, repeats,
    whether engines that are behind are dropped."""

    plan: str | None = None
    target: str | None = None
    api_key_env: str | None = None
    more: tuple[str, ...] = ()
    repeats: int | None = None
    adaptive: bool = False


@dataclass(frozen=True)
class Order:
    """A plan whose engines are those that will be measured. `remote` describes a server that already runs
    (bench.remote); `refused` says why which loads, by name, cannot be carried."""

    plan: Plan
    remote: dict[str, Any] | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def sweep(
        self, runs: Path, watcher: Watcher, command_line: str, environment: dict[str, Any] | None = None
    ) -> Sweep:
        """Its run, of which nothing is written yet."""
        return new(
            self.plan,
            runs,
            watcher,
            command_line=command_line,
            remote=self.remote,
            refused=self.refused or None,
            environment=environment,
        )


def machines(workers: int, listen: str, plan: Plan) -> Machines:
    """The workers on other machines, for a plan that they can carry. Raises PlanError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise PlanError(f"--listen {listen}: expected HOST:PORT, such as 127.0.0.1:5557 or 10.0.0.1:5557.")
    for load in plan.loads:
        if load.processes > 1:
            raise PlanError(
                f"load {load.name}: processes = {load.processes} are of this machine; leave it out with --workers."
            )
        if load.concurrency is not None and load.concurrency < workers:
            raise PlanError(
                f"load {load.name}: {load.concurrency} users for {workers} workers: at most one worker per user."
            )
    return Machines(workers, host.strip("[]"), int(port))


def require_own_engines(asked: Asked, *, against: str | None, workers: int | None) -> None:
    """Raise PlanError for what is not an engine that a cluster could start and measure beside others."""
    if asked.target is not None:
        raise PlanError(
            f"--on places engines on a cluster, and --target {asked.target} is a server that already runs. Load from "
            "several machines on it: --workers N, without --on."
        )
    if against is not None:
        raise PlanError("--against measures two sides by turns on one machine; on a cluster turns mean nothing.")
    if workers is not None:
        raise PlanError(
            "--workers sends the load of one server from other machines, and --on measures each engine on the node "
            "that it runs on. For a cluster's own door: nbridge bench --target DOOR --workers N."
        )


def require_engines_of(sweep: Sweep) -> None:
    """As require_own_engines, of a plan or run with a target or a baseline in itself."""
    target = (sweep.remote or {}).get("base_url")
    against = "baseline" if "against" in sweep.document else None
    require_own_engines(Asked(target=target), against=against, workers=None)


def order(plan: Plan, asked: Asked, say: Callable[[str], None]) -> Order:
    """The plan as it is or, with a target in it or asked for, about that server; the server is asked what it is.

    Raises PlanError for what cannot be used, TargetError when the server does not answer.
    """
    target = None if asked.target is None else one_form(asked.target)
    if target is None and plan.target is None and not asked.more:
        return Order(plan)
    settings = remotes.settings_of(plan.target, target, asked.api_key_env, list(asked.more))
    return of_server(plan, settings.model_copy(update={"url": one_form(settings.url or "")}), say)


def one_form(target: str, flag: str = "--target") -> str:
    """The address as it goes into run.json, its reports and the load's files: whole, and without any secret."""
    try:
        return reachable(normalised(target))
    except ValueError as error:
        raise PlanError(
            f"{flag}: {error}. Nothing was written; a key goes into an environment variable that --api-key-env names."
        ) from None


def of_server(plan: Plan, settings: RunningServer, say: Callable[[str], None]) -> Order:
    """The plan's loads against one server that already runs, its engines replaced by that server."""
    if settings.tokenizer:
        counting.load(settings.tokenizer)  # one that cannot be loaded is said now
    found = remotes.find(settings)
    say(f"target: {dialects.line(found.dialect)}")
    for note in found.dialect.notes:
        say(f"  {note}")
    refused = remotes.refusals(found, plan.loads)
    for name, why in refused.items():
        say(f"load {name} is not measured: {why}")
    if len(refused) == len(plan.loads):
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise PlanError(f"--target {settings.url}: no load of the plan can be carried: {reasons}.")
    engine = Engine(name="target", model=found.model, quantization="unknown", max_model_len=found.max_model_len)
    name = plan.name if plan.name.startswith("target-") else f"target-{plan.name}"
    update = {"engines": (engine,), "name": name, "target": settings, "quality": quality_of_server(plan, say)}
    changed = plan.model_copy(update=update)
    return Order(changed, remotes.describe(found), refused)


def quality_of_server(plan: Plan, say: Callable[[str], None]) -> Quality | None:
    """[quality] of a server that already runs: of its own model, on texts that the plan names."""
    if plan.quality is None:
        return None
    if plan.quality.texts is None:
        say("quality is not measured: for a server that already runs, [quality] has to name `texts`")
        return None
    names = [engine.name for engine in plan.engines]
    baseline = None if plan.quality.baseline in names else plan.quality.baseline
    return plan.quality.model_copy(update={"model": None, "baseline": baseline})
