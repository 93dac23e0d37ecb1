"""How a Locust run ends that does not end by itself: failures, interrupts, a dead server, a full disk."""

import signal
from collections import Counter
from pathlib import Path

import pytest
from golden import Golden, golden
from locust_runs import start, wait_for_records

pytestmark = pytest.mark.slow


@pytest.fixture
def server(server_with_key: Golden) -> Golden:
    return server_with_key


def test_failed_requests_do_not_fail_the_process(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=8, model="golden?then=cut&after=1").ended()
    assert run.process.returncode == 0
    assert Counter(r["error_kind"] for r in run.measured) == {"early_close": 8}
    assert run.phase["warmup_failed"] == 2
    assert run.phase["exhausted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_records_and_a_phase_file(tmp_path: Path, server: Golden, number: signal.Signals) -> None:
    run = start(tmp_path, server.url, requests=200, model="golden?gap_s=0.05")
    wait_for_records(run, 8)
    run.process.send_signal(number)
    run.ended()
    assert run.process.returncode == 130
    counts = Counter(r["outcome"] for r in run.measured)
    assert counts["ok"] >= 6
    assert 1 <= counts["aborted"] <= 4
    assert set(counts) == {"ok", "aborted"}
    assert (run.phase["exhausted"], run.phase["stopped"]) == (False, "interrupted")
    assert run.phase["metrics_after"] is not None


def test_a_server_that_dies_ends_the_run_early(tmp_path: Path) -> None:
    with golden(tmp_path) as doomed:
        run = start(tmp_path / "run", doomed.url, requests=200, concurrency=8, model="golden?gap_s=0.03")
        wait_for_records(run, 10)
        doomed.kill()
        run.ended()
    assert run.process.returncode == 0
    assert run.phase["stopped"].startswith("server unreachable: ")
    assert not run.phase["exhausted"]
    assert run.phase["metrics_after"] is None
    assert run.phase["client_cpu_s"] < 2
    outcomes = Counter(r["outcome"] for r in run.measured)
    assert outcomes["connection_error"] >= 20
    assert outcomes["ok"] >= 8
    assert len(run.measured) < 200
    assert "server unreachable" in run.words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_full_disk_ends_the_run_and_says_so(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=8, warm=0, records_path="/dev/full").ended()
    assert run.process.returncode == 4
    assert "No space left on device" in run.words
    assert run.phase["stopped"] == "the records file /dev/full cannot be written: No space left on device"


def test_a_disk_that_fills_up_keeps_the_earlier_records_whole(tmp_path: Path, server: Golden) -> None:
    # A limit on the size of files stops a write in its middle, as a full disk does.
    run = start(tmp_path, server.url, requests=100, file_limit_bytes=6000).ended()
    assert run.process.returncode == 4, run.words
    assert "cannot be written" in run.words
    text = (tmp_path / "requests.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert len(run.records) >= 3


def test_an_interrupt_of_several_processes_leaves_records_and_a_phase_file(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, processes=2, requests=400, model="golden?gap_s=0.05")
    wait_for_records(run, 8)
    run.process.send_signal(signal.SIGINT)
    run.ended()
    assert run.process.returncode == 130, run.words
    assert (run.phase["exhausted"], run.phase["stopped"], run.phase["workers"]) == (False, "interrupted", 2)
    assert {r["outcome"] for r in run.measured} == {"ok", "aborted"}
