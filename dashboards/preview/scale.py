"""Axes: round steps, and the way from values to places."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

_TIME_STEPS_S = (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def round_steps(low: float, high: float, wanted: int = 4, *, binary: bool = False) -> list[float]:
    """About `wanted` round values (1, 2, 2.5 or 5 times a power of ten apart) that cover `low` to `high`.

    `binary`: round in the KiB, MiB or GiB in which `high` is written.
    """
    if high <= low:
        high = low + 1
    if binary and (size := 1024.0 ** max(0, math.floor(math.log(high, 1024)))) > 1:
        return [step * size for step in round_steps(low / size, high / size, wanted)]
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def clock(at_s: float, form: str = "%H:%M:%S") -> str:
    """A Unix time in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def round_times(start_s: float, end_s: float, wanted: int = 5) -> list[tuple[float, str]]:
    """(Unix time, clock in UTC) of about `wanted` round instants between two."""
    rough = (end_s - start_s) / wanted
    step = next((step for step in _TIME_STEPS_S if step >= rough), 86400 * math.ceil(rough / 86400))
    form = "%d %b" if step >= 86400 else "%H:%M" if step >= 60 else "%H:%M:%S"
    first = math.ceil(start_s / step) * step
    times = range(first, math.floor(end_s) + 1, step)
    return [(float(at_s), clock(at_s, form)) for at_s in times]
