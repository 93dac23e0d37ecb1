"""Successive halving over engines: what is to be measured next, who was dropped and how surely, who won.

Everything follows from the cells as they are, so a run that was interrupted goes on from them. A round is one more
repeat of the deciding load for every engine still in the race; after it the worse half is dropped, but for engines that
luck may have put there, as far as the budget reaches. What is left of it then goes to the winner's other cells.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.adaptive.noise import Noise, log, noise
from bench.adaptive.objective import OBJECTIVES, Objective
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.plans.plan import Plan, cell_id

Json = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What is decided, by which figure at which load, over how many repeats at most, and with how many cells."""

    engines: tuple[str, ...]
    repeats: int
    load: Load
    objective: Objective
    grid: int
    budget: int


@dataclass
class Dropped:
    """An engine that is out: `behind` the leader by that share of its figure; `surely`: by more than luck does.

    Both are None where it has no figure to be judged by.
    """

    engine: str
    after: int
    behind: float | None
    surely: bool | None
    reason: str


@dataclass
class Round:
    """After so many `repeats`: each engine's mean, how much runs differ (relative), and who stays."""

    repeats: int
    values: dict[str, float]
    sd: float
    kept: list[str]


@dataclass
class Standing:
    """Where the contest stands. `wanted`: ids of the cells to measure next, none when it is over."""

    rounds: list[Round] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    winner: str | None = None
    over: bool = False
    within_noise: list[str] = field(default_factory=list)
    measured: int = 0

    def as_dict(self) -> Json:
        return asdict(self)


def contest(plan: Plan) -> Contest:
    """The contest of a plan with [adaptive]. Raises PlanError where there is nothing to decide, or nothing to save."""
    asked = plan.adaptive
    if asked is None:
        raise PlanError("adaptive: the plan has no [adaptive] table.")
    limits = plan.slo.limits()
    chosen = OBJECTIVES[asked.objective or ("goodput" if limits else "throughput")]
    if chosen.name == "goodput" and not limits:
        raise PlanError('adaptive: objective = "goodput" needs limits on requests: set [slo] ttft_s, tpot_s or e2e_s.')
    load = next((one for one in plan.loads if one.name == asked.load), None) or heaviest(plan.loads)
    if load.requests is not None and load.requests < chosen.needs:
        raise PlanError(
            f"adaptive: {chosen.words} takes {chosen.needs} answers, and the load {load.name} has {load.requests} "
            "requests. Raise them, or name another objective."
        )
    grid = len(plan.engines) * len(plan.loads) * plan.repeats
    budget = math.floor(asked.share * grid)
    if len(plan.engines) < 2:
        raise PlanError("adaptive: there is one engine, so there is nothing to choose. Measure the plan without it.")
    if budget < len(plan.engines):
        raise PlanError(
            f"adaptive: {asked.share:.0%} of {grid} cells are {budget}, too few to see each of {len(plan.engines)} "
            "engines once. Add repeats or loads, raise `share`, or measure the whole grid."
        )
    return Contest(tuple(engine.name for engine in plan.engines), plan.repeats, load, chosen, grid, budget)


def heaviest(loads: Sequence[Load]) -> Load:
    """The load with the most users, or of open ones the highest rate; of several kinds a closed one."""
    closed = [load for load in loads if load.concurrency is not None]
    if closed:
        return max(closed, key=lambda load: load.concurrency or 0)
    return max(loads, key=lambda load: load.rate_rps or 0.0)


def standing(plan: Plan, document: Json) -> Standing:
    """Where the contest of a plan stands by the cells of its run. Raises PlanError."""
    return _Race(contest(plan), plan, document).run()


