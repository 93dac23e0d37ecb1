"""Whole Locust runs against the golden server: the load file in, the records and the phase file out."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from golden import Golden, golden
from waiting import wait_for

from bench.cell.locust_process import processes_argv
from bench.client.target import target_of
from bench.load import loadfile
from bench.plans import arrivals
from bench.run import records
from bench.run.delivery import delivery
from bench.run.stats.reads import reads
from monitoring.scrape.metrics import parse, total

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "bench" / "load" / "locustfile.py"
KEY = "sk-never-written-42"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    with golden(tmp_path_factory.mktemp("golden"), api_key=KEY) as running:
        yield running


@dataclass
class Run:
    """A Locust process under way, or over, and what it has written."""

    folder: Path
    process: subprocess.Popen[str]

    def ended(self) -> "Run":
        self.output, self.words = self.process.communicate(timeout=300)
        return self

    @property
    def phase(self) -> dict[str, Any]:
        return json.loads((self.folder / "phase.json").read_text(encoding="utf-8"))

    @property
    def records(self) -> list[dict[str, Any]]:
        paths = sorted(self.folder.glob("requests*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]

    @property
    def measured(self) -> list[dict[str, Any]]:
        return sorted((r for r in self.records if not r["warmup"]), key=lambda record: record["scheduled"])

    def prompts_sent(self, server: Golden) -> list[int]:
        """The last id of each measured prompt (see `start`), in the order in which they reached the server."""
        wanted = {record["request_id"] for record in self.records}
        assert len(wanted) == len(self.records)
        entries = [e for e in server.log() if e["body"]["prompt"][0] == self.number]
        return [entry["body"]["prompt"][1] for entry in entries if entry["body"]["prompt"][1] >= 0]

    number = 0


def start(
    folder: Path,
    url: str,
    processes: int = 1,
    prompts: int = 200,
    warm: int = 2,
    file_limit_bytes: int | None = None,
    **load: Any,
) -> Run:
    """Starts Locust on a load; every run's prompts begin with a number of its own, warm-up ones go on with -1."""
    Run.number += 1
    folder.mkdir(exist_ok=True)
    lines = [{"prompt": [Run.number, -1], "max_tokens": 2, "scenario": "warm", "warmup": True}] * warm
    lines += [{"prompt": [Run.number, n], "max_tokens": 6, "scenario": "s"} for n in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    document = {
        "target": url,
        "model": "golden?ttft_s=0.01&gap_s=0.002",
        "api_key_env": "GOLDEN_KEY",
        "endpoint": "completions",
        "records_path": str(folder / "requests.jsonl"),
        "phase_path": str(folder / "phase.json"),
        "prompts_path": str(folder / "prompts.jsonl"),
        "kind": "closed",
        "concurrency": 4,
        "rate_rps": None,
        "arrival": "poisson",
        "seconds": None,
        "requests": None,
        "warmup_requests": warm,
        "timeout_s": 300.0,
        "max_in_flight": 64,
        "seed": 3,
        "ignore_eos": True,
        "temperature": 0.0,
        "verify_tls": True,
        "ca_path": None,
        **load,
    }
    (folder / "load.json").write_text(json.dumps(document), encoding="utf-8")
    environment = os.environ | {"NBRIDGE_LOAD": str(folder / "load.json"), "GOLDEN_KEY": KEY}
    environment["PYTHONPATH"] = str(ROOT)
    # As on a machine so busy that Locust's master goes on before its workers have told it of their users.
    environment["LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP"] = "0"
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += processes_argv(processes) if processes > 1 else []
    process = subprocess.Popen(
        argv, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if file_limit_bytes is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))
    return Run(folder, process)


def served_tokens(phase: dict[str, Any]) -> int:
    """How many tokens the server says it sent between the two scrapes."""
    pages = (phase["metrics_before"], phase["metrics_after"])
    before, after = (total(parse(page), "vllm:generation_tokens_total") or 0 for page in pages)
    return round(after - before)


def wait_for_records(run: Run, count: int) -> None:
    wait_for(lambda: sum(path.read_bytes().count(b"\n") for path in run.folder.glob("requests*.jsonl")) >= count)


