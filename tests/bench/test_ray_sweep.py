"""`nbridge bench --on ray` on real Ray: two nodes on this machine, real vLLM, a node that is killed."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_nodes import cluster, require_ray
from waiting import wait_for

require_ray()
pytestmark = [pytest.mark.engine, pytest.mark.slow]

Nbridge = Callable[..., subprocess.CompletedProcess[str]]
NINE = """
name = "nine"
[defaults.engine]
model = "demo-1m"
max_model_len = 256
[defaults.load]
requests = 8
prompt_tokens = 16
output_tokens = 8
[[engines]]
name = "none"
[[engines]]
name = "int8"
quantization = "int8"
[[engines]]
name = "long"
max_model_len = 1000000
[matrix.load]
concurrency = [1, 2, 4]
[[loads]]
"""
TWO = """
name = "two"
[defaults.engine]
model = "demo-1m"
max_model_len = 256
[[engines]]
name = "a"
[[engines]]
name = "b"
[[loads]]
name = "file"
prompts_file = "prompts.jsonl"
scenario = "file"
concurrency = 1
requests = 40
output_tokens = 64
"""


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {cell["id"]: cell["outcome"] for cell in document["cells"]}


def believed(document: dict[str, Any]) -> dict[str, str]:
    """The outcomes, where it is the machine's mood whether a measured cell is valid."""
    return {name: "measured" if word in ("ok", "invalid") else word for name, word in outcomes(document).items()}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(50)))
    return path


