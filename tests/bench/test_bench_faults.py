"""What a bad server does to a cell: an outcome with a reason, every finished record kept. Against the golden server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import psutil
import pytest
from golden import Golden, golden
from waiting import wait_for

from bench.cli import bench
from bench.errors import PlanError
from bench.run.store import open_run

pytestmark = pytest.mark.slow

Nbridge = Callable[..., subprocess.CompletedProcess[str]]

PLAN = """
[defaults.engine]
model = "any"
[[loads]]
name = "c2"
concurrency = 2
requests = 6
output_tokens = 8
prompt_tokens = 4
timeout_s = 1
warmup_requests = 0
"""


@pytest.fixture
def measured(
    tmp_path: Path, nbridge: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]], int]]:
    """Bench a golden server that behaves as its model name says: (cell, rows, exit code)."""
    (tmp_path / "plan.toml").write_text(PLAN)

    def measure(model: str, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
        with golden(tmp_path, *words, model=model) as server:
            answer = nbridge(
                "bench", tmp_path / "plan.toml", "--target", server.url, "--out", tmp_path / "runs", "--json"
            )
        assert "Traceback" not in answer.stderr
        run = open_run(Path(json.loads(answer.stdout)["path"]))
        assert (run.path / "report.html").exists()
        (cell,) = run.cells
        return cell, run.requests(cell["id"]).to_pylist(), answer.returncode

    return measure


def test_a_good_server_without_vllm_counters_is_measured_and_not_reconciled(measured: Any) -> None:
    cell, rows, code = measured("golden?ttft_s=0.02&gap_s=0.005&per_event=4", "--no-metrics")
    # Invalid only for what a busy machine does to six short requests.
    reasons = (cell["validity"] or {}).get("reasons", [])
    assert code == (0 if cell["outcome"] == "ok" else 1)
    assert all("in flight" in one or "late" in one or "stood still" in one for one in reasons), reasons
    assert cell["metrics"]["output_tokens"] == 48
    assert cell["reconciliation"]["exact"] is None
    assert "not compared" in cell["reconciliation"]["notes"][0]
    assert [row["chunk_tokens"] for row in rows] == [[4, 4]] * 6


@pytest.mark.parametrize(
    ("behaviour", "outcome", "words", "kept"),
    [
        ("then=hang", "timeout", "stopped answering", {"timeout"}),
        ("status=500", "failed", "status 500 as asked", {"http_error"}),
        ("status=429", "failed", "status 429 as asked", {"rate_limited"}),
        ("then=plain", "failed", "None of 6 requests was answered", {"protocol_error"}),
        ("then=garbage&after=3", "failed", "None of 6 requests was answered", {"protocol_error"}),
        ("then=error_event&after=3", "failed", "the engine fell over", None),
        ("then=cut&after=3", "failed", "None of 6 requests was answered", None),
    ],
)
def test_a_bad_server_becomes_an_outcome_with_a_reason(
    measured: Any, behaviour: str, outcome: str, words: str, kept: set[str] | None
) -> None:
    cell, rows, code = measured(f"golden?{behaviour}")
    assert cell["outcome"] == outcome
    assert words in cell["reason"]
    assert rows
    assert "ok" not in {row["outcome"] for row in rows}
    if kept is not None:
        assert {row["outcome"] for row in rows} <= kept | {"aborted"}
    assert code == 4  # nothing was measured


def test_a_server_that_dies_is_said_to_be_unreachable(measured: Any) -> None:
    cell, rows, code = measured("golden?then=die")
    assert (cell["outcome"], code) == ("failed", 4)
    assert {row["outcome"] for row in rows} <= {"connection_error", "protocol_error", "aborted"}


LONG_PLAN = PLAN.replace("requests = 6", "requests = 100")


@contextlib.contextmanager
def under_way(
    tmp_path: Path, server: Golden, out: Path, text: str = LONG_PLAN, records: int = 10
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A bench in the background that has recorded some requests of its first cell, and its run folder."""
    (tmp_path / "plan.toml").write_text(text)
    argv = [sys.executable, "-m", "nbridge", "bench", str(tmp_path / "plan.toml"), "--target", server.url]
    with forks.Popen([*argv, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True) as bench:
        try:
            wait_for(
                lambda: any(path.read_text().count("\n") > records for path in out.glob("*/cells/*/requests.jsonl"))
            )
            (run_dir,) = out.iterdir()
            yield bench, run_dir
        finally:
            bench.kill()


SLOW = "golden?ttft_s=0.02&gap_s=0.01"  # 0.1 s a request: 100 of them by two users take some five seconds


def test_a_client_that_was_stopped_gives_no_valid_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBRIDGE_TEST_FORKS", raising=False)  # what is looked for is a descendant of the bench
    with golden(tmp_path, model=SLOW) as server, under_way(tmp_path, server, tmp_path / "runs") as (running, run_dir):
        (locust,) = [
            process
            for process in psutil.Process(running.pid).children(recursive=True)
            if "locust" in process.cmdline() and "serve" not in " ".join(process.cmdline())
        ]
        locust.suspend()
        until_s = time.monotonic() + 2
        wait_for(lambda: time.monotonic() > until_s)
        locust.resume()
        _, said = running.communicate(timeout=300)
    (cell,) = open_run(run_dir).cells
    assert cell["outcome"] == "invalid", said
    assert "The client stood still for" in cell["reason"]
    assert cell["metrics"]["client"]["longest_pause_s"] > 1.5
    assert running.returncode == 1, said
    assert "invalid: target-c2-r1" in said


def test_a_closed_terminal_ends_a_bench_as_ctrl_c_does(tmp_path: Path) -> None:
    with golden(tmp_path, model=SLOW) as server, under_way(tmp_path, server, tmp_path / "runs") as (running, run_dir):
        os.kill(running.pid, signal.SIGHUP)
        _, said = running.communicate(timeout=300)
    assert running.returncode == 130, said
    assert f"bench --resume {run_dir}" in said
    assert [cell["outcome"] for cell in open_run(run_dir).cells] == ["pending"]
    assert (run_dir / "report.html").exists()


def test_a_cell_that_failed_is_measured_again_when_asked(tmp_path: Path, nbridge: Nbridge) -> None:
    with golden(tmp_path, model=SLOW) as server, under_way(tmp_path, server, tmp_path / "runs") as (running, run_dir):
        server.kill()
        _, said = running.communicate(timeout=300)
    assert running.returncode in (1, 4), said  # some requests had been answered before, which may make it invalid
    assert f"bench --resume {run_dir} --retry-failed" in said
    gone = nbridge("bench", "--resume", run_dir, "--retry-failed")
    assert gone.returncode == 4
    assert "no answer" in gone.stderr
    with golden(tmp_path, model="golden?seed=1") as server:
        move(run_dir, server.url)
        other = nbridge("bench", "--resume", run_dir, "--retry-failed")
        assert other.returncode == 2
        assert "serves golden?seed=1 now" in " ".join(other.stderr.split())
    assert open_run(run_dir).cells[0]["outcome"] == "failed"  # nothing was written by either
    with golden(tmp_path, model=SLOW) as server:
        move(run_dir, server.url)
        answer = nbridge("bench", "--resume", run_dir, "--retry-failed", "--json")
    document = json.loads(answer.stdout)
    assert answer.returncode == document["exit_code"]
    assert document["cells"][0]["metrics"]["requests"]["ok"] == 100, (document["cells"][0], answer.stderr)
    assert (run_dir / "cells" / "target-c2-r1.interrupted-1").is_dir()


def move(run_dir: Path, url: str) -> None:
    """A server that was started again has another port here; a user's has the same."""
    document = json.loads((run_dir / "run.json").read_text())
    document["target"]["base_url"] = url
    (run_dir / "run.json").write_text(json.dumps(document))


@pytest.mark.parametrize("address", ["http://user:pw@127.0.0.1:9", "user:pw@127.0.0.1:9", "http://127.0.0.1:9/?key=pw"])
def test_a_secret_in_the_address_is_refused_before_anything_is_written(tmp_path: Path, address: str) -> None:
    with pytest.raises(PlanError, match="--api-key-env") as refused:
        bench(target=address, out=tmp_path / "runs")
    assert "pw" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of the given size; skips where that is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str, *options: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(folder)]
        if (done := subprocess.run(words, capture_output=True, text=True, check=False)).returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    while subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
        pass  # it may have been mounted more than once