def test_a_closed_load_sends_its_requests_in_order_and_says_what_happened(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=24, concurrency=4).ended()
    assert run.process.returncode == 0, run.words
    phase, measured = run.phase, run.measured
    assert Counter((r["outcome"], r["warmup"]) for r in run.records) == {("ok", False): 24, ("ok", True): 2}
    assert {key: phase[key] for key in ("dropped", "warmup_failed", "exhausted", "stopped", "issued", "workers")} == {
        "dropped": 0, "warmup_failed": 0, "exhausted": True, "stopped": None, "issued": 24, "workers": 1,
    }  # fmt: skip
    assert sorted(run.prompts_sent(server)) == list(range(24))
    assert set(run.prompts_sent(server)[:4]) == {0, 1, 2, 3}
    # warm-up, scrape, zero, first request … last request, end, scrape
    assert max(r["ended"] for r in run.records if r["warmup"]) < phase["zero"] < min(r["scheduled"] for r in measured)
    assert phase["ended"] == max(r["ended"] for r in measured)
    assert served_tokens(phase) == sum(r["output_tokens"] for r in measured) == 24 * 6
    assert phase["client_cpu_s"] > 0
    assert phase["window_end"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes")
@pytest.mark.parametrize("processes", [1, 2])
def test_arrivals_are_the_kernels_from_the_socket_to_the_figures(
    tmp_path: Path, server: Golden, processes: int
) -> None:
    run = start(tmp_path, server.url, processes=processes, requests=24, concurrency=4).ended()
    assert run.process.returncode == 0, run.words
    events = {tuple(e["body"]["prompt"]): e["events"] for e in server.log() if e["body"]["prompt"][0] == run.number}
    sent = sorted(sent_s for key, each in events.items() if key[1] >= 0 for sent_s, _ in each)
    came = sorted(chunk_s for record in run.measured for chunk_s in record["chunk_s"])
    assert len(came) == len(sent) == 24 * 6
    assert all(came_s >= sent_s for came_s, sent_s in zip(came, sent, strict=True))
    assert all(len(record["read_late_us"]) == record["reads"] for record in run.measured)
    records.write_parquet(sorted(tmp_path.glob("requests*.jsonl")), tmp_path / "requests.parquet", run.phase["zero"])
    found = reads(pq.read_table(tmp_path / "requests.parquet"))
    assert found is not None
    assert (found["kernel_share"], found["unknown_share"]) == (1.0, None)
    assert found["late_s"]["n"] == sum(record["reads"] for record in run.measured)
    assert run.phase["clock_step_s"] < 0.0001
    assert run.phase["clock_slew"] < 0.001


def test_a_closed_load_keeps_its_users_busy_on_one_connection_each(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=20, concurrency=4).ended()
    entries = [e for e in server.log() if e["body"]["prompt"][0] == run.number and e["body"]["prompt"][1] >= 0]
    assert len({entry["connection"] for entry in entries}) == 4
    measured = run.measured
    assert max(sum(o["sent"] <= r["sent"] < o["ended"] for o in measured) for r in measured) == 4
    # Each later request is scheduled when another has ended, and hardly any of the four users' time lies between the
    # two: of the time until the last one is scheduled, most is spent waiting for answers.
    ends = sorted(r["ended"] for r in measured)
    assert all(end <= r["scheduled"] for end, r in zip(ends, measured[4:], strict=False))
    first_s, last_s = measured[0]["scheduled"], measured[-1]["scheduled"]
    busy_s = sum(min(r["ended"], last_s) - r["scheduled"] for r in measured)
    assert busy_s > 0.7 * 4 * (last_s - first_s)


def test_a_closed_load_of_seconds_issues_nothing_after_them(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, seconds=0.5, concurrency=2, prompts=2).ended()
    phase = run.phase
    assert phase["window_end"] == phase["zero"] + 0.5
    assert phase["exhausted"]
    assert all(r["scheduled"] < phase["window_end"] for r in run.measured)
    # two prompts were not enough: they came again, and the phase file says so
    assert phase["prompts_reused"] == len(run.measured) - 2 > 0
    assert {r["outcome"] for r in run.measured} == {"ok"}


@pytest.mark.parametrize(
    ("arrival", "more"),
    [
        ("poisson", {}),
        ("constant", {}),
        ("gamma", {"burstiness": 0.5}),
        ("ramp", {"rates_rps": [10.0, 90.0]}),
        ("step", {"rates_rps": [20.0, 80.0]}),
    ],
)
def test_open_loop_arrivals_are_the_precomputed_ones(
    tmp_path: Path, server: Golden, arrival: str, more: dict[str, Any]
) -> None:
    model = "golden?ttft_s=0.2"  # longer than the gaps: nobody waits for an answer
    run = start(
        tmp_path, server.url, kind="open", concurrency=None, rate_rps=50.0, seconds=1.0, arrival=arrival, model=model,
        **more,
    ).ended()  # fmt: skip
    phase = run.phase
    due = arrivals.schedule(arrival, 50.0, seconds=1.0, requests=None, seed=3, **more)  # type: ignore[arg-type]
    assert [r["scheduled"] for r in run.measured] == [phase["zero"] + offset_s for offset_s in due]
    assert phase["window_end"] == phase["zero"] + 1.0
    assert all(r["outcome"] == "ok" and r["sent"] >= r["scheduled"] for r in run.measured)
    assert max(sum(o["sent"] <= r["sent"] < o["ended"] for o in run.measured) for r in run.measured) > 4
    assert sorted(run.prompts_sent(server)) == list(range(len(due)))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_traces_requests_are_due_at_its_times(tmp_path: Path, server: Golden, processes: int) -> None:
    due_s = [0.0, 0.0, 0.31, 0.32, 0.33, 0.9, 0.9]
    run = start(
        tmp_path, server.url, processes=processes, kind="open", concurrency=None, rate_rps=7.8, arrival="trace",
        due_s=due_s, requests=len(due_s), model="golden?ttft_s=0.2",
    ).ended()  # fmt: skip
    assert run.process.returncode == 0, run.words
    assert [r["scheduled"] for r in run.measured] == [run.phase["zero"] + offset_s for offset_s in due_s]
    assert all(r["outcome"] == "ok" and r["sent"] >= r["scheduled"] for r in run.measured)
    assert sorted(run.prompts_sent(server)) == list(range(len(due_s)))
    received = {e["body"]["prompt"][1]: e["received_s"] for e in server.log() if e["body"]["prompt"][0] == run.number}
    for number, offset_s in enumerate(due_s):  # both read CLOCK_MONOTONIC: none came early
        assert received[number] >= run.phase["zero"] + offset_s


def test_what_the_cap_drops_is_recorded_at_its_time(tmp_path: Path, server: Golden) -> None:
    run = start(
        tmp_path, server.url, kind="open", concurrency=None, rate_rps=100.0, requests=40, arrival="constant",
        max_in_flight=3, model="golden?ttft_s=0.15",
    ).ended()  # fmt: skip
    phase, measured = run.phase, run.measured
    counts = Counter(r["outcome"] for r in measured)
    assert counts["dropped"] == phase["dropped"] > 0
    assert counts["dropped"] + counts["ok"] == 40 == phase["issued"]
    assert [r["scheduled"] for r in measured] == [phase["zero"] + n / 100.0 for n in range(40)]
    assert all(r["sent"] is None and r["ended"] is None for r in measured if r["outcome"] == "dropped")
    assert (
        max(sum(o["outcome"] == "ok" and o["sent"] <= r["scheduled"] < o["ended"] for o in measured) for r in measured)
        <= 3
    )


def test_failed_requests_do_not_fail_the_process(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=8, model="golden?then=cut&after=1").ended()
    assert run.process.returncode == 0
    assert Counter(r["error_kind"] for r in run.measured) == {"early_close": 8}
    assert run.phase["warmup_failed"] == 2
    assert run.phase["exhausted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_records_and_a_phase_file(tmp_path: Path, server: Golden, number: signal.Signals) -> None:
    run = start(tmp_path, server.url, requests=200, model="golden?gap_s=0.05")
    wait_for_records(run, 8)
    run.process.send_signal(number)
    run.ended()
    assert run.process.returncode == 130
    counts = Counter(r["outcome"] for r in run.measured)
    assert counts["ok"] >= 6
    assert 1 <= counts["aborted"] <= 4
    assert set(counts) == {"ok", "aborted"}
    assert (run.phase["exhausted"], run.phase["stopped"]) == (False, "interrupted")
    assert run.phase["metrics_after"] is not None


def test_a_server_that_dies_ends_the_run_early(tmp_path: Path) -> None:
    with golden(tmp_path) as doomed:
        run = start(tmp_path / "run", doomed.url, requests=200, concurrency=8, model="golden?gap_s=0.03")
        wait_for_records(run, 10)
        doomed.kill()
        run.ended()
    assert run.process.returncode == 0
    assert run.phase["stopped"].startswith("server unreachable: ")
    assert not run.phase["exhausted"]
    assert run.phase["metrics_after"] is None
    assert run.phase["client_cpu_s"] < 2
    outcomes = Counter(r["outcome"] for r in run.measured)
    assert outcomes["connection_error"] >= 20
    assert outcomes["ok"] >= 8
    assert len(run.measured) < 200
    assert "server unreachable" in run.words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_full_disk_ends_the_run_and_says_so(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, requests=8, warm=0, records_path="/dev/full").ended()
    assert run.process.returncode == 4
    assert "No space left on device" in run.words
    assert run.phase["stopped"] == "the records file /dev/full cannot be written: No space left on device"


def test_a_disk_that_fills_up_keeps_the_earlier_records_whole(tmp_path: Path, server: Golden) -> None:
    # A limit on the size of files stops a write in its middle, as a full disk does.
    run = start(tmp_path, server.url, requests=100, file_limit_bytes=6000).ended()
    assert run.process.returncode == 4, run.words
    assert "cannot be written" in run.words
    text = (tmp_path / "requests.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert len(run.records) >= 3


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_several_processes_share_one_load(tmp_path: Path, server: Golden, kind: str) -> None:
    how = {"concurrency": 5} if kind == "closed" else {"concurrency": None, "rate_rps": 60.0, "kind": "open"}
    run = start(tmp_path, server.url, processes=2, requests=30, **how).ended()
    assert run.process.returncode == 0, run.words
    phase = run.phase
    assert (phase["workers"], phase["issued"], phase["exhausted"]) == (2, 30, True)
    assert sorted(run.prompts_sent(server)) == list(range(30))
    assert {r["outcome"] for r in run.records} == {"ok"}
    assert phase["zero"] <= min(r["scheduled"] for r in run.measured)
    assert phase["ended"] == max(r["ended"] for r in run.measured)
    assert {path.name for path in tmp_path.glob("requests*")} == {
        "requests.jsonl",
        "requests.0.jsonl",
        "requests.1.jsonl",
    }
    assert served_tokens(phase) == 30 * 6
    if kind == "open":
        parts = [
            arrivals.schedule("poisson", 60.0, seconds=None, requests=30, seed=3, worker=w, workers=2) for w in (0, 1)
        ]
        due = sorted(phase["zero"] + offset_s for part in parts for offset_s in part)
        assert [r["scheduled"] for r in run.measured] == due


def test_an_interrupt_of_several_processes_leaves_records_and_a_phase_file(tmp_path: Path, server: Golden) -> None:
    run = start(tmp_path, server.url, processes=2, requests=400, model="golden?gap_s=0.05")
    wait_for_records(run, 8)
    run.process.send_signal(signal.SIGINT)
    run.ended()
    assert run.process.returncode == 130, run.words
    assert (run.phase["exhausted"], run.phase["stopped"], run.phase["workers"]) == (False, "interrupted", 2)
    assert {r["outcome"] for r in run.measured} == {"ok", "aborted"}


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
    environment |= {"PYTHONPATH": str(ROOT), "NBRIDGE_ENDPOINT": "chat"}
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", server.url, "--json"]
    before = len(server.log())
    with subprocess.Popen(
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


@pytest.mark.parametrize("workers", [1, 4])
def test_a_thousand_poisson_arrivals_are_poisson(tmp_path: Path, server: Golden, workers: int) -> None:
    """By the instants at which they fell due, which no busy machine moves; that the delivered gaps are looked at."""
    load = {"kind": "open", "rate_rps": 100.0, "requests": 1000, "concurrency": None}
    run = start(tmp_path, server.url, processes=workers, prompts=1000, model="golden", **load).ended()
    assert run.process.returncode == 0, run.words
    zero = run.phase["zero"]
    scheduled = np.array([r["scheduled"] - zero for r in run.measured])
    left = np.array([np.nan if r["sent"] is None else r["sent"] - zero - (r["connect_s"] or 0) for r in run.measured])
    found = delivery(scheduled, scheduled, {**load, "arrival": "poisson", "seconds": None})
    assert (found["offered"], found["cv_expected"], found["lag1_expected"]) == (1000, 1.0, 0.0)
    assert abs(found["cv"] - 1) < 0.1 and abs(found["lag1"]) < 0.1
    assert delivery(scheduled, left, {**load, "seconds": None})["delivered"] == 1000 - run.phase["dropped"]
