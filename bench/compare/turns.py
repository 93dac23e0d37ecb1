"""Two sides measured by turns in one session: old, new, new, old, … The machine's moods fall on both alike.

Each side is a run of its own, whose run.json names the other under `against`. What a cell's `began` says is the order
in which they were measured.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from bench import remote as remotes
from bench import sweep as sweeps
from bench.compare import comparison, printout
from bench.compare.inference import ALPHA, LEAST_REPEATS, THRESHOLD
from bench.compare.likeness import check_names
from bench.compare.sides import Place
from bench.errors import PlanError, RunFolderError, TargetError
from bench.execution import at_work, run_repeat
from bench.order import Asked, Order, of_server, one_form, order
from bench.plans.plan import PLANS, Plan, find_plan, load_plan, validate
from bench.resumption import machine_differences
from bench.run.store import Run, open_run
from bench.sweep import Sweep, Watcher
from monitoring.machine import describe

# What two sides may always have differently: they were given side by side because of it.
SUBJECT = ("engine", "target", "startup")
_BASELINE = "-baseline"
_SEEDS_APART = 1000  # more than a plan has repeats
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Said(NamedTuple):
    """What a comparison says, ready to be shown."""

    exit_code: int
    verdict: str
    text: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """The runs of both sides; `allowed`: the facts that may differ between them."""

    old: Sweep
    new: Sweep
    allowed: tuple[str, ...]

    def run(self, watcher: Watcher) -> None:
        """Measure what is pending on both sides, repeat by repeat, by turns. KeyboardInterrupt goes to the caller."""
        with at_work(self.old), at_work(self.new):
            for repeat, side in turns(self.new.plan.repeats):
                sweep = self.new if side == "new" else self.old
                if any(cell["repeat"] == repeat for cell in sweep.pending):
                    watcher.say(f"{side}, repeat {repeat} of {sweep.plan.repeats}")
                    run_repeat(sweep, repeat)

    def compared(self) -> Said:
        """Both runs held against each other, when they are measured."""
        found = comparison.compare(
            self.old.run_dir, self.new.run_dir, allowed=list(self.allowed), alpha=ALPHA, threshold=THRESHOLD
        )
        words = printout.verdict_line(found)
        return Said(found.exit_code, words, printout.text(found), printout.document(found))


def turns(repeats: int) -> Iterator[tuple[int, str]]:
    """(repeat, side) in the order of measuring: old, new, new, old, … so that neither side is always the first."""
    for repeat in range(1, repeats + 1):
        for side in ("old", "new") if repeat % 2 else ("new", "old"):
            yield repeat, side


def begin(baseline: str, asked: Asked, runs: Path, watcher: Watcher, *, allowed: list[str], command_line: str) -> Pair:
    """Both runs' folders, every cell pending. Nothing is written when anything is wrong with what was asked.

    `baseline` is a run folder (its plan is measured again), a plan, or the address of a server. Raises PlanError,
    TargetError when a server does not answer, RunFolderError when the sides would not do the same work.
    """
    check_names(allowed)
    run = _run_at(baseline)
    if asked.plan is None and run is not None:
        plan = _plan_of(run)
    else:
        plan = load_plan(find_plan(asked.plan), remote=asked.target is not None)
    new = order(plan, asked, watcher.say)
    old = _baseline(baseline, run, plan, asked, watcher)
    if run is not None:
        _require_still_there(run, old, new, allowed)
    repeats = asked.repeats or max(new.plan.repeats, LEAST_REPEATS)
    if asked.repeats is None and repeats > new.plan.repeats:
        watcher.say(f"{repeats} repeats of each side: a verdict needs them (--repeats says otherwise)")
    new, old = _repeated(new, repeats), _repeated(old, repeats)
    name = f"{old.plan.name.removesuffix(_BASELINE)}{_BASELINE}"  # a name for its folder
    old = replace(old, plan=old.plan.model_copy(update={"name": name}))
    permitted = (*SUBJECT, *allowed)
    sides = old.sweep(runs, watcher, command_line), new.sweep(runs, watcher, command_line)
    places = comparison.held_together(
        Run(sides[0].run_dir, sides[0].document), Run(sides[1].run_dir, sides[1].document), list(permitted)
    )
    held = _only(old, {place for place, _ in places})
    pair = Pair(held.sweep(runs, watcher, command_line) if held != old else sides[0], sides[1], permitted)
    _name_each_other(pair, watcher)
    return pair


def resumed(sweep: Sweep, watcher: Watcher, *, retry_failed: bool) -> Pair:
    """The pair that a run taken up again is half of.

    Raises RunFolderError when the other half is not beside it, or no longer the same.
    """
    said = sweep.document["against"]
    other = said.get("run_id") if isinstance(said, dict) else None
    if not isinstance(other, str) or not _RUN_ID.fullmatch(other) or said.get("side") not in ("old", "new"):
        raise RunFolderError(
            f"{sweep.run_dir / 'run.json'}: `against` names no run; it was changed by hand or damaged."
        )
    folder = sweep.run_dir.resolve().parent / other
    if not (folder / "run.json").exists():
        raise RunFolderError(
            f"{sweep.run_dir}: was measured by turns with {other}, which is not beside it in {folder.parent}. Put it "
            "there: one side alone cannot be gone on with."
        )
    another = sweeps.resume(folder, watcher, retry_failed=retry_failed)
    allowed = tuple(map(str, said.get("allowed") or SUBJECT))
    return Pair(another, sweep, allowed) if said["side"] == "new" else Pair(sweep, another, allowed)


def _run_at(named: str) -> Run | None:
    path = Path(named)
    return open_run(path) if path.name == "run.json" or (path / "run.json").exists() else None


def _plan_of(run: Run) -> Plan:
    if not isinstance(run.document.get("plan"), dict):
        raise RunFolderError(f"{run.path / 'run.json'}: has no plan, so it cannot be measured again.")
    return validate(run.document["plan"], source=f"{run.path / 'run.json'}: plan")


def _baseline(named: str, run: Run | None, plan: Plan, asked: Asked, watcher: Watcher) -> Order:
    if run is not None:
        return _measured_again(run, watcher)
    if Path(named).is_file() or find_plan(named).is_file():
        return order(load_plan(find_plan(named)), Asked(), watcher.say)
    if Path(named).exists() or named.endswith(".toml") or ("/" in named and "://" not in named):
        known = ", ".join(sorted(path.stem for path in PLANS.glob("*.toml")))
        raise PlanError(
            f"--against {named}: no run folder, no plan and no server's address. Give a folder such as runs/<run_id>, "
            f"a TOML file, a bundled plan ({known}), or an address such as http://127.0.0.1:8000."
        )
    settings = remotes.settings_of(plan.target, one_form(named, "--against"), asked.api_key_env, list(asked.more))
    return of_server(plan, settings, watcher.say)


def _measured_again(run: Run, watcher: Watcher) -> Order:
    """A finished run has its time behind it; its plan is measured again beside the new side."""
    plan, remote = _plan_of(run), run.document.get("target")
    watcher.say(f"{run.path}: its plan is measured again by turns with the new side; its own records are not used")
    if remote is None:
        return Order(plan)
    try:
        found = remotes.again(remote)
    except TargetError as error:
        raise TargetError(
            f"--against {run.path}: it measured {remote.get('base_url')}, and nothing can be measured by turns with a "
            f"server that does not answer: {error} Start it again, or measure the new side alone and hold it against "
            f"the old records with nbridge compare."
        ) from error
    engine = plan.engines[0]
    if found.model != engine.model:
        raise RunFolderError(
            f"--against {run.path}: {found.base_url} serves {found.model} now, and {engine.model} when that run was "
            "made."
        )
    return Order(plan, remote, remotes.refusals(found, plan.loads))


def _require_still_there(run: Run, old: Order, new: Order, allowed: list[str]) -> None:
    """What an old run measured must still be there to be measured: else both sides would be the new one."""
    instead = (
        f"Measure the new side alone and hold it against the old records: nbridge compare {run.path} runs/<new run>"
    )
    if old.remote is not None and new.remote is not None and _server(old) == _server(new):
        raise PlanError(
            f"--against {run.path}: it measured {_server(old)[0]}, which is also the new side: what that server was "
            f"then is gone. {instead}, or give both servers' addresses."
        )
    if old.remote is None:
        found = [
            (fact, then, now)
            for fact, then, now in machine_differences(run.document.get("environment") or {}, describe())
            if fact not in allowed and fact.partition(".")[0] not in allowed
        ]
        if found:
            shown = "; ".join(f"{fact}: {then} then, {now} now" for fact, then, now in found[:4])
            more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
            names = " ".join(f"--allow {name}" for name in dict.fromkeys(fact for fact, _, _ in found))
            raise PlanError(
                f"--against {run.path}: measured again here, it would not be what it was: {shown}{more}. {instead}. To "
                f"measure its plan with what is here now all the same: {names}"
            )


def _server(side: Order) -> tuple[Any, Any]:
    remote = side.remote or {}
    return remote.get("base_url"), remote.get("model")


def _repeated(side: Order, repeats: int) -> Order:
    # A search measures each side at levels of its own, and a contest leaves out cells that the other side has.
    changes = {"repeats": repeats, "capacity": None, "adaptive": None}
    plan = validate({**side.plan.model_dump(mode="json"), **changes}, source="--repeats")
    return replace(side, plan=plan)


def _only(side: Order, places: set[Place]) -> Order:
    """The side with those engines and loads alone that are held against something."""
    engines, loads = ({place[i] for place in places} for i in (0, 1))
    kept = {
        "engines": tuple(one for one in side.plan.engines if one.name in engines),
        "loads": tuple(one for one in side.plan.loads if one.name in loads),
    }
    quality = side.plan.quality
    if quality and quality.baseline in {one.name for one in side.plan.engines} - engines:
        quality = quality.model_copy(update={"baseline": None})
    return replace(side, plan=side.plan.model_copy(update=kept | {"quality": quality}))


def _name_each_other(pair: Pair, watcher: Watcher) -> None:
    for side, sweep, other in (("old", pair.old, pair.new), ("new", pair.new, pair.old)):
        sweep.document["against"] = {
            "side": side,
            "run_id": other.document["run_id"],
            "seeds_from": 0,
            "allowed": list(pair.allowed),
        }
    urls = [(sweep.remote or {}).get("base_url") for sweep in (pair.old, pair.new)]
    if urls[0] is not None and urls[0] == urls[1]:
        # The same prompts twice on one server: whoever is second finds them in the prefix cache.
        pair.old.document["against"]["seeds_from"] = _SEEDS_APART
        watcher.say("both sides are on one server, so each has prompts of its own")
    for sweep in (pair.old, pair.new):
        sweep.save()
