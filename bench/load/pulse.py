"""The pulse of a process that measures: did it stand still (stopped, starved, swapped out) while it should have timed,
and did its clocks go on as they should?

A clock that is not looked at measures nothing: what arrives or falls due while the process stands still is stamped
late, and no record shows it. Beside the load one more greenlet (a thread without Locust) wakes every BEAT_S; what it
wakes late, everything in the process was late. It also looks whether CLOCK_REALTIME, on which the kernel stamps what
comes, was set meanwhile: its difference to the monotonic clock then changes. And how much of this machine's processors
its host gave to others while there was work for them (steal), which nothing on a virtual machine can help.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from bench.client.clock import apart_ns

BEAT_S = 0.02
PULSE = ("longest_pause_s", "paused_s", "clock_step_s", "clock_slew", "stolen_share")  # what it says
PAUSE_S = 0.05  # being late by less is a scheduler's ordinary doing


class Pulse:
    """From `begin` to `end`: the longest time that the process stood still, and all such times together, in seconds
    (times below PAUSE_S do not count); by how many seconds CLOCK_REALTIME was set; by which share of the time the
    monotonic clock was adjusted, which NTP does to both clocks at once; and which share of the processors' time the
    host of a virtual machine kept from it (None where the system does not say). None before `begin`.

    `apart` gives another clock − the monotonic one, in nanoseconds; `stolen` the processors' stolen time so far, all of
    them together, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        apart: Callable[[int], int] = apart_ns,
        stolen: Callable[[], float | None] = lambda: getattr(psutil.cpu_times(), "steal", None),
    ) -> None:
        self._clock, self._sleep, self._apart, self._stolen = clock, sleep, apart, stolen
        self.longest_pause_s: float | None = None
        self.paused_s: float | None = None
        self.clock_step_s: float | None = None
        self.clock_slew: float | None = None
        self.stolen_share: float | None = None
        self._due_s: float | None = None

    def begin(self) -> None:
        self.longest_pause_s = self.paused_s = self.clock_step_s = 0.0
        self._begun_s = self._clock()
        self._real_ns, self._raw_ns = self._apart(time.CLOCK_REALTIME), self._raw()
        self._stolen_s = self._stolen()
        self._due_s = self._clock() + BEAT_S

    def end(self) -> None:
        """The last beat; what happens to the process from now on is not counted."""
        if self._due_s is None:
            return
        self._beat()
        self._due_s = None
        raw_ns, spent_s = self._raw(), self._clock() - self._begun_s
        if self._raw_ns is not None and raw_ns is not None and spent_s > 0:
            self.clock_slew = abs(raw_ns - self._raw_ns) * 1e-9 / spent_s
        stolen_s = self._stolen()
        if self._stolen_s is not None and stolen_s is not None and spent_s > 0:
            self.stolen_share = (stolen_s - self._stolen_s) / spent_s / (psutil.cpu_count() or 1)

    def _raw(self) -> int | None:
        """The clock that nobody adjusts − the monotonic one; None where there is none."""
        clock = getattr(time, "CLOCK_MONOTONIC_RAW", None)
        return None if clock is None else self._apart(clock)

    def run(self) -> None:
        """Beats from `begin` until `end`; to be run beside what is watched."""
        self.begin()
        while self._due_s is not None:
            self._sleep(BEAT_S)
            self._beat()

    def _beat(self) -> None:
        if self._due_s is None:
            return
        step_s = abs(self._apart(time.CLOCK_REALTIME) - self._real_ns) * 1e-9
        self.clock_step_s = max(self.clock_step_s or 0.0, step_s)
        now_s = self._clock()
        late_s = now_s - self._due_s
        if late_s >= PAUSE_S:
            self.longest_pause_s = max(self.longest_pause_s or 0.0, late_s)
            self.paused_s = (self.paused_s or 0.0) + late_s
        self._due_s = now_s + BEAT_S
