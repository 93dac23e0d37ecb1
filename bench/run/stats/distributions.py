"""Many values as one distribution: count, mean, extremes, spread, and those percentiles that they suffice for."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# A percentile needs ten samples beyond it; the median is asked for five in all. With fewer it is absent, never a guess.
MIN_SAMPLES = {"p50": 5, "p90": 100, "p95": 200, "p99": 1000}
_QUANTILE = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def distribution(values: Floats) -> dict[str, float | int] | None:
    """n, mean, min, max, sd and those percentiles that `values` has enough samples for; None for no values.

    Reorders `values`: tens of millions of token gaps are not copied.
    """
    n = int(values.size)
    if n == 0:
        return None
    result: dict[str, float | int] = {
        "n": n,
        "mean": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
    if n > 1:
        squares = sum(
            float(np.square(part - result["mean"]).sum()) for part in np.array_split(values, n // 1_000_000 + 1)
        )
        result["sd"] = math.sqrt(squares / (n - 1))
    names = [name for name, needed in MIN_SAMPLES.items() if n >= needed]
    if names:
        points = np.quantile(values, [_QUANTILE[name] for name in names], overwrite_input=True)
        result.update({name: float(point) for name, point in zip(names, points, strict=True)})
    return result
