"""`nbridge capacity` end to end: the golden server, Locust, real signals and kills."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pytest
from golden import golden

from bench.run.store import open_run
from reports.measured.searches import searches
from reports.report import read_report

Nbridge = Callable[..., subprocess.CompletedProcess[str]]
PLAN = """
name = "short"
[[loads]]
concurrency = 1
requests = 2
prompt_tokens = 4
output_tokens = 1
"""
ASKED = ["--slo", "ttft_p50<0.3", "--arrival", "constant", "--precision", "0.2", "--max-time", "60s"]
# What a busy machine does to the client's clock: then the point says nothing, whatever the server did.
OF_TIME = ("late", "stood still", "TTFT", "E2E", "held several chunks", "of the gaps between requests", "Not known")


def plan(folder: Path) -> Path:
    path = folder / "plan.toml"
    path.write_text(PLAN)
    return path


def points(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in document["cells"] if cell["point"]["level"] is not None]


def until(process: subprocess.Popen[str], words: str, times: int) -> None:
    """Returns when the process has said a line with these words so often, on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        times -= words in line
        if not times:
            return
    pytest.fail(f"it ended before it said {words!r}")


@pytest.mark.slow
def test_the_limit_of_a_golden_server_is_found_by_a_search_that_was_interrupted(
    tmp_path: Path, nbridge: Nbridge
) -> None:
    with golden(tmp_path, "--limit-rps", "8", "ttft_s=0.02") as server:
        argv = [sys.executable, "-m", "nbridge", "capacity", str(plan(tmp_path)), "--target", server.url, *ASKED]
        first = forks.Popen(
            [*argv, "--out", str(tmp_path / "runs")], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        until(first, "requests/s: ", 1)  # of a point; the second is under way
        os.kill(first.pid, signal.SIGINT)
        assert first.wait(60) == 130
        (folder,) = (tmp_path / "runs").iterdir()
        before = open_run(folder).document
        assert before["capacity"][0]["ended"] is None
        answer = nbridge("capacity", "--resume", folder, "--json")
    document = json.loads(answer.stdout)
    kept = [cell for cell in before["cells"] if cell["outcome"] != "pending"]
    assert document["cells"][: len(kept)] == kept
    (found,) = document["capacity"]
    assert answer.returncode == document["exit_code"] == (0 if found["ended"] in ("found", "time", "client") else 1)
    for cell in points(document):
        verdict, why = cell["point"]["verdict"], cell["point"]["why"]
        if verdict == "invalid":
            assert any(words in why for words in OF_TIME), why
        elif cell["point"]["level"] < 7.5:
            assert verdict == "pass", why
        elif cell["point"]["level"] > 9.0:
            assert verdict == "fail", why
    if found["ended"] == "found":
        assert found["low"] <= 8.6 and found["high"] >= 7.6, found["said"]
        assert found["limiting"][:1] in (["ttft_p50"], [])
    report = read_report(folder)
    assert not [cell.differences for cell in report.points if cell.differences]
    assert searches(report)[0].answer["value"] == found["value"]
    assert (folder / "figures" / "capacity.svg").exists()
    assert sum(cell.records or 0 for cell in report.points) > 50


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_ends_the_search_and_nothing_is_lost(tmp_path: Path, nbridge: Nbridge) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    argv = [sys.executable, "-m", "nbridge", "capacity", str(plan(tmp_path)), "--target", f"http://127.0.0.1:{port}"]
    with golden(tmp_path, "ttft_s=0.02", "--port", port) as server:
        search = forks.Popen(
            [*argv, *ASKED, "--start", "4", "--out", str(tmp_path / "runs"), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(search, "requests/s: ", 1)
        server.kill()
        stdout, stderr = search.communicate(timeout=120)
    document = json.loads(stdout)
    (found,) = document["capacity"]
    assert (search.returncode, found["ended"]) == (1, "server"), stderr
    assert "no answer" in found["said"] and "the server cut the search short" in found["said"]
    verdicts = [cell["point"].get("verdict") for cell in points(document)]  # of the last one none: no server, no point
    assert verdicts[-2:] == ["died", None] and set(verdicts[:-2]) <= {"pass", "invalid"}
    assert found["high"] is None  # that it died says nothing of the level
    folder = Path(document["path"])
    assert (folder / "report.html").exists()
    with golden(tmp_path, "ttft_s=0.5", "--port", port):  # up again, and so slow that nothing passes any more
        again = nbridge("capacity", "--resume", folder, "--json", "--no-report")
    resumed = json.loads(again.stdout)
    assert len(resumed["cells"]) > len(document["cells"])
    assert resumed["cells"][: len(document["cells"])] == document["cells"]
    assert resumed["capacity"][0]["ended"] != "server"


def test_an_slo_that_nothing_meets_is_said_after_the_first_point(tmp_path: Path, nbridge: Nbridge) -> None:
    with golden(tmp_path, "ttft_s=0.2") as server:
        answer = nbridge(
            "capacity", plan(tmp_path), "--target", server.url, "--slo", "ttft_p95<100ms", "--out", tmp_path / "runs"
        )
    assert answer.returncode == 1
    assert "target: no load meets the SLO; Even one request at a time ttft_p50 is 2" in answer.stdout
    assert "no load meets the SLO: target-r1" in answer.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slo", "ttft_p95<500"], "500ms? (500s if you mean it)"),
        (["--slo", "ttft_p95>0.5"], "a limit is set with < or <="),
        (["--slo", "tpot_p95<0.05"], "no limit on TTFT or E2E"),
        (["--slo", "ttft_p95<0.5", "--precision", "0"], "precision"),
        (["--slo", "ttft_p95<0.5", "--max-time", "soon"], "'soon' is no duration"),
        (["--slo", "ttft_p95<0.5", "--over", "users"], "users"),
        ([], "needs an SLO"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path, nbridge: Nbridge, words: list[str], said: str
) -> None:
    answer = nbridge("capacity", plan(tmp_path), "--target", "http://127.0.0.1:9", *words, "--out", tmp_path / "runs")
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "runs").exists()
