"""The Measure page's parts: plans as they are written, progress from a run folder, and one measurement from start to
end: refused beside another, cancelled, gone on with."""

import errno
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from made_shelf import add_run
from waiting import wait_for

from bench.golden.running import golden
from dashboards import library
from dashboards.screens.measure import jobs, plans, progress

QUICK = """name = "quick"
[defaults.load]
prompt_tokens = 8
output_tokens = 4
[[loads]]
concurrency = 1
requests = 6
[[loads]]
concurrency = 2
requests = 400
"""


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (QUICK.replace("requests = 6", "requests = 'x'"), 7, "requests"),
        (QUICK.replace("output_tokens = 4", "output_tokens = 4\ncolour = 1"), 5, "colour"),
        (QUICK.replace("[[loads]]", "[[loads]", 1), 5, "not TOML"),
        (QUICK.replace("concurrency = 2", "concurrency = -2"), 9, "concurrency"),
    ],
)
def test_a_plan_with_an_error_says_where(tmp_path: Path, text: str, line: int, said: str) -> None:
    found = plans.check(text, base=tmp_path, remote=True)
    assert found.plan is None
    assert found.problem is not None and said in found.problem
    assert found.line == line


def test_a_plan_says_beforehand_how_much_it_does(tmp_path: Path) -> None:
    plan = plans.check(QUICK, base=tmp_path, remote=True).plan
    assert plan is not None
    said = plans.size(plan, remote=True)
    assert said == "One server that runs × 2 loads × 1 repeat: 2 cells, 406 requests of about 4,872 tokens."
    assert plans.short(plan) == "No p95 of c1 (6): it takes 200 answers."
    for name in plans.BUNDLED:
        bundled = plans.check(plans.bundled(name), base=tmp_path, remote=False)
        assert bundled.problem is None, name
    assert "is known after its first cell" in plans.took(plan, (), {})


def test_a_plan_goes_by_the_last_run_of_its_name(tmp_path: Path) -> None:
    add_run(tmp_path, "a", created="2026-01-01T00:00:00+00:00", plan={"name": "quick"})
    runs = library.shelf(tmp_path, {}).runs
    created = runs[0].created
    assert created is not None
    plan = plans.check(QUICK, base=tmp_path, remote=True).plan
    assert plan is not None
    said = plans.took(plan, runs, {"a": created + timedelta(minutes=6)})
    assert said == "The last run called quick took 6.0 min (9 cells)."


def test_who_may_start() -> None:
    assert jobs.may_start({}, None, False)
    assert jobs.may_start({}, "127.0.0.1", False) and jobs.may_start({}, "::1", False)
    assert not jobs.may_start({}, "192.0.2.7", False) and not jobs.may_start({}, "?", False)
    assert not jobs.may_start({"X-Forwarded-For": "192.0.2.7"}, "127.0.0.1", False)
    assert jobs.may_start({"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7", True)


def record(index: int, **changes: Any) -> str:
    at = 100 + 0.5 * index
    found = {"outcome": "ok", "sent": at, "first_token": at + 0.2, "ended": at + 0.4, "output_tokens": 10}
    return json.dumps({**found, **changes}) + "\n"


def test_progress_is_read_from_the_run_folder(tmp_path: Path) -> None:
    cells = [{"id": "a-c1-r1", "outcome": "ok", "load": {"requests": 6}},
             {"id": "a-c2-r1", "outcome": "invalid", "load": {"requests": 6}},
             {"id": "a-c4-r1", "outcome": "pending", "load": {"requests": 40}},
             {"id": "a-c8-r1", "outcome": "pending", "load": {"requests": 40}}]  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps({"cells": cells}))
    assert progress.progress(tmp_path / "none") is None
    waiting = progress.progress(tmp_path)
    assert waiting is not None and waiting.cell is None
    assert "Cell 3 of 4: a server is being started" in progress.words(waiting, None)
    folder = tmp_path / "cells" / "a-c4-r1"
    folder.mkdir(parents=True)
    (folder / "load.json").write_text("{}")
    lines = [record(index) for index in range(19)] + [record(19, outcome="timeout", ended=None)]
    (folder / "requests.jsonl").write_text("".join(lines) + '{"torn')
    found = progress.progress(tmp_path)
    assert found is not None
    assert (found.done, found.total, found.sent, found.share) == (2, 4, 20, 2.5 / 4)
    assert found.figures == (
        ("Answers", "2.00", "a second"),
        ("Output", "20.0", "tokens/s"),
        ("TTFT", "200 ms", "median"),
        ("Not answered", "1", "of the last 20 requests"),
    )
    assert found.failed == ("a-c2-r1: invalid",)
    assert found.remaining_s(60.0, 4) == pytest.approx(36.0)  # 2.5 cells took 60 s, 1.5 are left
    assert found.remaining_s(60.0, 2) == pytest.approx(180.0)  # resumed: half a cell took 60 s
    assert progress.words(found, 36.0).endswith("20 of 40 requests answered; about 36 s left, by the pace so far.")


