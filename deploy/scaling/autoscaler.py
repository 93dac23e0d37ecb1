"""The horizontal pod autoscaler as its documentation and its controller describe it. Pure but for what it remembers.

Every `sync_s` each metric proposes a number of replicas, and the largest counts:

- A `total` (KEDA's AverageValue, an external metric) is summed over all pods: ceil(total / target), unless
  total / (target × replicas) is within the tolerance of 1.
- A `per_pod` average (a pods metric; CPU utilization) is over the pods that are ready: ceil(average / target × ready).
  Where that would scale up, pods that are not ready yet count as 0; what then points down, or into the tolerance,
  changes nothing.

A metric without a value keeps replicas from going down. Then `behavior`: the lowest proposal of the window upwards and
the highest of the window downwards, and no more change in a period than the policies allow.
Source: kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale (its details and its policies).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SYNC_S = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """At most `value` pods, or percent of the pods at the period's begin, within `period_s`."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True)
class Direction:
    """How fast replicas may change one way."""

    stabilization_s: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


# What Kubernetes takes where nothing is said.
DEFAULT_UP = Direction(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
DEFAULT_DOWN = Direction(300, (Policy("Percent", 100, 15),))


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["total", "per_pod"]
    target: float


@dataclass(frozen=True)
class Autoscaler:
    """What one autoscaler is told to do."""

    metrics: tuple[Metric, ...]
    least: int
    most: int
    up: Direction = DEFAULT_UP
    down: Direction = DEFAULT_DOWN
    tolerance: float = TOLERANCE
    sync_s: float = SYNC_S


@dataclass
class Memory:
    """What an autoscaler has proposed and done: (seconds, replicas) and (seconds, change above 0)."""

    proposed: list[tuple[float, int]] = field(default_factory=list)
    added: list[tuple[float, int]] = field(default_factory=list)
    removed: list[tuple[float, int]] = field(default_factory=list)


def proposal(metric: Metric, value: float, replicas: int, ready: int, tolerance: float) -> int:
    """What one metric asks for; `value` is the total, or the average of the pods that are ready."""
    if metric.kind == "total":
        near = abs(1 - value / (metric.target * replicas)) <= tolerance
        return replicas if near else math.ceil(value / metric.target - 1e-9)
    ratio = value / metric.target
    unready = replicas - ready
    if unready == 0 or ratio <= 1:
        return replicas if abs(1 - ratio) <= tolerance else math.ceil(ratio * ready - 1e-9)
    again = ratio * ready / replicas  # those not ready yet as idle
    if abs(1 - again) <= tolerance or again < 1:
        return replicas
    return math.ceil(again * replicas - 1e-9)


def decide(
    scaler: Autoscaler, memory: Memory, now_s: float, replicas: int, ready: int, values: Mapping[str, float | None]
) -> int:
    """How many replicas there shall be now. Remembers the proposal and the change."""
    known = [(metric, value) for metric in scaler.metrics if (value := values.get(metric.name)) is not None]
    wanted = max((proposal(one, value, replicas, ready, scaler.tolerance) for one, value in known), default=replicas)
    if len(known) < len(scaler.metrics):
        wanted = max(wanted, replicas)
    steady = _stabilized(scaler, memory, now_s, replicas, wanted)
    if steady > replicas:
        limit = max(replicas, _limit_up(scaler.up, memory, now_s, replicas))
        new = min(steady, limit, scaler.most)
    elif steady < replicas:
        limit = min(replicas, _limit_down(scaler.down, memory, now_s, replicas))
        new = max(steady, limit, scaler.least)
    else:
        new = replicas
    new = min(max(new, scaler.least), scaler.most)
    if new > replicas:
        memory.added.append((now_s, new - replicas))
    elif new < replicas:
        memory.removed.append((now_s, replicas - new))
    return new


def _stabilized(scaler: Autoscaler, memory: Memory, now_s: float, replicas: int, wanted: int) -> int:
    up = down = wanted
    for at_s, before in memory.proposed:
        if at_s > now_s - scaler.up.stabilization_s:
            up = min(up, before)
        if at_s > now_s - scaler.down.stabilization_s:
            down = max(down, before)
    window_s = max(scaler.up.stabilization_s, scaler.down.stabilization_s)
    memory.proposed = [one for one in memory.proposed if one[0] > now_s - window_s]
    memory.proposed.append((now_s, wanted))
    if replicas < up:
        return up
    return min(replicas, down)


def _period_start(memory: Memory, now_s: float, replicas: int, period_s: float) -> int:
    added = sum(change for at_s, change in memory.added if at_s > now_s - period_s)
    removed = sum(change for at_s, change in memory.removed if at_s > now_s - period_s)
    return replicas - added + removed


def _limit_up(direction: Direction, memory: Memory, now_s: float, replicas: int) -> int:
    if direction.select == "Disabled":
        return replicas
    found = []
    for policy in direction.policies:
        start = _period_start(memory, now_s, replicas, policy.period_s)
        found.append(
            start + policy.value if policy.kind == "Pods" else math.ceil(start * (1 + policy.value / 100) - 1e-9)
        )
    return max(found) if direction.select == "Max" else min(found)


def _limit_down(direction: Direction, memory: Memory, now_s: float, replicas: int) -> int:
    if direction.select == "Disabled":
        return replicas
    found = []
    for policy in direction.policies:
        start = _period_start(memory, now_s, replicas, policy.period_s)
        found.append(start - policy.value if policy.kind == "Pods" else int(start * (1 - policy.value / 100) + 1e-9))
    return min(found) if direction.select == "Max" else max(found)
