"""One replica at work, request by request: a place for each, a first-come queue behind, all of it as fast as measured.

Of a request only its work is known: 1 for the mean one. With n in service each of them gets rate(n) / n of its work
done a second, so that n in service end rate(n) requests a second, as was measured. Who finds no place free waits.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.scaling.replica import Replica


class Pace:
    """What a replica does with n in service, for every n: read from its curve once."""

    def __init__(self, replica: Replica) -> None:
        self.places = max(1, round(replica.places))
        counts = range(1, self.places + 1)
        self.work_per_s = (0.0, *(replica.rate_rps(n) / n for n in counts))
        self.ttft_s = (0.0, *(replica.ttft_s(n) for n in counts))
        self.most_rps = max(share * n for n, share in enumerate(self.work_per_s))
        self.limit_s = replica.ttft_limit_s * (1 + 1e-9)


@dataclass
class Tally:
    """What became of requests so far: begun after which waits, beyond the objective, refused, cut, ended."""

    begun: int = 0
    waited_s: float = 0.0
    wait_max_s: float = 0.0
    missed: int = 0
    refused: int = 0
    cut: int = 0
    ended: int = 0


class Pod:
    """A replica that is ready from `ready_at_s` on; draining until `ends_at_s`, where it is told to go."""

    def __init__(self, pace: Pace, ready_at_s: float = 0.0) -> None:
        self.pace, self.ready_at_s = pace, ready_at_s
        self.ends_at_s: float | None = None
        self.next_s = math.inf  # when the next request in service ends, if none comes before
        self._serving: list[float] = []  # a heap: what `_done` will be when each of them ends
        self._waiting: deque[tuple[float, float]] = deque()  # when it came, and its work
        self._done = 0.0  # the work that whoever was in service from the beginning on would have got
        self._now_s = 0.0

    @property
    def in_work(self) -> int:
        return len(self._serving) + len(self._waiting)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def come(self, now_s: float, work: float, tally: Tally) -> None:
        """A request arrives; the pod has been played until `now_s`."""
        if len(self._serving) < self.pace.places:
            self._done += (now_s - self._now_s) * self.pace.work_per_s[len(self._serving)]
            self._now_s = now_s
            self._begin(0.0, work, tally)
            self._plan()
        else:
            self._waiting.append((now_s, work))

    def play(self, to_s: float, tally: Tally) -> None:
        """Serve until `to_s`."""
        serving, waiting = self._serving, self._waiting
        while serving and self.next_s <= to_s:
            self._now_s = self.next_s
            self._done = heapq.heappop(serving)
            tally.ended += 1
            if waiting:
                came_s, work = waiting.popleft()
                self._begin(self._now_s - came_s, work, tally)
            self._plan()

    def cut(self, tally: Tally) -> None:
        """End it with all that is in work."""
        tally.cut += self.in_work
        tally.missed += len(self._waiting)
        self._serving.clear()
        self._waiting.clear()
        self.next_s = math.inf

    def _begin(self, waited_s: float, work: float, tally: Tally) -> None:
        heapq.heappush(self._serving, self._done + work)
        tally.begun += 1
        tally.waited_s += waited_s
        tally.wait_max_s = max(tally.wait_max_s, waited_s)
        if waited_s + self.pace.ttft_s[len(self._serving)] > self.pace.limit_s:
            tally.missed += 1

    def _plan(self) -> None:
        serving = self._serving
        if not serving:
            self.next_s = math.inf
            return
        self.next_s = self._now_s + (serving[0] - self._done) / self.pace.work_per_s[len(serving)]


def serve(pods: Sequence[Pod], requests: Iterable[tuple[float, float]], wait_limit_s: float, tally: Tally) -> None:
    """Give each request (when it comes, its work) to the pod with the least in work, unless it would wait too long."""
    for at_s, work in requests:
        chosen, least = pods[0], math.inf
        for pod in pods:
            if pod.next_s <= at_s:
                pod.play(at_s, tally)
            if (count := pod.in_work) < least:
                chosen, least = pod, count
        if chosen.waiting >= wait_limit_s * chosen.pace.most_rps:
            tally.refused += 1
        else:
            chosen.come(at_s, work, tally)
