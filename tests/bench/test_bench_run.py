"""`nbridge bench` end to end: real vLLM, real Locust, real kills."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pytest
from waiting import wait_for

from bench.resumption import plan_sha256
from bench.run.store import open_run
from monitoring.scrape.canary import Canary
from serve.engine.server import Server

CONFIGS = Path(__file__).parents[1] / "configs"
Nbridge = Callable[..., subprocess.CompletedProcess[str]]
TARGET_PLAN = """
name = "target"
[defaults.engine]
model = "demo-1m"
[defaults.load]
output_tokens = 24
[[loads]]
name = "closed"
concurrency = 2
requests = 12
prompt_tokens = 40
[[loads]]
name = "open"
kind = "open"
rate_rps = 6
seconds = 3
prompt_tokens = { kind = "uniform", low = 8, high = 32 }
[[loads]]
name = "chat"
scenario = "mixed"
concurrency = 2
requests = 8
prompt_tokens = 60
[slo]
ttft_s = 5.0
"""


def plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


@contextlib.contextmanager
def canaries(folder: Path, server: Server) -> Iterator[None]:
    """Asks the server for one token in the middle of each cell that is measured below `folder`."""
    over, asked = threading.Event(), set()

    def watch() -> None:
        while not over.wait(0.02):
            for path in set(folder.glob("*/cells/*/requests.jsonl")) - asked:
                with contextlib.suppress(OSError):
                    if path.read_text().count("\n") > 4:  # two are of the warm-up
                        asked.add(path)
                        Canary(server.base_url, deadline_s=60).ask()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()


def expected_code(document: dict[str, Any]) -> int:
    return 0 if {cell["outcome"] for cell in document["cells"]} == {"ok"} else 1


def started_by(mark: str) -> list[str]:
    """The command lines of all living processes that inherited the environment variable TEST_MARK=<mark>."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TEST_MARK") == mark:
                found.append(" ".join(process.cmdline()))
    return found


def start_bench(tmp_path: Path, text: str, server: Server, mark: str) -> tuple[subprocess.Popen[str], Path]:
    """A bench in the background, at the moment that its first cell has ended; and its run folder."""
    argv = [sys.executable, "-m", "nbridge", "bench", str(plan(tmp_path, text)), "--target", server.base_url]
    argv += ["--out", str(tmp_path / "runs")]
    # A forked Locust would not carry the mark.
    environment = {name: value for name, value in os.environ.items() if name != "NBRIDGE_TEST_FORKS"}
    environment["TEST_MARK"] = mark
    bench = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    assert bench.stderr is not None
    for line in bench.stderr:
        if "target-closed-r1" in line:
            break
    (run_dir,) = (tmp_path / "runs").iterdir()
    return bench, run_dir


@pytest.mark.engine
def test_a_running_server_is_measured_and_every_token_is_accounted_for(
    tmp_path: Path, nbridge: Nbridge, engine_server: Server
) -> None:
    with canaries(tmp_path, engine_server):  # the server is watched while it is measured
        answer = nbridge(
            "bench", plan(tmp_path, TARGET_PLAN), "--target", engine_server.base_url, "--out", tmp_path, "--json"
        )
    document = json.loads(answer.stdout)
    assert answer.returncode == document["exit_code"] == expected_code(document), answer.stderr
    assert sum((cell["reconciliation"]["beside"] or {"requests": 0})["requests"] for cell in document["cells"]) > 0
    assert [cell["id"] for cell in document["cells"]] == ["target-closed-r1", "target-open-r1", "target-chat-r1"]
    run = open_run(Path(document["path"]))
    for cell in run.cells:
        metrics, agreement = cell["metrics"], cell["reconciliation"]
        assert cell["outcome"] in ("ok", "invalid")  # invalid only for what a busy machine does to the clock, or for
        # what a quick one does to so small a load: two users are not two requests at once when each takes 20 ms.
        of_time = ("saturated", "held several chunks", "TTFT", "E2E", "in flight on average", "stood still")
        assert all(any(words in reason for words in of_time) for reason in cell["validity"]["reasons"]), cell["reason"]
        assert agreement["exact"] is True
        assert agreement["output_tokens"]["client"] == agreement["output_tokens"]["server"] == metrics["output_tokens"]
        assert agreement["prompt_tokens"]["equal"] and agreement["requests"]["equal"]
        requests = run.requests(cell["id"])
        if cell["id"] == "target-closed-r1":  # the server's own tokenizer makes prompts exactly as long as asked for
            assert set(requests["prompt_tokens"].to_pylist()) == {40}
        assert set(requests["outcome"].to_pylist()) == {"ok"}
        assert pc.all(pc.equal(requests["output_tokens"], 24)).as_py()
        for row in requests.to_pylist():
            assert (
                row["scheduled_s"] <= row["sent_s"] <= row["headers_s"] <= row["first_token_s"] <= row["last_token_s"]
            )
            assert sum(row["chunk_tokens"]) == row["output_tokens"]
            assert row["chunk_s"] == sorted(row["chunk_s"])
        assert {"server", "gpu", "process"} >= set(run.samples(cell["id"])["source"].to_pylist()) >= {"server"}
    assert run.cells[0]["metrics"]["requests"]["total"] == 12
    assert run.cells[1]["metrics"]["goodput_rps"] is not None
    assert {row["scenario"] for row in run.requests("target-chat-r1").to_pylist()} > {"chat"}
    assert (run.path / "report.html").exists() and (run.path / "report.md").exists()