class _Race:
    def __init__(self, what: Contest, plan: Plan, document: Json) -> None:
        self.what, self.plan = what, plan
        self.cells: dict[str, Json] = {cell["id"]: cell for cell in document["cells"]}
        self.found = Standing(measured=sum(cell.get("metrics") is not None for cell in self.cells.values()))
        self.values: dict[str, list[float]] = {name: [] for name in what.engines}
        self.spent = 0

    def run(self) -> Standing:
        race = list(self.what.engines)
        for repeat in range(1, self.what.repeats + 1):
            if self.spent + len(race) > self.what.budget or (repeat > 1 and len(race) < 2):
                break
            todo = [one for name in race if (one := self._id(name, repeat)) and self._is(one, "pending")]
            if todo:
                self.found.wanted = todo
                return self.found
            self.spent += len(race)
            race = self._after(race, repeat)
        return self._ended(race)

    def _id(self, engine: str, repeat: int) -> str:
        named = next(one for one in self.plan.engines if one.name == engine)
        return cell_id(named, self.what.load, repeat)

    def _is(self, cell: str, outcome: str) -> bool:
        return bool(self.cells[cell]["outcome"] == outcome)

    def _after(self, race: list[str], repeat: int) -> list[str]:
        """Who is still in the race when this repeat has been measured."""
        judged = []
        for name in race:
            cell = self.cells[self._id(name, repeat)]
            value = self.what.objective.value(cell)
            if value is None:
                outcome = "has no such figure" if cell["outcome"] == "ok" else f"is {cell['outcome']}"
                self._drop(name, repeat, None, None, f"{cell['id']} {outcome}, so there is nothing to judge it by")
            else:
                self.values[name].append(value)
                judged.append(name)
        means = {name: statistics.fmean(self.values[name]) for name in judged}
        ranked = sorted(judged, key=lambda name: -means[name] if self.what.objective.highest else means[name])
        spread = noise(self.values)
        kept = self._keep(ranked, spread, repeat) if repeat < self.what.repeats else ranked
        self.found.rounds.append(Round(repeat, {name: means[name] for name in ranked}, spread.sd, kept))
        return kept

    def _keep(self, ranked: list[str], spread: Noise, repeat: int) -> list[str]:
        """The better half, and of the others those that luck may have put there, while there is budget for a round."""
        half = -(-len(ranked) // 2)
        room = self.what.budget - self.spent
        kept = ranked[:half]
        for name in ranked[half:]:
            behind, surely = self._behind(ranked[0], name, spread)
            if not surely and len(kept) < room and len(ranked) > 1:
                kept.append(name)
                continue
            why = "" if surely else ", which luck alone may do; the budget does not reach for another repeat of it"
            self._drop(name, repeat, behind, surely, f"{behind:.1%} behind {ranked[0]} after {_times(repeat)}{why}")
        return kept

    def _behind(self, leader: str, name: str, spread: Noise) -> tuple[float, bool]:
        """(by what share an engine is behind the leader, whether by more than luck does)."""
        ahead, other = self.values[leader], self.values[name]
        apart = abs(statistics.fmean(map(log, ahead)) - statistics.fmean(map(log, other)))
        best, mine = statistics.fmean(ahead), statistics.fmean(other)
        share = abs(best - mine) / best if best else 0.0
        return share, apart > spread.margin(len(ahead), len(other))

    def _drop(self, name: str, after: int, behind: float | None, surely: bool | None, reason: str) -> None:
        self.found.dropped.append(Dropped(name, after, behind, surely, reason))

    def _ended(self, race: list[str]) -> Standing:
        """The winner, who may have won as well, and what the rest of the budget is for."""
        found = self.found
        if not race:
            found.over = True
            return found
        winner, spread = race[0], noise(self.values)
        found.winner = winner
        for name in race[1:]:
            behind, surely = self._behind(winner, name, spread)
            why = "" if surely else ", which luck alone may do"
            after = len(self.values[name])
            self._drop(name, after, behind, surely, f"{behind:.1%} behind {winner} after {_times(after)}{why}")
        found.within_noise = [one.engine for one in found.dropped if one.surely is False]
        own = [cell for cell in self.cells.values() if cell["engine"]["name"] == winner and not cell.get("point")]
        rest = [cell["id"] for cell in own if cell["outcome"] == "pending"]
        found.wanted = rest[: max(0, self.what.budget - found.measured)]
        found.over = not found.wanted
        return found


def _times(repeats: int) -> str:
    return "one repeat" if repeats == 1 else f"{repeats} repeats"


def settle(plan: Plan, document: Json) -> Standing:
    """Bring a run's document up to date: who was dropped, with their cells, and how it stands. Raises PlanError."""
    what, found = contest(plan), standing(plan, document)
    out = {one.engine: one for one in found.dropped}
    for cell in document["cells"]:
        gone = out.get(cell["engine"]["name"])
        if cell["outcome"] != "pending" or (gone is None and not found.over):
            continue
        if found.winner is not None or gone is not None:
            reason = gone.reason if gone else f"the budget of {what.budget} of {what.grid} cells is spent"
        else:
            reason = "no engine could be judged"
        cell.update(outcome="dropped", reason=f"Not measured: {reason}.")
    document["adaptive"] = {
        "objective": what.objective.name,
        "words": what.objective.words,
        "unit": what.objective.unit,
        "highest": what.objective.highest,
        "load": what.load.name,
        "grid_cells": what.grid,
        "budget_cells": what.budget,
        **found.as_dict(),
        "said": said(what, found),
    }
    return found


def reopen(document: Json) -> None:
    """Cells that failed are measured again, so whatever was dropped may have been dropped for nothing."""
    for cell in document["cells"]:
        if cell["outcome"] == "dropped":
            cell.update(outcome="pending", reason=None)


def said(what: Contest, found: Standing) -> str:
    """How it stands in one sentence."""
    by = f"{what.objective.words} at {what.load.name}"
    if not found.over:
        race = found.rounds[-1].kept if found.rounds else list(what.engines)
        return f"by {by}, still in the race: {', '.join(race)}"
    if found.winner is None:
        return f"by {by}, no engine could be judged"
    text = f"by {by}, {found.winner} is the best of {len(what.engines)} engines"
    if unjudged := [one.engine for one in found.dropped if one.behind is None]:
        text += f", of which {', '.join(unjudged)} could not be judged"
    if found.within_noise:
        text += f", though {', '.join(found.within_noise)} may be as good: the difference is within what luck does"
    return f"{text}; {found.measured} of {what.grid} cells were measured"
