"""What goes to a node as one: an engine in one repeat (a server, its cells, its search), or its quality alone. Pure."""

from dataclasses import dataclass
from typing import Any

from bench.capacity import points
from bench.plans.tables import Engine
from bench.quality import passes
from bench.run import quality as figures
from bench.run import store
from bench.sweep import Sweep

Json = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """An engine in one repeat; `repeat` is None for its quality on another model, which has a server of its own.
    `judges`: the quality of the engine's own model is asked of the same server."""

    engine: Engine
    repeat: int | None
    judges: bool

    @property
    def name(self) -> str:
        return f"{store.slug(self.engine.name)}-{'quality' if self.repeat is None else f'r{self.repeat}'}"

    @property
    def gpus(self) -> int:
        """How many GPUs of one machine the engine takes."""
        return self.engine.tensor_parallel_size * self.engine.pipeline_parallel_size


def of_cells(sweep: Sweep) -> list[Unit]:
    """The engines and repeats that have something left to measure, in the order of a sweep on one machine."""
    found: list[Unit] = []
    judging = {engine.name: bool(passes.pending(sweep.document, engine)) for engine in sweep.plan.engines}
    for repeat in range(1, sweep.plan.repeats + 1):
        for engine in sweep.plan.engines:
            judges = judging[engine.name] and not any(unit.engine == engine for unit in found)
            searching = sweep.plan.capacity and points.goes_on(sweep.document, engine.name, repeat)
            if searching or judges or any(_is_of(cell, engine, repeat) for cell in sweep.pending):
                found.append(Unit(engine, repeat, judges))
    return found


def of_quality(sweep: Sweep) -> list[Unit]:
    """The engines whose quality is still to be measured when their cells are: on another model."""
    waiting = {entry["engine"] for entry in passes.pending(sweep.document)}
    return [Unit(engine, None, judges=True) for engine in sweep.plan.engines if engine.name in waiting]


def part(document: Json, unit: Unit) -> Json:
    """What of a run's document a node needs for a unit, as a document by itself."""
    mine = [cell for cell in document["cells"] if _is_of(cell, unit.engine, unit.repeat)]
    answers = [one for one in document.get("capacity") or [] if _is_answer(one, unit)]
    quality = document.get("quality") if unit.judges else None
    if quality is not None:
        entries = [entry for entry in quality["engines"] if entry["engine"] == unit.engine.name]
        quality = {**quality, "engines": entries}
    return {**document, "cells": mine, "capacity": answers or None, "quality": quality}


def merge(sweep: Sweep, state: Json) -> list[Json]:
    """Take what a node has measured into the run's document; the cells of it, as they now stand there.

    `state`: `cells` (also points of a search, which are new here), `capacity` and `quality`, as in a document.
    """
    document = sweep.document
    places = {cell["id"]: number for number, cell in enumerate(document["cells"])}
    for cell in state["cells"]:
        if cell["id"] in places:
            document["cells"][places[cell["id"]]] = cell
        else:
            document["cells"].append(cell)
    for answer in state["capacity"] or []:
        known = points.answer_of(document, answer["engine"], answer["repeat"])
        if known is None:
            document["capacity"] = [*(document.get("capacity") or []), answer]
        else:
            known.update(answer)
    if state["quality"] is not None:
        found = {entry["engine"]: entry for entry in state["quality"]["engines"]}
        quality = document["quality"]
        quality["texts"] = quality["texts"] or state["quality"]["texts"]
        quality["engines"] = [found.get(entry["engine"], entry) for entry in quality["engines"]]
        # A node has no rows but those of its own engine: what stands beside the baseline is found here.
        quality["engines"] = figures.results(document, store.Run(sweep.run_dir, document).scored)
    return list(state["cells"])


def _is_of(cell: Json, engine: Engine, repeat: int | None) -> bool:
    return bool(cell["engine"]["name"] == engine.name and repeat in (None, cell["repeat"]))


def _is_answer(answer: Json, unit: Unit) -> bool:
    return bool(answer["engine"] == unit.engine.name and answer["repeat"] == unit.repeat)
