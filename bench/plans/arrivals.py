"""When the requests of an open-loop load are due: seeded offsets from the phase's zero, known before the first is sent.

There is one train of arrivals, the same for any number of workers: worker w of W takes the arrivals w, w + W, w + 2 W …
of it. (Workers that each draw a train of their own by the same seed repeat each other's gaps, which is no arrival
process anybody asked for; bench.run.delivery tells such a train by its gaps.)

    poisson    gaps are exponential: arrivals owe nothing to each other
    gamma      gaps are gamma distributed, with `burstiness` for its shape: below 1 in bursts, 1 is poisson, above 1
               more even; the coefficient of variation of the gaps is 1 / √burstiness
    constant   equal gaps
    ramp, step poisson at a rate that changes (bench.run.rates)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Literal

import numpy as np

from bench.run.rates import Rates

Arrival = Literal["poisson", "gamma", "constant", "ramp", "step"]
_AT_ONCE = 4096


def schedule(
    arrival: Arrival,
    rate_rps: float,
    *,
    seconds: float | None,
    requests: int | None,
    seed: int,
    burstiness: float = 1.0,
    rates_rps: Sequence[float] = (),
    worker: int = 0,
    workers: int = 1,
) -> tuple[float, ...]:
    """Seconds from zero at which this worker's requests are due, ascending; the same arguments give the same times.

    The load ends after `seconds` (an arrival at that instant is outside) or `requests` arrivals over all workers,
    whichever comes first. Raises ValueError when nothing would end it, or for an impossible rate or worker.
    """
    if not rate_rps > 0 or rate_rps == float("inf"):
        raise ValueError(f"rate_rps = {rate_rps}: an open load needs a finite rate above 0.")
    if seconds is None and requests is None:
        raise ValueError("An open load needs `seconds` or `requests`: nothing else ends it.")
    if not 0 <= worker < workers:
        raise ValueError(f"worker = {worker}: expected 0 to {workers - 1}.")
    if arrival in ("ramp", "step"):
        if seconds is None:
            raise ValueError(f'arrival = "{arrival}" needs `seconds`: its rates are spread over them.')
        due_s = _changing(Rates.of(arrival, rates_rps, seconds), seed)
    elif arrival == "constant":
        due_s = (index / rate_rps for index in count())
    else:
        due_s = (passed / rate_rps for passed in _passed(seed, 1.0 if arrival == "poisson" else burstiness))
    return tuple(islice(_until(due_s, seconds, requests), worker, None, workers))


def traced(due_s: Sequence[float], *, worker: int = 0, workers: int = 1) -> tuple[float, ...]:
    """This worker's share of a trace's arrivals: the ones of the requests that are its own."""
    return tuple(due_s[worker::workers])


def _until(due_s: Iterator[float], seconds: float | None, requests: int | None) -> Iterator[float]:
    for offset_s in islice(due_s, requests):
        if seconds is not None and offset_s >= seconds:
            return
        yield offset_s


def _passed(seed: int, burstiness: float) -> Iterator[float]:
    """The arrivals' instants in units of the mean gap."""
    # Seeding by text hashes it, so neighbouring seeds have unrelated trains.
    rng = random.Random(f"arrivals/{seed}")  # noqa: S311 (reproducible, not secret)
    gap: Callable[[], float] = lambda: rng.gammavariate(burstiness, 1 / burstiness)  # noqa: E731
    if burstiness == 1.0:
        gap = lambda: rng.expovariate(1.0)  # noqa: E731
    passed = 0.0
    while True:
        passed += gap()
        yield passed


def _changing(rates: Rates, seed: int) -> Iterator[float]:
    passed = _passed(seed, 1.0)
    while True:
        yield from rates.instant_s(np.fromiter(islice(passed, _AT_ONCE), dtype=np.float64)).tolist()
