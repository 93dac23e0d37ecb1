"""Was an open load delivered as it was configured? From the instants at which its requests left the client. Pure.

  gap          between two arrivals that follow each other; where the rate changes, in units of the gap that is expected
               at that instant, so that a ramp's gaps are of one kind
  CV           standard deviation ÷ mean of the gaps: 1 of a Poisson process, 1/√burstiness of a gamma process, 0 of
               constant gaps
  lag-1        correlation of each gap with the next one: 0 where arrivals owe nothing to each other
An arrival process can have the right rate and be none of these: workers that repeat each other's gaps send bursts.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.run.rates import Rates

Floats = npt.NDArray[np.float64]

CV_SHARE = 0.1  # by which the CV of 1,000 gaps may be off, and their lag-1 correlation
FULL_SAMPLE = 1000
LEAST_GAPS = 50  # below these nothing can be said


def delivery(scheduled_s: Floats, left_s: Floats, load: dict[str, Any]) -> dict[str, Any]:
    """How the arrivals of an open load were delivered beside how they were configured.

    `scheduled_s` are the instants at which requests were due, `left_s` those at which they left the client (NaN:
    never), both in any order. `cv` and `lag1` are those of the delivered gaps; `…_expected` and how far off they may be
    (`…_limit`) are of the configured process, of a trace of its own times. None where too few gaps allow no word.
    """
    scheduled, left = np.sort(scheduled_s), np.sort(left_s[~np.isnan(left_s)])
    length_s = load.get("seconds") or (float(scheduled[-1]) if len(scheduled) else None)
    gaps = gaps_of(left, load)
    return {
        "process": load.get("arrival") or "poisson",
        "offered": len(scheduled),
        "delivered": len(left),
        "delivered_share": len(left) / len(scheduled) if len(scheduled) else None,
        "offered_rps": len(scheduled) / length_s if length_s else None,
        "delivered_rps": len(left) / length_s if length_s else None,
        "cv": cv(gaps),
        "lag1": lag1(gaps),
        **_expected(load, gaps_of(scheduled, load)),
    }


def gaps_of(instants_s: Floats, load: dict[str, Any]) -> Floats:
    """The gaps between instants (ascending), in units of the expected gap where the load's rate changes."""
    if load.get("arrival") in ("ramp", "step"):
        instants_s = Rates.of(load["arrival"], load["rates_rps"], load["seconds"]).expected(instants_s)
    return np.diff(instants_s)


def cv(gaps: Floats) -> float | None:
    """Coefficient of variation of the gaps; None of too few."""
    if len(gaps) < LEAST_GAPS or not gaps.mean():
        return None
    return float(gaps.std() / gaps.mean())


def lag1(gaps: Floats) -> float | None:
    """Autocorrelation of the gaps at lag 1; None of too few, or where they are all the same."""
    if len(gaps) < LEAST_GAPS:
        return None
    centred = gaps - gaps.mean()
    spread = float(np.square(centred).sum())
    return float((centred[:-1] * centred[1:]).sum() / spread) if spread > 0 else None


def _expected(load: dict[str, Any], scheduled: Floats) -> dict[str, float | None]:
    """What the configured process has, and how far off a delivered train of so many gaps may be.

    Estimates of n gaps are off by 1/√n (one standard deviation) for a Poisson process, more where arrivals come in
    bursts: 0.1 at 1,000 gaps is 3.2 of them, and fewer gaps have a limit as much wider.
    """
    wider = math.sqrt(max(1.0, FULL_SAMPLE / max(len(scheduled), 1)))
    match load.get("arrival") or "poisson":
        case "constant":
            return {"cv_expected": 0.0, "cv_limit": CV_SHARE, "lag1_expected": None, "lag1_limit": None}
        case "trace":
            of_trace = cv(scheduled)
            limit = None if of_trace is None else CV_SHARE * max(of_trace, 1.0)
            return {
                "cv_expected": of_trace,
                "cv_limit": limit,
                "lag1_expected": lag1(scheduled),
                "lag1_limit": CV_SHARE,
            }
        case process:
            shape = float(load.get("burstiness") or 1.0) if process == "gamma" else 1.0
            # Var(CV) / CV² ≈ (1 + 1/shape) / 2n of gamma distributed gaps: 1/n of exponential ones
            limit = CV_SHARE * wider * math.sqrt((1 + 1 / shape) / 2 / shape)
            return {"cv_expected": 1 / math.sqrt(shape), "cv_limit": limit, "lag1_expected": 0.0,
                    "lag1_limit": CV_SHARE * wider}  # fmt: skip