def begun(plan: Path, address: str, runs: Path, *more: str, on: str = "ray") -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "nbridge", "bench", str(plan), "--on", on, "--out", str(runs), "--json", *more]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def living(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_nine_cells_on_two_nodes_end_as_on_one_machine(
    tmp_path: Path, nbridge: Nbridge, record_property: Callable[[str, object], None]
) -> None:
    plan = written(tmp_path, NINE)
    plain = json.loads(nbridge("bench", plan, "--out", tmp_path / "plain", "--json", timeout_s=900).stdout)
    with cluster({}, {}) as made:
        bench = begun(plan, "", tmp_path / "ray", "--at-once", "2", on=made.client)  # as from outside
        out, said = bench.communicate(timeout=900)
    found = json.loads(out)
    assert believed(found) == believed(plain), said
    assert len(found["cells"]) == 9 and set(believed(found).values()) == {"measured", "failed"}, said
    run = Path(found["path"])
    for cell, alone in zip(found["cells"], plain["cells"], strict=True):
        assert (cell["engine"], cell["load"], cell["repeat"]) == (alone["engine"], alone["load"], alone["repeat"])
        if cell["metrics"]:
            assert cell["metrics"]["requests"] == alone["metrics"]["requests"]
            assert cell["reconciliation"]["exact"] is True
            here = {path.name for path in (run / "cells" / cell["id"]).iterdir()}
            assert here == {path.name for path in (Path(plain["path"]) / "cells" / alone["id"]).iterdir()}
    assert any(cell["placed"]["beside"] for cell in found["cells"])
    assert found["cluster"]["at_once"] == 2 and (run / "report.md").exists()
    assert "Beside each other" in (run / "report.md").read_text()
    assert not (run / ".arriving").exists() or not list((run / ".arriving").iterdir())
    spent = found["cluster"]["scheduling"]
    assert spent["cells"] == 9 and spent["units"] == 3
    a_cell_s = spent["seconds"] / spent["cells"]
    record_property("scheduling_s_per_cell", a_cell_s)
    sys.stderr.write(f"\nscheduling overhead: {a_cell_s:.2f} s a cell (goal: under 5)\n")


def test_a_node_killed_in_a_cell_fails_its_cells_alone_and_they_can_be_measured_again(tmp_path: Path) -> None:
    plan = written(tmp_path, TWO)
    with cluster({}, {}, mark=str(tmp_path)) as made:
        bench = begun(plan, made.address, tmp_path / "runs", "--at-once", "2")
        assert bench.stderr is not None
        lines: list[str] = []
        for line in bench.stderr:
            lines.append(line)
            if "begins on node" in line:
                break
        threading.Thread(target=lambda: lines.extend(bench.stderr or ()), daemon=True).start()
        # The one whose cell begins is on one of the two nodes: that with the processes of a Locust below it.
        node = wait_for(lambda: next((one for one in made.worker_nodes if _measures(one)), None))
        made.remove_node(node, allow_graceful=False)
        out = bench.stdout.read() if bench.stdout else ""
        assert bench.wait(600) == 1, "".join(lines)
        document = json.loads(out)
        lost = [cell for cell in document["cells"] if cell["outcome"] == "failed"]
        assert len(lost) == 1 and "Ray lost the worker that measured it" in lost[0]["reason"], document["cells"]
        assert set(believed(document).values()) == {"failed", "measured"}
        assert "".join(lines).count("--retry-failed --on ray") == 1

        resume = [sys.executable, "-m", "nbridge", "bench", "--resume", document["path"], "--retry-failed", "--on",
                  "ray", "--json"]  # fmt: skip
        again = subprocess.run(resume, capture_output=True, text=True, timeout=600, check=False,
                               env={**os.environ, "RAY_ADDRESS": made.address})  # fmt: skip
        after = json.loads(again.stdout)
        assert set(believed(after).values()) == {"measured"}, again.stderr
        kept = next(cell for cell in document["cells"] if cell["outcome"] != "failed")
        assert kept in after["cells"]  # untouched
        files = {load["prompts_file"] for load in (cell["load"] for cell in after["cells"])}
        assert files == {str(tmp_path / "prompts.jsonl")}  # as the plan says, not as the node had it
        wait_for(lambda: not [one for one in living(str(tmp_path)) if "vllm" in one or "locust" in one], 60)
    wait_for(lambda: not living(str(tmp_path)), 60)


def _measures(node: Any) -> bool:
    """Whether a Locust runs below the raylet of a node."""
    (raylet,) = node.all_processes["raylet"]
    found = psutil.Process(raylet.process.pid).children(recursive=True)
    return any("locust" in " ".join(one.cmdline()) for one in found if one.is_running())


def test_an_interrupted_sweep_leaves_nothing_and_goes_on_here(tmp_path: Path, nbridge: Nbridge) -> None:
    plan = written(tmp_path, TWO)
    with cluster({}, mark=str(tmp_path)) as made:
        bench = begun(plan, made.address, tmp_path / "runs")
        assert bench.stderr is not None
        for line in bench.stderr:
            if "begins on node" in line:
                break
        bench.terminate()
        out, said = bench.communicate(timeout=120)
        assert bench.returncode == 130, said
        document = json.loads(out)
        assert set(outcomes(document).values()) == {"pending"}
        assert "are left. Go on with: nbridge bench --resume" in said and "--on ray" in said
        wait_for(lambda: not [one for one in living(str(tmp_path)) if "vllm" in one or "locust" in one], 60)
    answer = nbridge("bench", "--resume", document["path"], "--json", timeout_s=600)  # the same machine, without Ray
    after = json.loads(answer.stdout)
    assert set(believed(after).values()) == {"measured"}, answer.stderr
    assert not any("placed" in cell for cell in after["cells"])


def test_a_node_with_another_version_is_refused_with_both(tmp_path: Path) -> None:
    other = tmp_path / "other" / "neural_bridge-0.0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: neural-bridge\nVersion: 0.0.9\n")
    paths = os.pathsep.join((str(other.parent), os.environ["PYTHONPATH"]))
    with cluster({"env_vars": {"PYTHONPATH": paths}}) as made:
        bench = begun(written(tmp_path, TWO), made.address, tmp_path / "runs")
        _, said = bench.communicate(timeout=120)
    assert bench.returncode == 3, said
    assert "neural-bridge is 0.1.0 here and 0.0.9 on node" in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_a_head_that_does_not_answer_is_told_within_a_minute(tmp_path: Path, nbridge: Nbridge) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        closed = nbridge("bench", "--on", f"ray://127.0.0.1:{port}", "--out", tmp_path / "runs")
        assert closed.returncode == 4
        assert f"The Ray head at 127.0.0.1:{port} does not answer (Connection refused)" in closed.stderr
        silent.listen()  # takes connections and says nothing
        mute = nbridge("bench", "--on", f"ray://127.0.0.1:{port}", "--out", tmp_path / "runs", timeout_s=90)
    assert mute.returncode == 4 and "does not answer as a Ray head" in mute.stderr, mute.stderr
    assert "Traceback" not in closed.stderr + mute.stderr and not (tmp_path / "runs").exists()
