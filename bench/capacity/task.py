"""What one search is for: a plan's SLO, for one engine in one repeat; and what is known of that engine before. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.capacity import words
from bench.capacity.points import points_of
from bench.capacity.size import Floor, bounds_queue, least_requests, least_seconds, outlook
from bench.capacity.steps import Search
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.plans.plan import Plan
from bench.plans.tables import Capacity, Engine
from bench.run.slo import ERRORS, EXAMPLE, Condition
from bench.run.validity import ERROR_SHARE

_OF_THE_LEVEL = {
    "name", "kind", "concurrency", "rate_rps", "arrival", "burstiness", "rates_rps", "requests", "seconds",
    "warmup_requests", "max_in_flight", "processes",
}  # fmt: skip
_START_SHARE = 0.7  # of the highest throughput that was measured before

Json = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What is searched: the load that meets the plan's SLO, for one engine in one repeat."""

    plan: Plan
    capacity: Capacity
    engine: Engine
    repeat: int

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The SLO's, and one on errors where it has none: a server that refuses requests does not keep up."""
        asked = self.plan.capacity_slo.all_conditions()
        if any(one.figure == ERRORS for one in asked):
            return asked
        return (*asked, Condition(ERRORS, None, ERROR_SHARE, strict=False))

    @property
    def limits(self) -> dict[str, float]:
        return self.plan.capacity_slo.limits() or {}

    @property
    def template(self) -> Load:
        load, arrival = self.plan.searched_load, self.capacity.arrival
        return load.model_copy(update={"arrival": arrival, "burstiness": None}) if arrival else load

    def words(self, level: float | None) -> str:
        return "one request at a time" if level is None else words.level(self.capacity.over, level)


def require_objective(plan: Plan) -> None:
    """Raise PlanError when a plan's search has no SLO, or one that every rate meets."""
    if plan.capacity is None:
        return
    conditions, limits = plan.capacity_slo.all_conditions(), plan.capacity_slo.limits() or {}
    if not conditions:
        raise PlanError(
            f'A search for the capacity needs an SLO: --slo, or `slo` in the plan, for example "{EXAMPLE}".'
        )
    if plan.capacity.over == "rate" and not bounds_queue(conditions, limits):
        raise PlanError(
            f"The SLO ({', '.join(one.text for one in conditions)}) has no limit on TTFT or E2E, so a queue that grows "
            "without end would meet it at any rate: add one, such as ttft_p95<2, or search over concurrency."
        )


def floor_of(task: Task, document: Mapping[str, Any]) -> Floor | None:
    """How long one request at a time takes: by a cell of this load at one user, else by the search's first point."""
    for cell in (*_like(task, document), *points_of(document, task.engine.name, task.repeat)):
        metrics = cell.get("metrics") or {}
        alone = cell["load"]["kind"] == "closed" and cell["load"]["concurrency"] == 1
        ttft, e2e = ((metrics.get(name) or {}).get("p50") for name in ("ttft_s", "e2e_s"))
        if alone and e2e is not None and cell["outcome"] in ("ok", "invalid"):
            return Floor(ttft, e2e)
    return None


def announcement(task: Task, search: Search, floor: Floor) -> str:
    """What the search is for and what it will take, before it starts."""
    capacity, (requests, least_s) = task.capacity, least(task, floor)
    count, spent_s = outlook(search, capacity.over, requests, least_s, floor)
    what = "rate" if capacity.over == "rate" else "number of concurrent requests"
    slo = ", ".join(one.text for one in task.conditions)
    return (
        f"{task.engine.name}: searching the highest {what} that meets {slo}, to ± {capacity.precision:.0%}, from "
        f"{task.words(search.start)} on. A point has at least {requests:,} requests and {least_s:.0f} s; about {count} "
        f"points, {spent_s / 60:.1f} min, if the capacity is near; at most {capacity.max_time_s / 60:.1f} min."
    )


def start_of(task: Task, document: Mapping[str, Any]) -> float | None:
    """A rate near the throughput that the engine reached under this load's requests before, if it was measured."""
    if task.capacity.over != "rate":
        return None
    rates = [
        rate
        for cell in _like(task, document)
        if cell["outcome"] == "ok" and (rate := (cell.get("metrics") or {}).get("request_throughput_rps"))
    ]
    return _START_SHARE * max(rates) if rates else None


def _like(task: Task, document: Mapping[str, Any]) -> list[Json]:
    """The measured cells of this engine and repeat that send the same requests."""
    shape = task.template.model_dump(mode="json", exclude=_OF_THE_LEVEL)
    return [
        cell
        for cell in document["cells"]
        if not cell.get("point")
        and cell["engine"]["name"] == task.engine.name
        and cell["repeat"] == task.repeat
        and {name: value for name, value in cell["load"].items() if name not in _OF_THE_LEVEL} == shape
    ]


def least(task: Task, floor: Floor) -> tuple[int, float]:
    needed_s = least_seconds(task.conditions, task.limits, floor, task.capacity.precision)
    return least_requests(task.conditions), needed_s
