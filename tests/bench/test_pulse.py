"""The pulse beside a load: wakes that were late, time that a host took, clocks that were set."""

import time

import psutil
import pytest

from bench.load.pulse import Pulse


class Clock:
    """A clock that stands where it is put, and a sleep that moves it on by the times given, one after the other."""

    def __init__(self, *slept: float) -> None:
        self.now_s, self.slept = 10.0, list(slept)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, _: float) -> None:
        self.now_s += self.slept.pop(0)
        if not self.slept:
            self.at_end()

    def at_end(self) -> None:
        raise NotImplementedError


def test_the_pulse_counts_what_it_wakes_late() -> None:
    # due every 20 ms; 10 ms late does not count, 80 ms and 4 s do
    clock = Clock(0.02, 0.03, 0.1, 4.02, 0.02)
    pulse = Pulse(clock, clock.sleep)
    clock.at_end = pulse.end  # type: ignore[method-assign]
    assert pulse.longest_pause_s is None  # nothing is known before it began
    pulse.run()
    assert pulse.longest_pause_s == pytest.approx(4.0)
    assert pulse.paused_s == pytest.approx(4.08)


def test_the_pulse_says_what_the_host_of_a_virtual_machine_took() -> None:
    """80 ms of which the host kept 40 ms; None where the system does not count it."""
    for stolen_s, share in (([7.0, 7.04], 0.04 / 0.08 / (psutil.cpu_count() or 1)), ([None, None], None)):
        counted = iter(stolen_s)
        clock = Clock(0.02, 0.02, 0.02, 0.02)
        pulse = Pulse(clock, clock.sleep, stolen=lambda counted=counted: next(counted))
        clock.at_end = pulse.end  # type: ignore[method-assign]
        pulse.run()
        assert pulse.stolen_share == (None if share is None else pytest.approx(share))


def test_the_pulse_notices_that_a_clock_was_set() -> None:
    """The kernel's clock is set by 2 ms between the second beat and the third; who adjusts the other clock does not."""
    real_ns = iter([7_000, 7_020, 7_010, 2_007_000, 2_007_000, 2_007_000])
    clock = Clock(0.02, 0.02, 0.02, 0.02)
    pulse = Pulse(clock, clock.sleep, lambda which: next(real_ns) if which == time.CLOCK_REALTIME else 500)
    clock.at_end = pulse.end  # type: ignore[method-assign]
    pulse.run()
    assert pulse.clock_step_s == pytest.approx(0.002)
    assert pulse.clock_slew == 0


@pytest.mark.skipif(not hasattr(time, "CLOCK_MONOTONIC_RAW"), reason="there is no clock that nobody adjusts")
def test_the_pulse_notices_that_the_clock_was_adjusted() -> None:
    """In 80 ms the clock that nobody adjusts falls behind the other one by 4: that one ran 5 % too fast."""
    raw_ns = iter([900, 900 - 4_000_000])
    clock = Clock(0.02, 0.02, 0.02, 0.02)
    pulse = Pulse(clock, clock.sleep, lambda which: 7_000 if which == time.CLOCK_REALTIME else next(raw_ns))
    clock.at_end = pulse.end  # type: ignore[method-assign]
    assert pulse.clock_slew is None
    pulse.run()
    assert (pulse.clock_step_s, pulse.clock_slew) == (0, pytest.approx(0.05))
