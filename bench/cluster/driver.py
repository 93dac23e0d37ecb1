"""A sweep's units on a cluster: each sent to a node that has room for it, and what it measured taken home.

The run folder is written here alone. A cell is in run.json when all its files are in its folder, so an interrupt, a
lost node or a lost driver leaves what a sweep on one machine leaves, and `--resume` goes on from it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cluster import units
from bench.cluster.connection import connected
from bench.cluster.crew import Crew, Member
from bench.cluster.nodes import Node, nodes, require_alike, unlike, words
from bench.cluster.outbox import Message
from bench.cluster.parcels import Arriving, pieces
from bench.cluster.places import Places
from bench.cluster.units import Unit
from bench.errors import ClusterError, NotOnCluster, PlanError
from bench.execution import at_work, cannot_serve
from bench.quality import passes
from bench.sweep import Sweep
from bench.target import CannotServe
from monitoring.machine import describe

_LOOK_S = 1.0
_LONG_WAIT_S = 60.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Ray, connected as `asked`; what the driver is; where units may go."""

    asked: str
    ray: Any
    environment: Json
    places: Places

    @property
    def measuring(self) -> Json:
        """The environment of a run that is measured here: that of its first node."""
        return self.places.nodes[0].environment


@contextlib.contextmanager
def joined(on: str, at_once: int | None, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The cluster that `--on` names, its nodes asked what they are. Raises PlanError, NotOnCluster or ClusterError."""
    with connected(on, say) as ray:
        here = describe()
        places = Places(nodes(ray, here), at_once or 1)
        if places.on_gpus and at_once is not None:
            raise PlanError(
                f"--at-once {at_once}: is about engines that share the processors of a machine; on GPUs as many run at "
                "once as there are GPUs for. Leave it out."
            )
        if said := unlike(places.nodes):
            say(said)
        yield Cluster(on, ray, here, places)


@dataclass
class _Running:
    """A unit under way. `beside`: the units that were on its machine at any time since its present cell began."""

    unit: Unit
    member: Member
    begun: Any
    arriving: Arriving
    node: Node | None
    since_s: float
    asked: Any = None
    host: str | None = None
    machine: str | None = None
    age_s: float = 0.0
    placed_s: float | None = None
    said_waiting: bool = False
    beside: set[str] = field(default_factory=set)


class Driver:
    """One sweep on one cluster; `run` measures it."""

    def __init__(self, sweep: Sweep, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._sweep, self._cluster, self._clock = sweep, cluster, clock
        self._ray, self._places = cluster.ray, cluster.places
        self._running: list[_Running] = []
        self._crew = Crew(cluster.ray, cluster.places.at_once)
        self._files: dict[str, list[Any]] = {}
        self._kept = sweep.document.setdefault("cluster", {})
        at_once = max(cluster.places.at_once, self._kept.get("at_once", 1))  # also when it was taken up again
        self._kept |= {"asked": cluster.asked, "at_once": at_once, "on": "gpu" if cluster.places.on_gpus else "cpu"}
        self._kept.setdefault("nodes", {}).update({node.host: node.environment for node in cluster.places.nodes})
        none_yet = {"units": 0, "cells": 0, "seconds": 0.0, "starting_s": 0.0, "sending_s": 0.0}
        self._kept["scheduling"] = none_yet | self._kept.get("scheduling", {})

    def run(self) -> None:
        """Measure every pending cell, as `bench.execution.run` does on one machine.

        KeyboardInterrupt ends what is under way, leaves its cells pending, and goes on to the caller. Raises
        ClusterError when no node is left; what was measured is kept.
        """
        with at_work(self._sweep):
            self._sweep.save()
            self._sweep.watcher.say(self._places.describe())
            try:
                self._carry_out(units.of_cells(self._sweep))
                self._carry_out(units.of_quality(self._sweep))
            finally:
                for one in list(self._running):
                    self._end(one)
                self._crew.disband()
            self._say_overhead()

    def _carry_out(self, waiting: list[Unit]) -> None:
        while waiting or self._running:
            waiting = self._start(waiting)
            if not waiting:
                self._crew.disband()
            if not self._running and not waiting:
                return
            if not self._running:
                raise ClusterError(
                    "No node of the cluster is left that could go on. What was measured is kept; go on with "
                    f"`nbridge bench --resume {self._sweep.run_dir} --on …` when nodes are back."
                )
            refs = {one.asked: one for one in self._running}
            ready, _ = self._ray.wait(list(refs), num_returns=1, timeout=_LOOK_S)
            for ref in ready:
                self._hear(refs[ref])
            for one in self._running:
                self._say_waiting(one)

    def _start(self, waiting: list[Unit]) -> list[Unit]:
        """Send off the units that have a place; those that have none yet."""
        left = []
        for unit in waiting:
            if (why := self._places.never(unit)) is not None:
                self._give_up(unit, "unsupported", why)
                continue
            if not self._places.take(unit):
                left.append(unit)
                continue
            node = self._places.node_of(unit)
            self._running.append(self._send_off(unit, node))
        return left

    def _send_off(self, unit: Unit, node: Node | None) -> _Running:
        document = units.part(self._sweep.document, unit)
        member = self._crew.member(node, unit.gpus)
        files = self._files_of(document["plan"])
        begun = member.actor.begin.remote(document, unit.engine.name, unit.repeat, files)
        arriving = Arriving(self._sweep.run_dir, unit.name)
        arriving.drop()  # of a driver that was killed
        one = _Running(unit, member, begun, arriving, node, self._clock())
        one.asked = member.actor.messages.remote(member.seen)
        return one

    def _files_of(self, plan: Json) -> Json:
        """The files that a plan names, as references to their pieces; read once for all units."""
        names = [load.get("prompts_file") for load in plan["loads"]]
        names.append((plan.get("quality") or {}).get("texts"))
        for name in names:
            if name is not None and name not in self._files:
                self._files[name] = [self._ray.put(piece) for piece in pieces(Path(name))]
        return {name: self._files[name] for name in names if name is not None}

    def _hear(self, one: _Running) -> None:
        """Take what a unit's worker has said, and ask for more."""
        errors = self._ray.exceptions
        try:
            messages = self._ray.get(one.asked)
            if not messages and one.placed_s is None and self._ray.wait([one.begun], timeout=0)[0]:
                self._ray.get(one.begun)  # nobody hears of it by another way when that failed
        except errors.ActorUnavailableError:
            messages = []  # Ray does not know yet whether it is gone
            time.sleep(_LOOK_S)
        except errors.RayError as error:
            where = f" on node {one.host}" if one.host else ""
            self._lose(one, f"Ray lost the worker that measured it{where}: {words(error)}")
            return
        for message in messages:
            one.member.seen = message.number
            if not self._handle(one, message):
                return
        one.asked = one.member.actor.messages.remote(one.member.seen)

    def _handle(self, one: _Running, message: Message) -> bool:
        """Whether more is to come from this worker."""
        data = message.data
        if message.kind == "said":
            self._sweep.watcher.say(data["text"])
        elif message.kind == "placed":
            return self._placed(one, data)
        elif message.kind == "began":
            one.beside = self._mates(one)
            self._sweep.watcher.say(f"{data['cell']}: begins on node {one.host}")
        elif message.kind == "piece":
            one.arriving.take(data["name"], data["first"], data["data"])
        elif message.kind == "state":
            self._settle(one, data)
        else:
            self._finish(one, data)
            return False
        return True

    def _placed(self, one: _Running, data: Json) -> bool:
        environment = data["environment"]
        one.host, one.age_s, one.placed_s = environment["host"], data["age_s"], self._clock()
        one.member.node_id = data["node_id"]
        node = next((node for node in self._places.nodes if node.id == data["node_id"]), None)
        one.machine = node.machine if node else data["node_id"]
        try:
            require_alike(self._cluster.environment, environment, f"node {one.host}")
        except NotOnCluster as error:  # a node that joined after the sweep began
            self._lose(one, str(error))
            return False
        self._kept["nodes"][one.host] = environment
        one.beside = self._mates(one)
        for other in self._running:
            if other is not one and other.machine == one.machine:
                other.beside.add(one.unit.name)
        return True

    def _mates(self, one: _Running) -> set[str]:
        return {other.unit.name for other in self._running if other is not one and other.machine == one.machine}

    def _settle(self, one: _Running, state: Json) -> None:
        """A unit's cells are here with their files: now run.json may say so."""
        for said in one.arriving.settle():
            self._sweep.watcher.say(said)
        for cell in state["cells"]:
            cell["placed"] = {"host": one.host, "beside": sorted(one.beside)}
        merged = units.merge(self._sweep, state)
        self._kept["scheduling"]["cells"] += len(merged)
        self._sweep.save()
        for cell in merged:
            if cell["began"]:  # of one that never began, why not has been said
                self._sweep.watcher.cell_ended(cell)

    def _finish(self, one: _Running, data: Json) -> None:
        if data["reason"] is not None:
            self._lose(one, data["reason"])
            return
        self._end(one, lost=False)
        spent, placed_s = self._kept["scheduling"], one.placed_s or one.since_s
        # Who waits for GPUs waits for other people's work; a node is this sweep's from the moment on that it was asked.
        starting_s = placed_s - one.since_s if one.node is not None else one.age_s
        spent["units"] += 1
        spent["starting_s"] += starting_s
        spent["sending_s"] += data["home_s"]
        spent["seconds"] += max(0.0, starting_s + self._clock() - placed_s - data["work_s"])
        self._sweep.save()

    def _lose(self, one: _Running, reason: str) -> None:
        """Only the unit's own cells fail; the others go on, without the nodes that are gone."""
        self._end(one)
        self._give_up(one.unit, "failed", reason)
        alive = {found["NodeID"] for found in self._ray.nodes() if found["Alive"]}
        self._places.nodes = tuple(node for node in self._places.nodes if node.id in alive)

    def _give_up(self, unit: Unit, outcome: str, reason: str) -> None:
        if unit.repeat is not None:
            cannot_serve(self._sweep, unit.engine, unit.repeat, CannotServe(outcome, reason))
            return
        self._sweep.watcher.say(f"{unit.engine.name}: quality {outcome}: {reason}")
        for entry in passes.pending(self._sweep.document):
            if entry["engine"] == unit.engine.name:
                entry.update(outcome=outcome, reason=reason)
        self._sweep.save()

    def _end(self, one: _Running, *, lost: bool = True) -> None:
        """A unit is over; its worker is kept for another unless it is `lost`, or was at work still."""
        self._running.remove(one)
        self._places.free(one.unit)
        one.arriving.drop()
        if lost:
            self._crew.let_go(one.member)
        else:
            self._crew.rest(one.member)

    def _say_waiting(self, one: _Running) -> None:
        if one.placed_s is None and not one.said_waiting and self._clock() - one.since_s > _LONG_WAIT_S:
            one.said_waiting = True
            where = "GPUs" if one.node is None else f"the processors of node {one.node.host}"
            self._sweep.watcher.say(f"{one.unit.name}: waits for {where}; something else on the cluster has them")

    def _say_overhead(self) -> None:
        spent = self._kept["scheduling"]
        if spent["cells"]:
            self._sweep.watcher.say(
                f"scheduling took {spent['seconds'] / spent['cells']:.1f} s a cell: "
                f"{spent['starting_s'] / spent['cells']:.1f} s of it until a worker began, "
                f"{spent['sending_s'] / spent['cells']:.1f} s to take records home"
            )
