"""Prompt files against a real vLLM: lengths, shared blocks and refused pictures as the server sees them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.run.store import open_run
from serve.engine.server import Server

PLAN = """
name = "files"
[defaults.engine]
model = "demo-1m"
[defaults.load]
scenario = "file"
warmup_requests = 1
[[loads]]
name = "trace"
prompts_file = "trace.jsonl"
kind = "open"
arrival = "trace"
[[loads]]
name = "talk"
prompts_file = "talk.json"
concurrency = 1
requests = 2
[[loads]]
name = "pictures"
prompts_file = "pictures.jsonl"
concurrency = 1
requests = 2
"""
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.engine
def test_files_and_a_trace_against_vllm(
    tmp_path: Path, nbridge: Callable[..., subprocess.CompletedProcess[str]], engine_server: Server
) -> None:
    lengths = [(600, 4), (610, 5), (610, 6), (640, 7)]
    blocks = [[0, 1], [0, 1], [0, 2], [3, 4]]  # larger than those of vLLM, 128 tokens here
    trace = [
        {"timestamp": 1500 * n, "input_length": size, "output_length": out, "hash_ids": names}
        for n, ((size, out), names) in enumerate(zip(lengths, blocks, strict=True))
    ]
    talk = [{"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello, hello."}]}] * 2
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(item) + "\n" for item in trace))
    (tmp_path / "talk.json").write_text(json.dumps(talk, indent=2))
    (tmp_path / "pictures.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": [PICTURE]}]}))
    words = ("--target", engine_server.base_url, "--out", tmp_path / "runs", "--json", "--no-report")
    answer = nbridge("bench", tmp_path / "plan.toml", *words)
    assert answer.stdout, answer.stderr
    document = json.loads(answer.stdout)
    run = open_run(Path(document["path"]))
    traced, talked, pictures = document["cells"]
    rows = sorted(run.requests(traced["id"]).to_pylist(), key=lambda row: row["scheduled_s"])
    assert [(row["prompt_tokens"], row["output_tokens"]) for row in rows] == lengths
    # What the names share the server finds in its cache.
    assert traced["reconciliation"]["prefix_cache_hit_share"] > 0
    assert traced["reconciliation"]["exact"] is True
    assert {row["outcome"] for row in run.requests(talked["id"]).to_pylist()} == {"ok"}
    assert pictures["outcome"] == "unsupported"
    assert (
        "pictures.jsonl has pictures, sound or files, which this server does not take: HTTP 400" in pictures["reason"]
    )
