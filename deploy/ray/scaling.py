"""How many replicas the requests ask for: Kubernetes' rule over two signals, as a policy of Ray Serve's autoscaler."""

import math
from typing import Any

WAITING = "waiting"
IN_WORK = "in_work"


def wanted(waiting: float, in_work: float, *, waiting_per_replica: float, in_work_per_replica: float) -> int:
    """As many replicas as the larger signal asks for, at least one.

    `waiting` orders replicas when a queue builds up; `in_work` (waiting ones included) keeps those that have emptied
    it: by the queue alone they would go as soon as they had done their work, and be ordered again.
    """
    return max(1, math.ceil(waiting / waiting_per_replica), math.ceil(in_work / in_work_per_replica))


class Policy:
    """The policy as Ray calls it, some ten times a second, in its controller; bounds and delays Ray puts around it."""

    def __init__(self, waiting_per_replica: float, in_work_per_replica: float) -> None:
        self._per_replica = {"waiting_per_replica": waiting_per_replica, "in_work_per_replica": in_work_per_replica}

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """`context`: Ray's AutoscalingContext. What waits for a place at Ray's door waits as well."""
        at_door = float(context.total_queued_requests or 0.0)
        found = {name: sum(context.aggregated_metrics.get(name, {}).values()) for name in (WAITING, IN_WORK)}
        return wanted(found[WAITING] + at_door, found[IN_WORK] + at_door, **self._per_replica), {}
