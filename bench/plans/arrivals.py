"""When the requests of an open-loop load are due: seeded offsets from the phase's zero, known before the first is sent.

Every worker has its own part of the load. Poisson: each draws from an independent stream at rate / workers, and the
superposition of independent Poisson streams is Poisson at the full rate. Constant, and a trace: worker w of W takes the
arrivals w, w + W, w + 2 W … of one train.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from typing import Literal


def schedule(
    arrival: Literal["poisson", "constant"],
    rate_rps: float,
    *,
    seconds: float | None,
    requests: int | None,
    seed: int,
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
    due_s = (
        _poisson(rate_rps / workers, seed, worker, workers)
        if arrival == "poisson"
        else _constant(rate_rps, worker, workers)
    )
    if seconds is not None:
        due_s = takewhile(lambda offset_s: offset_s < seconds, due_s)
    if requests is not None:
        due_s = (offset_s for offset_s, _ in zip(due_s, range(worker, requests, workers), strict=False))
    return tuple(due_s)


def traced(due_s: Sequence[float], *, worker: int = 0, workers: int = 1) -> tuple[float, ...]:
    """This worker's share of a trace's arrivals: the ones of the requests that are its own."""
    return tuple(due_s[worker::workers])


def _poisson(rate_rps: float, seed: int, worker: int, workers: int) -> Iterator[float]:
    # Seeding by text hashes it, so neighbouring seeds and workers have unrelated streams.
    rng = random.Random(f"arrivals/{seed}/{worker}/{workers}")  # noqa: S311 (reproducible, not secret)
    offset_s = 0.0
    while True:
        offset_s += rng.expovariate(rate_rps)
        yield offset_s


def _constant(rate_rps: float, worker: int, workers: int) -> Iterator[float]:
    return (index / rate_rps for index in count(worker, workers))
