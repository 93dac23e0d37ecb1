"""The workers of a sweep: made where a unit goes, and kept for the next one that goes there.

A new worker is a new process that imports this application, which takes longer than all else that a cluster adds to a
cell. One that is kept holds its place, its processors or its GPUs, so it is let go as soon as no unit waits.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from bench.cluster.nodes import Node
from bench.cluster.worker import Worker

Json = dict[str, Any]


@dataclass
class Member:
    """A worker. `place`: the processors of a node, or so many GPUs of any; `node_id`: where Ray has put it, as far as
    known; `seen`: the number of its last message that was taken."""

    actor: Any
    place: tuple[str | None, int]
    node_id: str | None = None
    seen: int = 0


class Crew:
    """Workers on Ray; `idle` are those that wait for a unit."""

    def __init__(self, ray: Any, at_once: int) -> None:
        self._ray, self._at_once = ray, at_once
        self.idle: list[Member] = []

    def member(self, node: Node | None, gpus: int) -> Member:
        """A worker for the next unit on `node`, or on so many GPUs where there is no such node: one that is idle there,
        else a new one."""
        place = (node.id if node else None, 0 if node else gpus)
        alive = {found["NodeID"] for found in self._ray.nodes() if found["Alive"]} if self.idle else set()
        for one in [one for one in self.idle if one.node_id not in alive]:
            self.let_go(one)
        if found := next((one for one in self.idle if one.place == place), None):
            self.idle.remove(found)
            return found
        if node is None:
            self.disband()  # they hold GPUs that the new one may need, in another number
        return Member(self._ray.remote(Worker).options(**self._options(node, gpus)).remote(), place)

    def rest(self, one: Member) -> None:
        """Keep a worker whose unit has ended for another."""
        self.idle.append(one)

    def let_go(self, one: Member) -> None:
        """End a worker, and with it whatever it started: servers live no longer than who started them."""
        if one in self.idle:
            self.idle.remove(one)
        with contextlib.suppress(ConnectionError, self._ray.exceptions.RayError):  # gone already, or the head is
            self._ray.kill(one.actor, no_restart=True)

    def disband(self) -> None:
        """End those that wait for a unit."""
        for one in list(self.idle):
            self.let_go(one)

    def _options(self, node: Node | None, gpus: int) -> Json:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if node is None:
            options: Json = {"num_cpus": 1, "num_gpus": gpus}
        else:
            strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
            options = {"num_cpus": max(1, node.cpus // self._at_once), "scheduling_strategy": strategy}
        # Two threads: one may wait in `messages` while Ray asks for something else.
        return options | {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
