"""Numbers that are not known exactly: low, most likely, high; their draws, percentiles and what each one moves.

A quantity is drawn from the triangular distribution over [low, high] with its peak at `mode`: bounded, explainable, and
wider in the tails than PERT with the same three numbers. Inputs are drawn independently of each other. Each has a
random stream of its own, made from the seed and its name: whoever changes one input changes no other input's draws.
"""

import math
import zlib
from dataclasses import dataclass
from datetime import date as Date
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Values = NDArray[np.float64]
Number = float | Values
Finite = Annotated[float, Field(allow_inf_nan=False)]
DISTRIBUTION = "triangular"


class Quantity(BaseModel):
    """A number as a range with where it comes from: `low` ≤ `mode` (most likely) ≤ `high`, all in `unit`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Finite
    mode: Finite
    high: Finite
    unit: str = ""
    source: str | None = None
    date: Date | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mode <= self.high:
            raise ValueError(f"low {self.low:g}, mode {self.mode:g}, high {self.high:g} must not decrease")
        return self

    @classmethod
    def point(cls, value: float, unit: str = "", source: str | None = None, date: Date | None = None) -> Self:
        """A quantity without a range."""
        return cls(low=value, mode=value, high=value, unit=unit, source=source, date=date)

    @property
    def is_point(self) -> bool:
        return self.low == self.high

    @property
    def median(self) -> float:
        """What half of its draws lie below."""
        if self.is_point:
            return self.mode
        span, below = self.high - self.low, self.mode - self.low
        if 2 * below >= span:
            return self.low + math.sqrt(span * below / 2)
        return self.high - math.sqrt(span * (self.high - self.mode) / 2)


@dataclass(frozen=True)
class Range:
    """The 5th, 50th and 95th percentile of draws, and their mean. math.inf stands for “never” or “cannot”."""

    p5: float
    p50: float
    p95: float
    mean: float


@dataclass(frozen=True)
class Swing:
    """What one input moves: the median result with this input at its low and at its high, all others drawn."""

    name: str
    label: str
    unit: str
    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        return math.inf if math.isinf(self.at_low) or math.isinf(self.at_high) else abs(self.at_high - self.at_low)


def draw(quantity: Quantity, name: str, draws: int, seed: int) -> Number:
    """Return `draws` values of the quantity (its one value when it has no range), the same for the same seed and name.

    Inverse of the triangular distribution's cumulative function at uniform numbers.
    """
    if quantity.is_point:
        return quantity.mode
    low, mode, high = quantity.low, quantity.mode, quantity.high
    stream = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    uniform = stream.random(draws)
    rising = low + np.sqrt(uniform * (high - low) * (mode - low))
    falling = high - np.sqrt((1 - uniform) * (high - low) * (high - mode))
    chosen: Values = np.where(uniform < (mode - low) / (high - low), rising, falling)
    return chosen


def summary(values: Number) -> Range:
    """Return percentiles and mean of draws; a single number gives that number everywhere."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    # No interpolation: between a finite cost and infinity there is nothing.
    p5, p50, p95 = (float(p) for p in np.percentile(array, [5, 50, 95], method="inverted_cdf"))
    return Range(p5, p50, p95, float(array.mean()))


def probability(truth: NDArray[np.bool_] | np.bool_ | bool) -> float:
    """Return the share of draws in which something is true."""
    return float(np.mean(truth))
