"""What Locust is given, by a load file or by hand: checked, kept secret, and counted once in its own totals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import forks
import pytest
from golden import Golden
from locust_runs import KEY, LOCUSTFILE, ROOT, start
from waiting import wait_for

from bench.client.target import target_of
from bench.load import loadfile

pytestmark = pytest.mark.slow


@pytest.fixture
def server(server_with_key: Golden) -> Golden:
    return server_with_key


def test_the_key_is_in_no_file_and_no_output(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=4, model="golden?status=500").ended()
    assert KEY not in run.output + run.words
    assert all(KEY not in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file())
    assert server.log()[-1]["authorized"]


def test_an_unusable_load_file_is_refused_with_a_sentence(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url).ended()
    assert run.process.returncode == 2
    assert run.words.strip().endswith("set `seconds` or `requests`, so that the load ends.")
    assert "Traceback" not in run.words


LOAD = {
    "target": "http://127.0.0.1:1", "model": "m", "endpoint": "completions", "records_path": "r", "phase_path": "p",
    "prompts_path": "prompts.jsonl", "kind": "closed", "concurrency": 1, "requests": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "both"}, "closed"),
        ({"concurrency": None}, "concurrency"),
        ({"kind": "open"}, "rate_rps"),
        ({"kind": "open", "rate_rps": -1}, "rate_rps"),
        ({"requests": None}, "seconds"),
        ({"colour": "red"}, "colour"),
        ({"arrival": "trace"}, "due_s"),
    ],
)
def test_a_load_file_is_checked(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    path = tmp_path / "load.json"
    path.write_text(json.dumps(LOAD))
    assert loadfile.read_load(str(path)).concurrency == 1
    path.write_text(json.dumps(LOAD | changes))
    with pytest.raises(ValueError, match=word):
        loadfile.read_load(str(path))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", "no prompt"),
        ("{", "line 1"),
        ("[]", "line 1"),
        ('{"prompt": "a"}', "max_tokens"),
        ('{"max_tokens": 1}', "line 1"),
    ],
)
def test_a_prompts_file_is_checked(tmp_path: Path, line: str, word: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line)
    load = loadfile.Load(**{**LOAD, "prompts_path": str(path)})
    with pytest.raises(ValueError, match=word):
        loadfile.read_prompts(load, target_of("http://127.0.0.1:1"))


def test_a_key_that_is_not_set_is_named() -> None:
    with pytest.raises(ValueError, match="NOT_SET_ANYWHERE"):
        loadfile.open_target("http://127.0.0.1:1", "NOT_SET_ANYWHERE")


def test_by_hand_without_a_load_file(tmp_path: Path, server: Golden) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NBRIDGE_LOAD"}
    environment |= {"GOLDEN_KEY": KEY, "NBRIDGE_API_KEY_ENV": "GOLDEN_KEY", "NBRIDGE_OUTPUT_TOKENS": "5"}
    environment |= {"NBRIDGE_ENDPOINT": "chat"}
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", server.url, "--json"]
    before = len(server.log())
    with forks.Popen(
        [*argv, "-u", "2", "-r", "2"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        wait_for(lambda: len(server.log()) > before + 60)  # some of them learn the dialect
        running.send_signal(signal.SIGINT)
        said, words = running.communicate(timeout=300)
    assert running.returncode == 0, words
    entries = {(entry["method"], entry["name"]): entry for entry in json.loads(said)}
    # an answer that came in one read has no TPOT, and this server's come at once
    assert set(entries) | {("TPOT", "chat")} == {("E2E", "chat"), ("TTFT", "chat"), ("TPOT", "chat")}
    assert all(entry["num_requests"] > 2 for (method, _), entry in entries.items() if method != "TPOT"), words
    assert {name: entry["num_failures"] for name, entry in entries.items()} == dict.fromkeys(entries, 0), words
    body = server.log()[-1]["body"]
    assert (body["model"], body["max_tokens"], len(body["messages"])) == ("golden", 5, 1)


def test_a_request_counts_once_in_the_totals_of_locust() -> None:
    """Importing the Locust file patches a process, so another one does it."""
    script = """
import json, types
from locust import events
from locust.env import Environment
from bench.load.locust_statistics import publish
environment = Environment(events=events)
environment.create_local_runner()
record = dict(sent=1.0, first_token=1.5, last_token=3.5, ended=4.0, output_tokens=21, tokens_after_first=20,
              outcome="ok", error_kind=None, error=None, scenario="chat")
for _ in range(3):
    publish(environment, record)
stats = environment.runner.stats
rows = {kind: (stats.get("chat", kind).num_requests, stats.get("chat", kind).avg_response_time)
        for kind in ("E2E", "TTFT", "TPOT")}
print(json.dumps([stats.total.num_requests, stats.total.avg_response_time, stats.total.total_content_length, rows]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NBRIDGE_")}
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    requests, mean_ms, size, rows = json.loads(done.stdout)
    assert (requests, mean_ms, size) == (3, 3000, 0)  # neither TTFT and TPOT as requests nor tokens as bytes
    assert rows == {"E2E": [3, 3000], "TTFT": [3, 500], "TPOT": [3, 100]}
