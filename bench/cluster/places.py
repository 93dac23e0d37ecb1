"""Where the next unit may go. Pure."""

from bench.cluster.nodes import Node
from bench.cluster.units import Unit
from inputs.quantities import plural


class Places:
    """On processors at most `at_once` units are on one machine, each on its share of a node's processors; on GPUs Ray
    finds the place."""

    def __init__(self, nodes: tuple[Node, ...], at_once: int) -> None:
        self.nodes = nodes
        self.at_once = at_once
        self._taken: dict[str, tuple[str | None, int]] = {}  # unit → node, GPUs

    @property
    def on_gpus(self) -> bool:
        return bool(self.nodes) and self.nodes[0].device == "gpu"

    @property
    def machines(self) -> int:
        return len({node.machine for node in self.nodes})

    def describe(self) -> str:
        """In a line, for whoever waits."""
        where = f"on {plural(self.machines, 'machine')}"
        if self.on_gpus:
            return (
                f"Ray: {plural(sum(node.gpus for node in self.nodes), 'GPU')} {where}; engines go where GPUs are free"
            )
        said = f"Ray: {plural(len(self.nodes), 'node')} {where}, without GPUs; "
        if self.at_once > 1:
            return f"{said}{self.at_once} engines at once on each machine, where they disturb each other, as asked"
        return f"{said}one engine at a time on each machine: two would disturb each other (--at-once 2 measures so)"

    def never(self, unit: Unit) -> str | None:
        """Why no node can ever take a unit, in a sentence."""
        most = max((node.gpus for node in self.nodes), default=0)
        if not self.on_gpus or unit.gpus <= most:
            return None
        return f"It needs {unit.gpus} GPUs of one machine, and the largest node of the cluster has {most}."

    def take(self, unit: Unit) -> bool:
        """Whether a unit may go now; it then has its place until `free`."""
        if self.on_gpus:
            # No more than there are GPUs: Ray would let the others wait, and each for a worker of its own.
            found: str | None = None
            fits = sum(gpus for _, gpus in self._taken.values()) + unit.gpus <= sum(node.gpus for node in self.nodes)
        else:
            found = self._free_node()
            fits = found is not None
        if fits:
            self._taken[unit.name] = (found, unit.gpus)
        return fits

    def node_of(self, unit: Unit) -> Node | None:
        """The node that a unit has; None where Ray finds it, by the GPUs."""
        name, _ = self._taken[unit.name]
        return next((node for node in self.nodes if node.id == name), None)

    def _free_node(self) -> str | None:
        busy = [name for name, _ in self._taken.values()]
        for node in sorted(self.nodes, key=lambda one: busy.count(one.id)):
            mates = {one.id for one in self.nodes if one.machine == node.machine}
            if sum(one in mates for one in busy) < self.at_once:
                return node.id
        return None

    def free(self, unit: Unit) -> None:
        """Give a unit's place back."""
        self._taken.pop(unit.name, None)
