"""How far apart two engines have to be before luck can be ruled out, by the repeats so far and what is usual. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Runs of one engine on one machine usually differ by so much (standard deviation, relative); it counts like so many
# degrees of freedom, and is outweighed by the repeats as they come.
USUAL_SD, USUAL_WEIGHT = 0.05, 4
CONFIDENCE = 0.95  # one-sided: that the one behind is really behind
_LEAST = 1e-12  # in place of 0, which has no logarithm


def log(value: float) -> float:
    return math.log(max(value, _LEAST))


@dataclass(frozen=True)
class Noise:
    """The standard deviation of one run's figure, relative, and how many degrees of freedom it stands on."""

    sd: float
    freedom: int

    def margin(self, one: int, other: int) -> float:
        """How far (relative) two engines measured in so many repeats each differ by luck, in 19 of 20 cases at most."""
        from scipy.stats import t  # where it is used: it takes a second to import

        return float(t.ppf(CONFIDENCE, self.freedom)) * self.sd * math.sqrt(1 / one + 1 / other)


def noise(values: Mapping[str, Sequence[float]]) -> Noise:
    """From every engine's values, one a repeat: their spread about each engine's own mean, together with the usual."""
    squares, freedom = USUAL_WEIGHT * USUAL_SD**2, USUAL_WEIGHT
    for repeats in values.values():
        logs = [log(value) for value in repeats]
        if len(logs) > 1:
            squares += statistics.variance(logs) * (len(logs) - 1)
            freedom += len(logs) - 1
    return Noise(math.sqrt(squares / freedom), freedom)