def test_a_disk_that_is_full_from_the_first_cell_ends_the_bench_at_once(
    tmp_path: Path, nbridge: Nbridge, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("300k")
    (tmp_path / "plan.toml").write_text(PLAN)
    with golden(tmp_path) as server:
        answer = nbridge("bench", tmp_path / "plan.toml", "--target", server.url, "--out", disk)
        (run_dir,) = disk.iterdir()
        again = nbridge("bench", "--resume", run_dir)
    own = nbridge("bench", "--out", disk)  # an engine whose log has no room is not started
    for found in (answer, again, own):
        assert found.returncode == 4
        assert "the disk is full" in found.stderr


def test_a_disk_that_fills_up_is_said_in_one_sentence_and_the_run_goes_on_later(
    tmp_path: Path, nbridge: Nbridge, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk("1600k")
    text = PLAN.replace("requests = 6", "requests = 1000").replace("output_tokens = 8", "output_tokens = 64")
    text = text.replace("timeout_s = 1", "timeout_s = 30")  # a busy machine is no fault here
    (tmp_path / "plan.toml").write_text(text)
    with golden(tmp_path) as server:
        answer = nbridge("bench", tmp_path / "plan.toml", "--target", server.url, "--out", disk)
        (run_dir,) = disk.iterdir()
        assert answer.returncode == 4, answer.stderr
        assert "disk is full" in answer.stderr or "No space left on device" in answer.stderr
        assert "E2E" not in answer.stderr  # nothing of Locust's tables
        assert open_run(run_dir).cells[0]["outcome"] == "pending"
        small_disk("20m", "remount")
        resumed = nbridge("bench", "--resume", run_dir, "--json")
    cell = json.loads(resumed.stdout)["cells"][0]
    assert cell["metrics"]["requests"]["ok"] == 1000
    kept = run_dir / "cells" / f"{cell['id']}.interrupted-1" / "requests.jsonl"
    assert kept.read_text().count("\n") > 100
