"""The pulse of a process that measures: did it stand still (stopped, starved, swapped out) while it should have timed?

A clock that is not looked at measures nothing: what arrives or falls due while the process stands still is stamped
late, and no record shows it. Beside the load one more greenlet (a thread without Locust) wakes every BEAT_S; what it
wakes late, everything in the process was late.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BEAT_S = 0.02
PAUSE_S = 0.05  # being late by less is a scheduler's ordinary doing


class Pulse:
    """From `begin` to `end`: the longest time that the process stood still, and all such times together, in seconds.

    Times below PAUSE_S do not count. None before `begin`.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self.longest_pause_s: float | None = None
        self.paused_s: float | None = None
        self._due_s: float | None = None

    def begin(self) -> None:
        self.longest_pause_s = self.paused_s = 0.0
        self._due_s = self._clock() + BEAT_S

    def end(self) -> None:
        """The last beat; what happens to the process from now on is not counted."""
        self._beat()
        self._due_s = None

    def run(self) -> None:
        """Beats from `begin` until `end`; to be run beside what is watched."""
        self.begin()
        while self._due_s is not None:
            self._sleep(BEAT_S)
            self._beat()

    def _beat(self) -> None:
        if self._due_s is None:
            return
        now_s = self._clock()
        late_s = now_s - self._due_s
        if late_s >= PAUSE_S:
            self.longest_pause_s = max(self.longest_pause_s or 0.0, late_s)
            self.paused_s = (self.paused_s or 0.0) + late_s
        self._due_s = now_s + BEAT_S
