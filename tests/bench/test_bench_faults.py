"""What a bad server does to a cell: an outcome with a reason, every finished record kept. Against the golden server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import golden

from bench.run.store import open_run

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
) -> Callable[[str], tuple[dict[str, Any], list[dict[str, Any]], int]]:
    """Bench a golden server that behaves as its model name says: (cell, rows, exit code)."""
    (tmp_path / "plan.toml").write_text(PLAN)

    def measure(model: str) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
        with golden(tmp_path, model=model) as server:
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
    cell, rows, code = measured("golden?ttft_s=0.02&gap_s=0.02&per_event=4")
    assert code == 0
    assert cell["metrics"]["output_tokens"] == 48
    assert cell["reconciliation"]["exact"] is None
    assert "not compared" in cell["reconciliation"]["notes"][0]
    assert [row["chunk_tokens"] for row in rows] == [[4, 4]] * 6


@pytest.mark.parametrize(
    ("behaviour", "outcome", "words", "kept"),
    [
        ("then=hang", "timeout", "stopped answering", {"timeout"}),
        ("status=500", "failed", "status 500 as asked", {"http_error"}),
        ("status=429", "failed", "status 429 as asked", {"http_error"}),
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
    assert code == 0  # the sweep itself worked: it recorded what happened


def test_a_server_that_dies_is_said_to_be_unreachable(measured: Any) -> None:
    cell, rows, _ = measured("golden?then=die")
    assert cell["outcome"] == "failed"
    assert {row["outcome"] for row in rows} <= {"connection_error", "protocol_error", "aborted"}
