"""Whole Locust runs against the golden server: the load file in, the records and the phase file out."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from golden import Golden
from locust_runs import served_tokens, start

from bench.plans import arrivals
from bench.run import records
from bench.run.delivery import delivery
from bench.run.stats.reads import reads

pytestmark = pytest.mark.slow


@pytest.fixture
def server(server_with_key: Golden) -> Golden:
    return server_with_key


def test_a_closed_load_sends_its_requests_in_order_and_says_what_happened(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=24, concurrency=4).ended()
    assert run.process.returncode == 0, run.words
    phase, measured = run.phase, run.measured
    assert Counter((r["outcome"], r["warmup"]) for r in run.records) == {("ok", False): 24, ("ok", True): 2}
    assert {key: phase[key] for key in ("dropped", "warmup_failed", "exhausted", "stopped", "issued", "workers")} == {
        "dropped": 0, "warmup_failed": 0, "exhausted": True, "stopped": None, "issued": 24, "workers": 1,
    }  # fmt: skip
    assert sorted(run.prompts_sent(server)) == list(range(24))
    assert set(run.prompts_sent(server)[:4]) == {0, 1, 2, 3}
    # warm-up, scrape, zero, first request … last request, end, scrape
    assert max(r["ended"] for r in run.records if r["warmup"]) < phase["zero"] < min(r["scheduled"] for r in measured)
    assert phase["ended"] == max(r["ended"] for r in measured)
    assert served_tokens(phase) == sum(r["output_tokens"] for r in measured) == 24 * 6
    assert phase["client_cpu_s"] > 0
    assert phase["window_end"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes")
@pytest.mark.parametrize("processes", [1, 2])
def test_arrivals_are_the_kernels_from_the_socket_to_the_figures(
    tmp_path: Path, server: Golden, processes: int
) -> None:
    run = start(tmp_path, server.url, processes=processes, requests=24, concurrency=4).ended()
    assert run.process.returncode == 0, run.words
    events = {tuple(e["body"]["prompt"]): e["events"] for e in run.logged(server)}
    sent = sorted(sent_s for key, each in events.items() if key[1] >= 0 for sent_s, _ in each)
    came = sorted(chunk_s for record in run.measured for chunk_s in record["chunk_s"])
    assert len(came) == len(sent) == 24 * 6
    assert all(came_s >= sent_s for came_s, sent_s in zip(came, sent, strict=True))
    assert all(len(record["read_late_us"]) == record["reads"] for record in run.measured)
    records.write_parquet(sorted(tmp_path.glob("requests*.jsonl")), tmp_path / "requests.parquet", run.phase["zero"])
    found = reads(pq.read_table(tmp_path / "requests.parquet"))
    assert found is not None
    assert (found["kernel_share"], found["unknown_share"]) == (1.0, None)
    assert found["late_s"]["n"] == sum(record["reads"] for record in run.measured)
    assert run.phase["clock_step_s"] < 0.0001
    assert run.phase["clock_slew"] < 0.001


def test_a_closed_load_keeps_its_users_busy_on_one_connection_each(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=20, concurrency=4).ended()
    entries = [e for e in run.logged(server) if e["body"]["prompt"][1] >= 0]
    assert len({entry["connection"] for entry in entries}) == 4
    measured = run.measured
    assert max(sum(o["sent"] <= r["sent"] < o["ended"] for o in measured) for r in measured) == 4
    # Each later request is scheduled when another has ended, and hardly any of the four users' time lies between the
    # two: of the time until the last one is scheduled, most is spent waiting for answers.
    ends = sorted(r["ended"] for r in measured)
    assert all(end <= r["scheduled"] for end, r in zip(ends, measured[4:], strict=False))
    first_s, last_s = measured[0]["scheduled"], measured[-1]["scheduled"]
    busy_s = sum(min(r["ended"], last_s) - r["scheduled"] for r in measured)
    assert busy_s > 0.7 * 4 * (last_s - first_s)


def test_a_closed_load_of_seconds_issues_nothing_after_them(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, seconds=0.5, concurrency=2, prompts=2).ended()
    phase = run.phase
    assert phase["window_end"] == phase["zero"] + 0.5
    assert phase["exhausted"]
    assert all(r["scheduled"] < phase["window_end"] for r in run.measured)
    # two prompts were not enough: they came again, and the phase file says so
    assert phase["prompts_reused"] == len(run.measured) - 2 > 0
    assert {r["outcome"] for r in run.measured} == {"ok"}


@pytest.mark.parametrize(
    ("arrival", "more"),
    [
        ("poisson", {}),
        ("constant", {}),
        ("gamma", {"burstiness": 0.5}),
        ("ramp", {"rates_rps": [10.0, 90.0]}),
        ("step", {"rates_rps": [20.0, 80.0]}),
    ],
)
def test_open_loop_arrivals_are_the_precomputed_ones(
    tmp_path: Path, server: Golden, arrival: str, more: dict[str, Any]
) -> None:
    model = "golden?ttft_s=0.2"  # longer than the gaps: nobody waits for an answer
    run = start(
        tmp_path, server.url, kind="open", concurrency=None, rate_rps=50.0, seconds=1.0, arrival=arrival, model=model,
        **more,
    ).ended()  # fmt: skip
    phase = run.phase
    due = arrivals.schedule(arrival, 50.0, seconds=1.0, requests=None, seed=3, **more)  # type: ignore[arg-type]
    assert [r["scheduled"] for r in run.measured] == [phase["zero"] + offset_s for offset_s in due]
    assert phase["window_end"] == phase["zero"] + 1.0
    assert all(r["outcome"] == "ok" and r["sent"] >= r["scheduled"] for r in run.measured)
    assert max(sum(o["sent"] <= r["sent"] < o["ended"] for o in run.measured) for r in run.measured) > 4
    assert sorted(run.prompts_sent(server)) == list(range(len(due)))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_traces_requests_are_due_at_its_times(tmp_path: Path, server: Golden, processes: int) -> None:
    due_s = [0.0, 0.0, 0.31, 0.32, 0.33, 0.9, 0.9]
    run = start(
        tmp_path, server.url, processes=processes, kind="open", concurrency=None, rate_rps=7.8, arrival="trace",
        due_s=due_s, requests=len(due_s), model="golden?ttft_s=0.2",
    ).ended()  # fmt: skip
    assert run.process.returncode == 0, run.words
    assert [r["scheduled"] for r in run.measured] == [run.phase["zero"] + offset_s for offset_s in due_s]
    assert all(r["outcome"] == "ok" and r["sent"] >= r["scheduled"] for r in run.measured)
    assert sorted(run.prompts_sent(server)) == list(range(len(due_s)))
    received = {entry["body"]["prompt"][1]: entry["received_s"] for entry in run.logged(server)}
    for number, offset_s in enumerate(due_s):  # both read CLOCK_MONOTONIC: none came early
        assert received[number] >= run.phase["zero"] + offset_s


def test_what_the_cap_drops_is_recorded_at_its_time(tmp_path: Path, server: Golden) -> None:
    run = start(
        tmp_path, server.url, kind="open", concurrency=None, rate_rps=100.0, requests=40, arrival="constant",
        max_in_flight=3, model="golden?ttft_s=0.15",
    ).ended()  # fmt: skip
    phase, measured = run.phase, run.measured
    counts = Counter(r["outcome"] for r in measured)
    assert counts["dropped"] == phase["dropped"] > 0
    assert counts["dropped"] + counts["ok"] == 40 == phase["issued"]
    assert [r["scheduled"] for r in measured] == [phase["zero"] + n / 100.0 for n in range(40)]
    assert all(r["sent"] is None and r["ended"] is None for r in measured if r["outcome"] == "dropped")
    assert (
        max(sum(o["outcome"] == "ok" and o["sent"] <= r["scheduled"] < o["ended"] for o in measured) for r in measured)
        <= 3
    )


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_several_processes_share_one_load(tmp_path: Path, server: Golden, kind: str) -> None:
    how = {"concurrency": 5} if kind == "closed" else {"concurrency": None, "rate_rps": 60.0, "kind": "open"}
    run = start(tmp_path, server.url, processes=2, requests=30, **how).ended()
    assert run.process.returncode == 0, run.words
    phase = run.phase
    assert (phase["workers"], phase["issued"], phase["exhausted"]) == (2, 30, True)
    assert sorted(run.prompts_sent(server)) == list(range(30))
    assert {r["outcome"] for r in run.records} == {"ok"}
    assert phase["zero"] <= min(r["scheduled"] for r in run.measured)
    assert phase["ended"] == max(r["ended"] for r in run.measured)
    assert {path.name for path in tmp_path.glob("requests*")} == {
        "requests.jsonl",
        "requests.0.jsonl",
        "requests.1.jsonl",
    }
    assert served_tokens(phase) == 30 * 6
    if kind == "open":
        parts = [
            arrivals.schedule("poisson", 60.0, seconds=None, requests=30, seed=3, worker=w, workers=2) for w in (0, 1)
        ]
        due = sorted(phase["zero"] + offset_s for part in parts for offset_s in part)
        assert [r["scheduled"] for r in run.measured] == due


@pytest.mark.parametrize("workers", [1, 4])
def test_a_thousand_poisson_arrivals_are_poisson(tmp_path: Path, server: Golden, workers: int) -> None:
    """By the instants at which they fell due, which no busy machine moves; that the delivered gaps are looked at."""
    load = {"kind": "open", "rate_rps": 100.0, "requests": 1000, "concurrency": None}
    run = start(tmp_path, server.url, processes=workers, prompts=1000, model="golden", **load).ended()
    assert run.process.returncode == 0, run.words
    zero = run.phase["zero"]
    scheduled = np.array([r["scheduled"] - zero for r in run.measured])
    left = np.array([np.nan if r["sent"] is None else r["sent"] - zero - (r["connect_s"] or 0) for r in run.measured])
    found = delivery(scheduled, scheduled, {**load, "arrival": "poisson", "seconds": None})
    assert (found["offered"], found["cv_expected"], found["lag1_expected"]) == (1000, 1.0, 0.0)
    assert abs(found["cv"] - 1) < 0.1 and abs(found["lag1"]) < 0.1
    assert delivery(scheduled, left, {**load, "seconds": None})["delivered"] == 1000 - run.phase["dropped"]
