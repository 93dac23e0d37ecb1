"""A simulated server of known capacity, and whole searches on it: the search's own code, records without a socket.

Requests take turns, at most `limit_rps` a second, in the order of their arrival (a queue with fixed service time, as
`nbridge golden --limit-rps` has); TTFT and E2E follow the turn, longer by a seeded lognormal noise. Arrivals are those
of `bench.plans.arrivals`.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bench.capacity import search
from bench.capacity.judging import judge
from bench.capacity.size import Floor, point_load, size
from bench.capacity.task import Task, least
from bench.plans.arrivals import schedule
from bench.plans.loads import Load
from bench.plans.plan import Plan, expand
from bench.run.records import SCHEMA
from bench.run.stats.distributions import Floats
from bench.run.stats.summary import summarise

Json = dict[str, Any]
_NEAR = 0.05
_RATE_STEP = 0.02  # of the logarithm
VALID = {"valid": True, "reasons": [], "checks": []}


@dataclass(frozen=True)
class Server:
    """`noise`: the standard deviation of the logarithm of each latency; `busy_s`: how long each request is served for
    beside others (only the turns are limited)."""

    limit_rps: float
    ttft_s: float = 0.05
    busy_s: float = 0.085
    tokens: int = 8
    noise: float = 0.02

    def records(self, load: Load, seed: int) -> pa.Table:
        """What a load records against this server."""
        rng = np.random.default_rng(seed)
        count = load.requests or 0
        late, longer = (np.exp(self.noise * rng.standard_normal(count)) for _ in range(2))
        if load.kind == "open" and load.rate_rps is not None and load.arrival != "trace":
            scheduled = np.array(schedule(load.arrival, load.rate_rps, seconds=None, requests=count, seed=seed))
            turns = _turns(scheduled, 1 / self.limit_rps)
        else:
            scheduled, turns = _closed(count, load.concurrency or 1, 1 / self.limit_rps, self.busy_s * longer)
        first, ended = turns + self.ttft_s * late, turns + np.maximum(self.busy_s * longer, self.ttft_s * late)
        return _table(scheduled, first, ended, self.tokens)


def _turns(scheduled: Floats, apart_s: float) -> Floats:
    """When each request's turn begins: not before it came, nor sooner than `apart_s` after the turn before."""
    numbers = np.arange(scheduled.size) * apart_s
    turns: Floats = np.maximum.accumulate(scheduled - numbers) + numbers
    return turns


def _closed(count: int, users: int, apart_s: float, busy_s: Floats) -> tuple[Floats, Floats]:
    free, next_s = [0.0] * users, 0.0
    sent, turns = np.empty(count), np.empty(count)
    for index in range(count):
        sent[index] = heapq.heappop(free)
        turns[index] = max(sent[index], next_s)
        next_s = turns[index] + apart_s
        heapq.heappush(free, turns[index] + busy_s[index])
    return sent, turns


def _table(scheduled: Floats, first: Floats, ended: Floats, tokens: int) -> pa.Table:
    count = scheduled.size
    known: dict[str, Any] = {
        **dict.fromkeys(("scheduled_s", "sent_s"), scheduled),
        **dict.fromkeys(("headers_s", "first_token_s"), first),
        **dict.fromkeys(("last_token_s", "ended_s"), ended),
        **dict.fromkeys(("chunk_s", "chunk_tokens"), [[]] * count),
        "output_tokens": np.full(count, tokens),
        "tokens_after_first": np.full(count, tokens - 1.0),
        "outcome": ["ok"] * count,
    }
    columns = [known.get(field.name, [None] * count) for field in SCHEMA]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def plan_of(capacity: Json, load: Json | None = None) -> Plan:
    """A plan with this [capacity] table and one engine."""
    shape = {"name": "shape", "prompt_tokens": 16, "output_tokens": 8, "concurrency": 1, "requests": 2}
    document = {"engines": [{"name": "simulated", "model": "simulated"}], "loads": [shape | (load or {})]}
    return expand({**document, "capacity": {"alone": True, **capacity}}, source="simulated")


