"""Whose turn it is: at most `limit` requests are served at once, and turns begin at most `limit_rps` times a second.

What lies beyond waits in the order of arrival. Turns follow the schedule, not the moment at which this process got to
it: a place that fell free at 1.000 s is taken at 1.000 s, although the timer rang at 1.001 s. So the server's capacity
is `limit` / service time, or `limit_rps`, exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits for its turn; `begin` is told when the turn began (absolute seconds)."""

    arrived_s: float
    begin: Callable[[float], None]


class Turns:
    """Gives requests their turns. `now` and `call_at` are an event loop's clock and timer."""

    def __init__(
        self,
        limit: int | None,
        limit_rps: float | None,
        *,
        now: Callable[[], float],
        call_at: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.limit, self.limit_rps = limit, limit_rps
        self.running = 0
        self.waiting: deque[Waiting] = deque()
        self._now, self._call_at = now, call_at
        self._next_s = 0.0
        self._timer = False

    def ask(self, arrived_s: float, begin: Callable[[float], None]) -> Waiting:
        """Takes a request in: it begins at once or waits."""
        one = Waiting(arrived_s, begin)
        self.waiting.append(one)
        self._serve(0.0)
        return one

    def full(self, queue_limit: int | None) -> bool:
        """Whether a request that came now would have to wait, with `queue_limit` already waiting."""
        if queue_limit is None or len(self.waiting) < queue_limit:
            return False
        served = self.limit is None or self.running < self.limit
        return bool(self.waiting) or not served or self._next_s > self._now()

    def give_up(self, one: Waiting) -> None:
        """A request that still waits has gone."""
        self.waiting.remove(one)

    def end(self, ended_s: float) -> None:
        """A request's turn is over, since `ended_s` by the schedule."""
        self.running -= 1
        self._serve(ended_s)

    def _ring(self) -> None:
        self._timer = False
        self._serve(0.0)

    def _serve(self, free_s: float) -> None:
        while self.waiting and (self.limit is None or self.running < self.limit):
            turn_s = max(self.waiting[0].arrived_s, free_s, self._next_s)
            if turn_s > self._now():
                if not self._timer:
                    self._timer = True
                    self._call_at(turn_s, self._ring)
                return
            one = self.waiting.popleft()
            self.running += 1
            if self.limit_rps is not None:
                self._next_s = turn_s + 1 / self.limit_rps
            one.begin(turn_s)
