"""Does successive halving reach the whole grid's winner? Simulated grids of known speeds, and a recorded run's.

    python -m bench.studies.adaptive

Every grid is drawn whole; halving sees the cells that it asks for and no others. `reached`: how often its winner is the
one that the whole grid's means name; `regret`: how far below the truly best engine its winner is, in the mean.
"""

import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.adaptive import halving
from bench.plans.plan import Plan, cell_id, expand
from bench.sweep import pending_cell

RECORDED = Path(__file__).parents[2] / "reports" / "published" / "cpu-2-cores-default" / "run.json"


@dataclass(frozen=True)
class Outcome:
    """Of `trials` grids: shares and means as above; `said`: how often a missed winner was named as within luck."""

    what: str
    engines: int
    repeats: int
    noise: float
    trials: int
    cells: float
    reached: float
    truly_best: float
    regret: float
    said: float | None


def plan_of(engines: int, loads: int, repeats: int, share: float = 0.5) -> Plan:
    """A plan of engines e0, e1 …, and loads of 1, 2, 4 … users; the last one decides."""
    return expand(
        {
            "name": "study",
            "repeats": repeats,
            "adaptive": {"objective": "throughput", "share": share},
            "engines": [{"name": f"e{i}", "model": "m"} for i in range(engines)],
            "loads": [{"concurrency": 2**i, "requests": 2 ** (i + 2)} for i in range(loads)],
        },
        source="the study",
    )


def contest(plan: Plan, speeds: list[float], noise: float, draw: random.Random) -> tuple[halving.Standing, str]:
    """(how halving ends, the whole grid's winner) on a grid of these true speeds; runs differ by `noise`, relative."""
    heaviest = halving.heaviest(plan.loads)
    values = {
        cell_id(engine, load, repeat): speed * draw.lognormvariate(0.0, noise)
        for engine, speed in zip(plan.engines, speeds, strict=True)
        for load in plan.loads
        for repeat in range(1, plan.repeats + 1)
    }
    means = {
        engine.name: statistics.fmean(
            values[cell_id(engine, heaviest, repeat)] for repeat in range(1, plan.repeats + 1)
        )
        for engine in plan.engines
    }
    document: dict[str, Any] = {
        "cells": [
            pending_cell(engine, load, repeat, None)
            for repeat in range(1, plan.repeats + 1)
            for engine in plan.engines
            for load in plan.loads
        ]
    }
    by_id = {cell["id"]: cell for cell in document["cells"]}
    while not (found := halving.settle(plan, document)).over:
        for cell in found.wanted:
            by_id[cell].update(outcome="ok", metrics={"output_throughput_tok_s": values[cell]})
    return found, max(means, key=lambda name: means[name])


def study(
    what: str, speeds: list[float], *, loads: int, repeats: int, noise: float, trials: int, seed: int = 1
) -> Outcome:
    """Many grids of engines with these true speeds, in an order drawn anew each time."""
    draw, plan = random.Random(seed), plan_of(len(speeds), loads, repeats)  # noqa: S311 (reproducible)
    cells, reached, best, regret, missed, said = [], 0, 0, 0.0, 0, 0
    for _ in range(trials):
        shuffled = draw.sample(speeds, len(speeds))
        found, grid = contest(plan, shuffled, noise, draw)
        cells.append(found.measured / (len(speeds) * loads * repeats))
        reached += found.winner == grid
        mine = shuffled[int(str(found.winner)[1:])]
        best += mine == max(speeds)
        regret += 1 - mine / max(speeds)
        if found.winner != grid:
            missed += 1
            said += grid in found.within_noise
    shares = (statistics.fmean(cells), reached / trials, best / trials, regret / trials)
    return Outcome(what, len(speeds), repeats, noise, trials, *shares, said / missed if missed else None)


def recorded(load: str = "c16") -> list[float]:
    """The throughputs of a recorded run's engines under one load."""
    cells = json.loads(RECORDED.read_text(encoding="utf-8"))["cells"]
    return [cell["metrics"]["output_throughput_tok_s"] for cell in cells if cell["load"]["name"] == load]


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    grids = [
        (f"8 engines {apart:.0%} apart", [100 * (1 - apart) ** i for i in range(8)]) for apart in (0.1, 0.05, 0.02)
    ]
    for what, speeds in (*grids, ("3 recorded engines", recorded())):
        for noise in (0.02, 0.05):  # with one load, half of the grid is half of what decides
            found = study(what, speeds, loads=1, repeats=5, noise=noise, trials=trials)
            sys.stdout.write(f"{json.dumps(asdict(found))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