def task_of(plan: Plan) -> Task:
    """The plan's only search."""
    if plan.capacity is None:
        raise ValueError("the plan has no search")
    return Task(plan, plan.capacity, plan.engines[0], 1)


def measured(load: Load, requests: pa.Table) -> Json:
    """A cell's results, all of whose checks went well."""
    return {"outcome": "ok", "reason": None, "metrics": summarise(requests, load.model_dump()), "validity": VALID}


def carry_out(
    task: Task,
    serve: Callable[[Load, int], tuple[pa.Table, Json]],
    document: Json | None = None,
    most: int | None = None,
) -> Json:
    """A whole search, or `most` further points of one: the run's document. `serve` is given a load and a seed, and
    returns what was recorded and the cell's results."""
    document = {"cells": []} if document is None else document
    said: list[str] = document.setdefault("said", [])
    while most is None or most > 0:
        wanted = search.next_point(task, document, said.append)
        if wanted is None:
            break
        cell = {
            "id": f"simulated-{wanted.load.name}-r1",
            "engine": task.engine.model_dump(mode="json"),
            "load": wanted.load.model_dump(mode="json"),
            "repeat": 1,
            "outcome": "pending",
            "point": wanted.point,
        }
        document["cells"].append(cell)
        requests, result = serve(wanted.load, search.seed(cell))
        cell.update(result)
        said.append(search.settle(task, document, cell, requests, wanted.point["expected_s"] or 1.0))
        most = None if most is None else most - 1
    return document


def searches(limit_rps: float, arrival: str, slo: str, count: int) -> Json:
    """`count` searches of a server with this limit, held against the rate at which half of such points pass."""
    task = task_of(plan_of({"slo": slo, "arrival": arrival, "max_time_s": 1e9}))
    server = Server(limit_rps)
    half = half_rps(task, server)
    answers = []
    for number in range(count):

        def serve(load: Load, seed: int, luck: int = 10**6 * (number + 1)) -> tuple[pa.Table, Json]:
            recorded = server.records(load, seed + luck)
            return recorded, measured(load, recorded)

        answers.append(carry_out(task, serve)["capacity"][0])
    values = np.array([answer["value"] for answer in answers])
    return {
        "arrival": arrival,
        "limit_rps": limit_rps,
        "half_rps": half,
        "searches": count,
        "median_rps": float(np.median(values)),
        "near_half": float(np.mean(np.abs(values / half - 1) <= _NEAR)),
        "holds_half": float(np.mean([answer["low"] <= half <= answer["high"] for answer in answers])),
        "near_limit": float(np.mean(np.abs(values / limit_rps - 1) <= _NEAR)),
        "points": float(np.mean([answer["points"] for answer in answers])),
        "seconds": float(np.mean([answer["took_s"] for answer in answers])),
    }


def half_rps(task: Task, server: Server, points_a_rate: int = 40) -> float:
    """The rate at which half of the points meet the SLO: the mean, by its logarithm, of where they cease to."""
    floor = Floor(server.ttft_s, server.busy_s)
    rates = server.limit_rps * np.exp(np.arange(-0.6, 0.3, _RATE_STEP))
    passing = []
    for rate in rates:
        sent = size("rate", float(rate), *least(task, floor), floor)
        load = point_load(task.template, "half", "rate", float(rate), sent, floor)
        verdicts = []
        for seed in range(points_a_rate):
            recorded = server.records(load, 7919 * seed + 13)
            cell = {"load": load.model_dump(mode="json"), "outcome": "ok", "validity": VALID}
            verdicts.append(judge(cell, recorded, task.conditions, task.limits).verdict == "pass")
        passing.append(np.mean(verdicts))
    return float(rates[0] * np.exp(_RATE_STEP * (sum(passing) - 0.5)))
