"""How many replicas the requests ask for: Kubernetes' rule over two signals, as a policy of Ray Serve's autoscaler."""

import math
from typing import Any

WAITING = "waiting"


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
        """`context`: Ray's AutoscalingContext. What waits for a place at Ray's door waits as well.

        What is in work is Ray's count: all requests came through it, and it is there when an engine that is busy has
        not said its own in time. An engine that says nothing orders no replica, and none goes for it.
        """
        engines = (context.aggregated_metrics or {}).get(WAITING, {})
        waiting = sum(engines.values()) + float(context.total_queued_requests or 0.0)
        return wanted(waiting, float(context.total_num_requests), **self._per_replica), {}
