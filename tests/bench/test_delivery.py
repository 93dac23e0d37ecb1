"""Was an open load delivered as configured? Gaps by hand, processes that pass, and a repeated one that must not."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plans.arrivals import Arrival, schedule
from bench.run import records
from bench.run.delivery import cv, gaps_of, lag1
from bench.run.stats.summary import summarise
from bench.run.validity import validity

POISSON: dict[str, Any] = {"kind": "open", "arrival": "poisson", "rate_rps": 50.0, "seconds": None, "requests": 4000}
SEEDS = st.integers(0, 2**32)


def sent(due_s: Any, late_s: Any = 0.0, lost: int = 0) -> pa.Table:
    """A table of requests that were due and left `late_s` later; the last `lost` were dropped."""
    due = np.asarray(due_s, dtype=float)
    left = np.broadcast_to(due + late_s, due.shape)
    rows = []
    for i, (scheduled, at) in enumerate(zip(due.tolist(), left.tolist(), strict=True)):
        gone = i >= len(due) - lost
        answered = {"sent_s": at, "headers_s": at, "first_token_s": at + 0.01, "last_token_s": at + 0.02}
        rows.append(
            dict.fromkeys(records.SCHEMA.names)
            | {"request_id": str(i), "scheduled_s": scheduled, "chunk_s": [], "notes": [], "reads": 1}
            | {"coalesced_reads": 0, "merged_reads": 0, "outcome": "dropped" if gone else "ok"}
            | ({} if gone else {**answered, "ended_s": at + 0.02})
        )
    return pa.Table.from_pylist(rows, schema=records.SCHEMA)


def delivery(table: pa.Table, load: dict[str, Any]) -> dict[str, Any] | None:
    return summarise(table, load)["delivery"]


def failed(table: pa.Table, load: dict[str, Any]) -> list[str]:
    """The names of the checks about the arrival process that a cell of these requests does not pass."""
    load = {"max_in_flight": 512, **load}
    verdict = validity(table, load, summarise(table, load), {"exact": None})
    return [check["name"] for check in verdict["checks"] if check["ok"] is False and "gaps" in check["name"]]


def repeated(seed: int, workers: int, gaps: int) -> np.ndarray:
    """GuideLLM 0.8.1's arrivals (guidellm#1048 and its like): workers draw the same gaps, so that each of them comes
    once a worker, a few milliseconds apart: 10 gaps of 0.34 s, then 10 requests within 0.1 s."""
    random = np.random.default_rng(seed)
    due = np.cumsum(random.exponential(workers / 50.0, size=gaps))
    return np.sort(np.concatenate([due + 0.0005 * worker for worker in range(workers)]))


def test_gaps_by_hand() -> None:
    gaps = gaps_of(np.array([0.0, 1.0, 4.0]), POISSON)
    assert gaps.tolist() == [1.0, 3.0]
    assert cv(gaps) is None and lag1(gaps) is None  # two gaps say nothing
    even = np.tile([1.0, 3.0], 50)
    assert cv(even) == pytest.approx(0.5)  # mean 2, deviation 1
    assert lag1(even) == pytest.approx(-0.99)  # 99 products of −1 over 100 squares of 1
    assert lag1(np.ones(100)) is None and cv(np.ones(100)) == 0


def test_gaps_of_a_ramp_are_in_units_of_the_gap_expected_then() -> None:
    load = {"kind": "open", "arrival": "ramp", "rates_rps": [2.0, 2.0, 6.0], "rate_rps": 3.0, "seconds": 10.0}
    assert gaps_of(np.array([0.0, 2.5, 5.0, 7.5, 10.0]), load).tolist() == [5, 5, 7.5, 12.5]


def test_delivered_is_told_beside_offered() -> None:
    due = schedule("constant", 50.0, seconds=4.0, requests=None, seed=0)
    found = delivery(sent(due, 0.002, lost=20), {**POISSON, "arrival": "constant", "seconds": 4.0, "requests": None})
    assert found is not None
    assert (found["offered"], found["delivered"], found["delivered_share"]) == (200, 180, 0.9)
    assert (found["offered_rps"], found["delivered_rps"]) == (50.0, 45.0)
    assert found["cv"] == pytest.approx(0, abs=1e-9) and found["cv_expected"] == 0
    assert found["lateness_s"]["p50"] == pytest.approx(0.002)
    assert delivery(sent(due), {"kind": "closed", "concurrency": 1}) is None


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, workers=st.sampled_from([1, 4]))
def test_what_we_schedule_passes(seed: int, workers: int) -> None:
    parts = [schedule("poisson", 50.0, seconds=None, requests=4000, seed=seed, worker=w, workers=workers)
             for w in range(workers)]  # fmt: skip
    assert failed(sent(sorted(t for part in parts for t in part)), POISSON) == []


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, workers=st.integers(2, 10), arrivals=st.integers(100, 3000))
def test_workers_that_repeat_each_others_gaps_never_pass(seed: int, workers: int, arrivals: int) -> None:
    due = repeated(seed, workers, -(-arrivals // workers))
    assert failed(sent(due), POISSON), delivery(sent(due), POISSON)


@pytest.mark.parametrize(
    ("arrival", "more"),
    [
        ("gamma", {"burstiness": 0.25}),
        ("gamma", {"burstiness": 9.0}),
        ("ramp", {"rates_rps": [10.0, 90.0], "seconds": 80.0, "requests": None}),
        ("step", {"rates_rps": [5.0, 0.0, 95.0], "seconds": 120.0, "requests": None}),
        ("constant", {}),
    ],
)
def test_every_process_is_told_from_poisson(arrival: Arrival, more: dict[str, Any]) -> None:
    load = {**POISSON, "arrival": arrival, **more}
    how = {key: more[key] for key in ("burstiness", "rates_rps") if key in more}
    due = schedule(arrival, 50.0, seconds=load["seconds"], requests=load["requests"], seed=6, **how)
    assert failed(sent(due), load) == []
    assert failed(sent(due), POISSON) != []
    poisson = schedule("poisson", 50.0, seconds=load["seconds"] or 80.0, requests=None, seed=7)
    assert failed(sent(poisson), load) != []


def test_a_trace_is_held_against_its_own_times() -> None:
    due = np.cumsum(np.tile([0.0, 0.0, 0.06], 500))
    load = {**POISSON, "arrival": "trace", "seconds": None}
    assert failed(sent(due, 0.0002), load) == []
    # every request waited until the one before it was answered: the bursts of three are gone
    rows = sent(due).to_pylist()
    for i, row in enumerate(rows):
        row["sent_s"] = row["scheduled_s"] + 0.02 * (i % 3)
    assert "CV of the gaps, off by" in failed(pa.Table.from_pylist(rows, schema=records.SCHEMA), load)


def test_a_client_that_sends_late_spoils_the_process_and_it_says_so() -> None:
    """A sender that wakes every 50 ms: the rate is right, and arrivals come in bunches."""
    due = np.array(schedule("poisson", 50.0, seconds=None, requests=2000, seed=1))
    table = sent(due, np.ceil(due / 0.05) * 0.05 - due)
    assert "CV of the gaps, off by" in failed(table, POISSON)
    found = delivery(table, POISSON)
    assert found is not None and found["delivered_share"] == 1.0


def test_few_arrivals_have_wider_limits_and_very_few_none() -> None:
    due = schedule("poisson", 50.0, seconds=None, requests=100, seed=4)
    found = delivery(sent(due), POISSON)
    assert found is not None and found["cv_limit"] == pytest.approx(0.1 * (1000 / 99) ** 0.5)
    few = delivery(sent(due[:30]), POISSON)
    assert few is not None and few["cv"] is None
    checks = validity(sent(due[:30]), {**POISSON, "max_in_flight": 9}, summarise(sent(due[:30]), POISSON),
                      {"exact": None})["checks"]  # fmt: skip
    assert [check["ok"] for check in checks if "gaps" in check["name"]] == [None, None]