@pytest.mark.engine
def test_a_killed_bench_is_resumed_and_its_finished_cells_stay(
    tmp_path: Path, nbridge: Nbridge, engine_server: Server
) -> None:
    text = TARGET_PLAN.replace("seconds = 3", "seconds = 60")
    bench, run_dir = start_bench(tmp_path, text, engine_server, "killed")
    records = run_dir / "cells" / "target-open-r1" / "requests.jsonl"
    wait_for(lambda: records.exists() and records.read_text().count("\n") > 6)
    bench.kill()
    bench.wait()
    wait_for(lambda: not started_by("killed"))  # nothing is left behind
    first = {p.name: p.read_bytes() for p in (run_dir / "cells" / "target-closed-r1").iterdir()}
    recorded = records.read_text().count("\n")

    document = json.loads((run_dir / "run.json").read_text())
    for load in (document["plan"]["loads"][1], document["cells"][1]["load"]):
        load["seconds"] = 2  # the rest of this test need not take a minute
    document["plan_sha256"] = plan_sha256(document["plan"])
    (run_dir / "run.json").write_text(json.dumps(document))
    answer = nbridge("bench", "--resume", run_dir, "--json")
    assert answer.returncode == expected_code(json.loads(answer.stdout)), answer.stderr
    assert [cell["outcome"] == "pending" for cell in json.loads(answer.stdout)["cells"]] == [False] * 3
    assert {p.name: p.read_bytes() for p in (run_dir / "cells" / "target-closed-r1").iterdir()} == first
    kept = run_dir / "cells" / "target-open-r1.interrupted-1" / "requests.jsonl"
    assert kept.read_text().count("\n") == recorded
    again = nbridge("bench", "--resume", run_dir)
    assert "0 of 3 cells to measure" in again.stderr


@pytest.mark.engine
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(tmp_path: Path, engine_server: Server) -> None:
    text = TARGET_PLAN.replace("seconds = 3", "seconds = 60")
    bench, run_dir = start_bench(tmp_path, text, engine_server, "interrupted")
    wait_for((run_dir / "cells" / "target-open-r1" / "requests.jsonl").exists)
    os.kill(bench.pid, signal.SIGINT)
    _, said = bench.communicate(timeout=300)
    assert bench.returncode == 130, said
    assert "bench --resume" in said.replace("\n", " ")
    assert "Traceback" not in said
    assert not started_by("interrupted")
    cells = json.loads((run_dir / "run.json").read_text())["cells"]
    assert [cell["outcome"] for cell in cells][1:] == ["pending", "pending"]
    assert (run_dir / "report.html").exists()


@pytest.mark.engine
def test_bad_engines_are_recorded_a_killed_one_is_replaced_and_the_rest_is_measured(
    tmp_path: Path, nbridge: Nbridge
) -> None:
    small = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "max_window_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    folder = tmp_path / "my-qwen3"  # nothing but a configuration: served with random weights and a tokenizer of ours
    folder.mkdir()
    real = json.loads((CONFIGS / "qwen3-0.6b.json").read_text())
    (folder / "config.json").write_text(json.dumps({**real, **small}))
    text = """
name = "trouble"
[defaults.engine]
model = "demo-1m"
max_model_len = 512
[[engines]]
name = "fp8"
quantization = "fp8"
[[engines]]
name = "nowhere"
model = "./no-such-model"
[[engines]]
name = "huge"
model = "deepseek-v2"
[[engines]]
name = "good"
model = "my-qwen3"
quantization = "int8"
[defaults.load]
concurrency = 2
prompt_tokens = 16
[[loads]]
name = "long"
requests = 400
output_tokens = 8
[[loads]]
name = "short"
requests = 8
output_tokens = 8
""".replace("my-qwen3", str(folder))
    killer = threading.Thread(target=kill_engine_during, args=(tmp_path, "good-long-r1"), daemon=True)
    killer.start()
    answer = nbridge("bench", plan(tmp_path, text), "--out", tmp_path / "runs", "--json", timeout_s=800)
    assert answer.returncode == 1, answer.stderr  # part of the cells failed
    assert "unsupported: fp8-long-r1, fp8-short-r1" in answer.stderr
    assert "oom" not in json.loads(answer.stdout)["exit_reasons"]  # known before a server was started
    cells = {cell["id"]: cell for cell in json.loads(answer.stdout)["cells"]}
    assert cells["fp8-long-r1"]["outcome"] == "unsupported"
    assert "The engine said" in cells["fp8-long-r1"]["reason"]
    assert cells["nowhere-short-r1"]["outcome"] == "failed"
    assert "no-such-model" in cells["nowhere-short-r1"]["reason"]
    assert cells["huge-long-r1"]["outcome"] == "oom"
    assert "Not started: deepseek-v2" in cells["huge-long-r1"]["reason"]
    killed, rest = cells["good-long-r1"], cells["good-short-r1"]
    assert killed["outcome"] == "failed"
    assert killed["metrics"]["requests"]["ok"] > 0  # what was finished before is kept
    assert rest["outcome"] in ("ok", "invalid")
    assert rest["reconciliation"]["output_tokens"] == {"client": 64, "server": 64, "equal": True}
    run = open_run(Path(json.loads(answer.stdout)["path"]))
    assert len(run.requests("good-long-r1")) == killed["metrics"]["requests"]["total"]


def kill_engine_during(folder: Path, cell_id: str) -> None:
    """SIGKILL the engine core as soon as the cell has recorded a few requests."""
    deadline = time.monotonic() + 800
    while time.monotonic() < deadline:
        for records in folder.glob(f"runs/*/cells/{cell_id}/requests.jsonl"):
            if records.read_text().count("\n") > 8:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if "EngineCore" in process.name():
                            process.kill()
                            return
        time.sleep(0.1)
