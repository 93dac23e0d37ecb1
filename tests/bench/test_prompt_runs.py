"""`nbridge prompts` and `nbridge bench` with prompt files: the command line, a real Locust, the golden server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from golden import golden

from bench.prompts.requests import refusal
from bench.run.store import open_run

pytestmark = pytest.mark.slow

Nbridge = Callable[..., subprocess.CompletedProcess[str]]
PLAN = """
name = "files"
[defaults.engine]
model = "any"
[defaults.load]
scenario = "file"
{default}
[[loads]]
name = "trace"
prompts_file = "trace.jsonl"
kind = "open"
arrival = "trace"
speed = 2.0
[[loads]]
name = "chat"
prompts_file = "chat.jsonl"
concurrency = 2
requests = 6
"""
TIMES_MS = (0, 0, 400, 420, 1500, 1600)


def plan(folder: Path, default: str = "") -> Path:
    trace = [
        {"timestamp": t, "input_length": 30 + n, "output_length": 5 + n, "hash_ids": [0, n + 1]}
        for n, t in enumerate(TIMES_MS)
    ]
    trace.append({"timestamp": 1700, "input_length": 0, "output_length": 3, "hash_ids": []})
    chat = [
        {"messages": [{"role": "user", "content": f"Number {n}\u2028?"}], "max_tokens": 4, "tools": [{"n": n}]}
        for n in range(3)
    ]
    for name, items in (("trace", trace), ("chat", chat)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    (folder / "plan.toml").write_text(PLAN.format(default=default))
    return folder / "plan.toml"


def test_a_trace_and_a_chat_file_end_to_end(tmp_path: Path, nbridge: Nbridge) -> None:
    with golden(tmp_path, model="golden?ttft_s=0.05&gap_s=0.002") as server:
        words = ("bench", plan(tmp_path), "--target", server.url, "--out", tmp_path / "runs", "--json", "--no-report")
        answer = nbridge(*words)
        sent = [entry["body"] for entry in server.log() if "prompt" in entry["body"] or "messages" in entry["body"]]
    assert answer.stdout, answer.stderr
    document = json.loads(answer.stdout)
    said = "trace.jsonl: a trace (JSON lines), 6 requests read; skipped 1: a prompt length of 0 (first at line 7)"
    assert said in answer.stderr
    traced, chat = document["cells"]
    assert (traced["load"]["requests"], traced["load"]["rate_rps"]) == (6, 7.5)  # six in 1.6 s at twice the speed
    assert traced["prompts"] == said
    run = open_run(Path(document["path"]))
    rows = sorted(run.requests(traced["id"]).to_pylist(), key=lambda row: row["scheduled_s"])
    assert [row["scheduled_s"] for row in rows] == pytest.approx([t / 2000 for t in TIMES_MS], abs=1e-6)
    assert all(row["outcome"] == "ok" and row["sent_s"] >= row["scheduled_s"] for row in rows)
    # The golden server counts words; without a tokenizer a word stands for a token.
    assert sorted((row["prompt_tokens"], row["output_tokens"]) for row in rows) == [(30 + n, 5 + n) for n in range(6)]
    prompts = [body["prompt"].split() for body in sent if "prompt" in body and len(str(body["prompt"]).split()) >= 30]
    beginnings = [tuple(words[:16]) for words in prompts]
    assert (
        max(beginnings.count(words) for words in beginnings) == 6
    )  # the shared block; warm-up requests have none of it
    chats = [body for body in sent if body.get("tools")]
    assert {body["messages"][0]["content"] for body in chats} == {f"Number {n}\u2028?" for n in range(3)}
    assert all(body["tools"] == [{"n": int(body["messages"][0]["content"][7])}] for body in chats)
    assert {row["output_tokens"] for row in run.requests(chat["id"]).to_pylist()} == {4}


@pytest.mark.parametrize(
    ("default", "line", "words"),
    [
        ("", '{"timestamp": 5, "inp', "trace.jsonl: the file was cut off: it ends in the middle of line 8"),
        ("", '{"timestamp": 5, "input_length": 4}\n', "line 8: its arrival time is 1.595 s before the one of line 6"),
        ("", '{"messages": []}\n', "line 8: prompts and messages, but line 1 holds a trace"),
        ('endpoint = "completions"', "", "chat.jsonl: line 1: has messages"),
    ],
)
def test_a_bad_file_is_refused_before_there_is_a_run_folder(
    tmp_path: Path, nbridge: Nbridge, default: str, line: str, words: str
) -> None:
    path = plan(tmp_path, default)
    with (tmp_path / "trace.jsonl").open("a") as trace:
        trace.write(line)
    with golden(tmp_path) as server:
        answer = nbridge("bench", path, "--target", server.url, "--out", tmp_path / "runs")
    assert answer.returncode == 2, answer.stderr
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_the_command_says_what_a_file_is(tmp_path: Path, nbridge: Nbridge) -> None:
    plan(tmp_path)
    told = nbridge("prompts", tmp_path / "trace.jsonl", "--context", 38)
    assert told.returncode == 0, told.stderr
    for words in (
        "a trace (JSON lines), 7 entries",
        "Arrivals: over 1.6 s, 3.75 requests/s on average",
        "Skipped: 1: a prompt length of 0 (first at line 7)",
        "Context of 38 tokens: 4 of 6 do not fit",
    ):
        assert words in told.stdout
    document = json.loads(nbridge("prompts", tmp_path / "trace.jsonl", "--json").stdout)
    assert document["prompt_tokens"] | {"p50": 0} == {
        "n": 6, "sum": 195, "min": 30, "p5": 30, "p50": 0, "p90": 35, "p95": 35, "p99": 35, "max": 35,
    }  # fmt: skip
    missing = nbridge("prompts", tmp_path / "none.jsonl")
    assert (missing.returncode, "no such file" in missing.stderr) == (2, True)


def test_pictures_are_asked_about_before_the_load(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [picture]}], "max_tokens": 9}
    with golden(tmp_path) as server:
        assert refusal(body, server.url, "golden", {}) is None
        refused = refusal(body, server.url, "golden?status=400", {})
        asked = [entry["body"] for entry in server.log()]
    assert refused is not None
    assert refused.startswith("HTTP 400: ")
    assert "status 400 as asked" in refused
    assert [(one["messages"], one["max_tokens"]) for one in asked] == [(body["messages"], 1)] * 2
    assert "no answer" in (refusal(body, server.url, "golden", {}) or "")


def test_tokens_counted_by_a_stand_in_are_said_to_be(tmp_path: Path, nbridge: Nbridge) -> None:
    (tmp_path / "prompts.txt").write_text("Write a short poem about the sea.\n", encoding="utf-8")
    own, stand_in = (
        nbridge("prompts", tmp_path / "prompts.txt", "--model", name) for name in ("demo-1m", "llama-3.1-8b")
    )
    assert "Counted by this program's own tokenizer" not in own.stdout
    assert "with which llama-3.1-8b is served here" in stand_in.stdout