def test_what_cannot_be_read_is_no_job(tmp_path: Path) -> None:
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"id": "b", "argv": []}')
    dead = jobs.Job("c", 2**22 + 1, "1", "2026-01-01T00:00:00+00:00", "gone", (), str(folder))
    (folder / "c.json").write_text(json.dumps(dead.__dict__))
    assert [job.id for job in jobs.jobs(tmp_path)] == ["c"]
    assert jobs.at_work(tmp_path) is None
    assert jobs.run_of(dead) == (None, None)


def endless(folder: Path) -> str:
    """A command that goes on until it is ended, whatever it is asked for."""
    script = folder / "endless"
    script.write_text("#!/bin/sh\nexec sleep 3600\n", encoding="utf-8")
    script.chmod(0o700)
    return str(script)


def test_two_who_start_at_once_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", endless(tmp_path))
    together = threading.Barrier(4)

    def start(name: int) -> jobs.Job | str:
        together.wait()
        try:
            return jobs.start(tmp_path, f"visitor {name}")
        except jobs.CannotStart as error:
            return str(error)

    with ThreadPoolExecutor(4) as visitors:
        found = list(visitors.map(start, range(4)))
    (job,) = [one for one in found if isinstance(one, jobs.Job)]
    try:
        assert all("Another measurement is at work (visitor" in one for one in found if isinstance(one, str))
        assert jobs.at_work(tmp_path) == job
    finally:
        jobs.cancel(job)
        wait_for(lambda: not jobs.is_alive(job))


def test_on_a_full_disk_nothing_is_left_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    write = Path.write_text

    def full(path: Path, text: str, **how: Any) -> int:
        if path.suffix == ".json":
            begun.extend(jobs._started)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text, **how)

    monkeypatch.setattr(sys, "executable", endless(tmp_path))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(jobs.CannotStart, match=r"cannot be started \(No space left on device"):
        jobs.start(tmp_path, "quick", plan=QUICK, target="http://127.0.0.1:9")
    assert jobs._started[begun[-1]].poll() is not None
    assert jobs.jobs(tmp_path) == []


def in_the_second_cell(run_dir: Path) -> bool:
    found = progress.progress(run_dir)
    return found is not None and found.cell == "target-c2-r1" and found.sent > 5


@pytest.mark.slow
def test_a_measurement_is_started_once_cancelled_and_gone_on_with(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with golden(tmp_path / "sent.jsonl", "ttft_s=0.03", "gap_s=0.003") as server:
        job = jobs.start(runs, "quick", plan=QUICK, target=server.url)
        with pytest.raises(jobs.CannotStart, match="Another measurement is at work"):
            jobs.start(runs, "quick", plan=QUICK, target=server.url)
        run_dir = wait_for(lambda: jobs.run_of(job)[0])
        wait_for(lambda: in_the_second_cell(run_dir))
        jobs.cancel(job)
        wait_for(lambda: not jobs.is_alive(job))
        assert jobs.exit_code(job) == 130, jobs.said(job)
        assert jobs.at_work(runs) is None
        left = progress.progress(run_dir)
        assert left is not None and left.done < left.total
        again = jobs.start(runs, "quick, resumed", resume=run_dir)
        wait_for(lambda: not jobs.is_alive(again))
    assert jobs.exit_code(again) in (0, 1), jobs.said(again)  # a busy machine makes cells invalid
    assert jobs.run_of(again) == (run_dir, left.total - left.done)
    done = progress.progress(run_dir)
    assert done is not None and done.done == done.total
    assert (run_dir / "report.html").exists()
