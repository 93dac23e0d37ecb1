"""An arrival rate that changes over time: how many arrivals are expected until when, and when the n-th is. Pure.

`rates_rps` are the rates at equally spaced instants of the load, straight lines between them (`ramp`), or the rates of
equally long parts of it (`step`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def mean_rps(arrival: str, rates_rps: Sequence[float]) -> float:
    """The mean rate of a whole ramp or of all steps."""
    if arrival == "step":
        return sum(rates_rps) / len(rates_rps)
    return (sum(rates_rps) - (rates_rps[0] + rates_rps[-1]) / 2) / (len(rates_rps) - 1)


@dataclass(frozen=True)
class Rates:
    """Straight pieces of a rate: piece i begins at `starts_s[i]` with `from_rps[i]` and ends with `to_rps[i]`; all are
    `piece_s` long. `before[i]` arrivals are expected before it begins."""

    piece_s: float
    from_rps: Floats
    to_rps: Floats

    @classmethod
    def of(cls, arrival: str, rates_rps: Sequence[float], seconds: float) -> "Rates":
        rates = np.asarray(rates_rps, dtype=np.float64)
        starts, ends = (rates, rates) if arrival == "step" else (rates[:-1], rates[1:])
        return cls(seconds / len(starts), starts, ends)

    @property
    def before(self) -> Floats:
        """Arrivals expected before each piece, and before the end."""
        return np.concatenate([[0.0], np.cumsum((self.from_rps + self.to_rps) / 2 * self.piece_s)])

    def expected(self, t_s: Floats) -> Floats:
        """How many arrivals are expected until each instant, in seconds from the load's beginning."""
        piece = np.clip((t_s // self.piece_s).astype(np.int64), 0, len(self.from_rps) - 1)
        into_s = np.clip(t_s - piece * self.piece_s, 0.0, self.piece_s)
        slope = (self.to_rps - self.from_rps) / self.piece_s
        return np.asarray(self.before[piece] + self.from_rps[piece] * into_s + slope[piece] * into_s**2 / 2)

    def instant_s(self, arrivals: Floats) -> Floats:
        """When so many arrivals are expected to have come; beyond all of them: infinity."""
        before = self.before
        piece = np.clip(np.searchsorted(before, arrivals, side="left") - 1, 0, len(self.from_rps) - 1)
        left, start = arrivals - before[piece], self.from_rps[piece]
        slope = (self.to_rps[piece] - start) / self.piece_s
        root = np.sqrt(np.maximum(start**2 + 2 * slope * left, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            into_s = np.where(left > 0, 2 * left / (start + root), 0.0)
        return np.asarray(np.where(arrivals <= before[-1], piece * self.piece_s + into_s, np.inf))
