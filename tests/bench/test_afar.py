"""Workers on other machines: clocks by hand, messages, and a load over two of this machine's addresses."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forks
import pytest
from golden import golden

from bench.errors import PlanError
from bench.load.afar import Clock, Forwarded, at_home, clock_of, pack, unpack
from bench.order import machines
from bench.plans import arrivals
from bench.plans.plan import expand
from bench.run import store
from bench.run.validity import _machine_checks

ROOT = Path(__file__).parents[2]


def test_the_fastest_answer_says_most_of_a_clock() -> None:
    # Asked at 10.000 and answered at 10.004: theirs was 17.002 at 10.002, give or take 2 ms.
    found = clock_of([(9.0, 16.1, 9.2), (10.0, 17.002, 10.004), (11.0, 18.02, 11.05)])
    assert found.ahead_s == pytest.approx(7.0)
    assert found.within_s == pytest.approx(0.002)


def test_a_record_is_put_on_the_clock_at_home() -> None:
    record = {
        "scheduled": 107.0,
        "sent": 107.5,
        "headers": None,
        "ended": 109.0,
        "chunk_s": [108.0, 109.0],
        "connect_s": 0.1,
    }
    assert at_home(record, Clock(100.0, 0.001)) == {
        "scheduled": 7.0, "sent": 7.5, "headers": None, "ended": 9.0, "chunk_s": [8.0, 9.0], "connect_s": 0.1,
    }  # fmt: skip


def test_a_load_is_packed_and_unpacked_for_the_same_version_alone(tmp_path: Path) -> None:
    (tmp_path / "load.json").write_text(json.dumps({"kind": "open", "prompts_path": "/home/somebody/prompts.jsonl"}))
    (tmp_path / "prompts.jsonl").write_text("é\n", encoding="utf-8")
    message = pack(tmp_path / "load.json", tmp_path / "prompts.jsonl")
    (tmp_path / "there").mkdir()
    load = json.loads(unpack(message, tmp_path / "there").read_text())
    assert (load["kind"], load["records_path"]) == ("open", "")
    assert Path(load["prompts_path"]).read_text(encoding="utf-8") == "é\n"
    with pytest.raises(ValueError, match=r"the one that measures has 0\.0\.9"):
        unpack({**message, "version": "0.0.9"}, tmp_path / "there")


def test_records_are_held_until_they_are_sent() -> None:
    sent: list[Any] = []
    held = Forwarded(lambda kind, data: sent.append((kind, data)))
    held.append({"a": 1})
    held.append({"a": 2})
    held.flush()
    held.flush()
    assert sent == [("nbridge_records", [{"a": 1}, {"a": 2}])]


def test_clocks_that_are_too_far_apart_invalidate() -> None:
    load = {"kind": "open", "rate_rps": 100.0}  # where 5 ms are on time
    near = {"host": "a", "clock_within_s": 0.0002, "clock_drift_s": 0.0001}
    far = {"host": "b", "clock_within_s": 0.0002, "clock_drift_s": 0.006}
    assert [check["ok"] for check in _machine_checks(load, [near])] == [True]
    (bad,) = _machine_checks(load, [near, far])
    assert bad["ok"] is False and "The clock of b is known to 6.2 ms only" in bad["detail"]
    assert [check["ok"] for check in _machine_checks(load, [near, {**far, "clock_drift_s": None}])] == [None]
    assert _machine_checks(load, None) == []


@pytest.mark.parametrize(
    ("workers", "listen", "load", "word"),
    [
        (2, "5557", {}, "expected HOST:PORT"),
        (2, "127.0.0.1:99999", {}, "expected HOST:PORT"),
        (2, "127.0.0.1:5557", {"processes": 2}, "leave it out with --workers"),
        (5, "127.0.0.1:5557", {}, "4 users for 5 workers"),
    ],
)
def test_what_workers_cannot_carry_is_refused(workers: int, listen: str, load: dict[str, Any], word: str) -> None:
    plan = expand({"engines": [{"model": "m"}], "loads": [{"concurrency": 4, "requests": 8, **load}]}, source="x.toml")
    with pytest.raises(PlanError, match=word):
        machines(workers, listen, plan)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def workers(address: str, number: int) -> Iterator[None]:
    """`nbridge worker`, so many times, as if each ran on a machine of its own."""
    argv = [sys.executable, "-m", "nbridge", "worker", address]
    running = [forks.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback")
def test_two_workers_at_another_address_carry_a_load_cell_after_cell(
    tmp_path: Path, nbridge: Callable[..., Any]
) -> None:
    (tmp_path / "plan.toml").write_text(
        """
[[loads]]
name = "c4"
concurrency = 4
requests = 24
prompt_tokens = 8
output_tokens = 3
[[loads]]
name = "r40"
kind = "open"
rate_rps = 40
requests = 80
prompt_tokens = 8
output_tokens = 3
"""
    )
    address = f"127.0.0.2:{free_port('127.0.0.2')}"
    with golden(tmp_path, host="127.0.0.1") as server, workers(address, 2):
        answer = nbridge("bench", tmp_path / "plan.toml", "--target", server.url, "--workers", "2", "--listen", address,
                         "--out", tmp_path / "runs", "--json", "--no-report")  # fmt: skip
    assert answer.returncode in (0, 1), answer.stderr
    closed, opened = json.loads(answer.stdout)["cells"]
    (run,) = (tmp_path / "runs").iterdir()
    for cell, number in ((closed, 24), (opened, 80)):
        requests = store.open_run(run).requests(cell["id"]).to_pylist()
        assert len(requests) == number == cell["metrics"]["requests"]["ok"], cell["reason"]
        assert len({row["request_id"] for row in requests}) == number
        told = cell["metrics"]["client"]["machines"]
        assert [one["host"] for one in told] == [socket.gethostname()] * 2
        # one machine has one clock: what is measured of the difference is the way there and back
        assert all(0 <= one["clock_within_s"] < 1 and one["clock_drift_s"] is not None for one in told)
        assert any(check["name"] == "clocks of machines apart" for check in cell["validity"]["checks"])
    due = arrivals.schedule("poisson", 40.0, seconds=None, requests=80, seed=1)
    scheduled = sorted(row["scheduled_s"] for row in store.open_run(run).requests(opened["id"]).to_pylist())
    within = 2 * max(one["clock_within_s"] for one in opened["metrics"]["client"]["machines"])
    assert scheduled == pytest.approx(due, abs=within + 1e-6)
