"""Our client beside others: the arithmetic on hand-made numbers, and a small study from end to end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import PlanError
from bench.studies.clients import page, study
from bench.studies.clients.points import ALL, MAIN, Point
from bench.studies.clients.seen import (
    Answer,
    Request,
    Seen,
    compare,
    from_lines,
    main_part,
    read_stream,
    spent_s,
    true_itl_s,
    window,
)

ROOT = Path(__file__).parents[2]


def event(tokens: int) -> bytes:
    document = {"choices": [{"text": " tok"}], "usage": {"completion_tokens": tokens}}
    data = f"data: {json.dumps(document)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b'f\r\ndata: {"choices": []}\n\ndata: [DONE]\n\n\r\n0\r\n\r\n'


def test_an_event_came_with_the_read_that_brought_its_last_byte() -> None:
    second, third = event(2), event(3)
    reads = [
        (1.2, b"HTTP/1.1 200 OK\r\n\r\n"),
        (1.5, event(1)),
        (1.6, second[:20]),
        (1.7, second[20:] + third),
        (1.8, END),
    ]
    found = read_stream("r1", Answer(1.0, reads, complete=True))
    assert found == {
        "request_id": "r1", "ok": True, "ttft_s": 0.5, "decode_s": pytest.approx(0.2), "tokens_after_first": 2,
        "reads": 5, "coalesced": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        Answer(1.0, [(1.5, event(1) + END)], complete=False),
        Answer(1.0, [(1.5, event(1))], complete=True),  # no [DONE]
        Answer(1.0, [(1.5, END)], complete=True),  # no content
        Answer(1.0, [], complete=False),
    ],
)
def test_what_did_not_end_well_is_lost(answer: Answer) -> None:
    found = read_stream("r1", answer)
    assert (found["ok"], found["ttft_s"]) == (False, None)


def entry(request_id: str | None, received_s: float, events: Any, request: int = 0) -> dict[str, Any]:
    return {
        "request_id": request_id, "request": request, "received_s": received_s, "events": events,
        "ended_s": events[-1][0] + 0.01, "tokens": sum(tokens for _, tokens in events), "end": "whole",
        "late_s": 0.001, "blocked": 0,
    }  # fmt: skip


LOG = [
    entry("warm-up", 0.5, [(0.6, 2)]),
    entry("r2", 2.0, [(2.2, 4), (2.24, 4)]),
    entry("r1", 1.0, [(1.1, 4), (1.14, 4), (1.16, 2)]),
]


def test_the_load_is_what_came_last() -> None:
    entries = main_part(LOG, 2)
    assert [one["request_id"] for one in entries] == ["r1", "r2"]
    assert window(entries) == (1.0, 2.25)
    # 0.06 s for 6 tokens and 0.04 s for 4 behind the first events
    assert true_itl_s(entries) == pytest.approx(0.01)


def test_bias_is_taken_request_by_request_where_they_are_named() -> None:
    seen = Seen((Request("r1", ok=True, ttft_s=0.103), Request("r2", ok=True, ttft_s=0.201)), 0.0105)
    found = compare(seen, main_part(LOG, 2), 3)
    assert found["ttft_bias"]["by"] == "request"
    assert found["ttft_bias"]["median_s"] == found["ttft_bias"]["mean_s"] == pytest.approx(0.002)
    assert found["ttft_bias"]["p99_s"] is None  # two requests have none
    assert found["itl_error"] == pytest.approx(0.05)
    assert found["requests"] == {"asked": 3, "ok": 2, "served": 2}
    assert (found["chunks"], found["coalesced"], found["server_late_s"]) == (5, None, 0.001)


def test_a_request_may_be_named_by_its_answers_id() -> None:
    log = [entry(None, 1.0, [(1.1, 1), (1.2, 1)], request=5), entry(None, 2.0, [(2.3, 1), (2.4, 1)], request=6)]
    seen = Seen((Request("golden-6", ok=True, ttft_s=0.31), Request("golden-5", ok=True, ttft_s=0.12)), None)
    bias = compare(seen, log, 2)["ttft_bias"]
    assert (bias["by"], bias["median_s"]) == ("request", pytest.approx(0.015))


def test_bias_is_of_the_distributions_where_requests_have_no_names() -> None:
    seen = Seen(
        (Request(None, ok=True, ttft_s=0.25), Request(None, ok=True, ttft_s=0.15), Request(None, ok=False)), None
    )
    found = compare(seen, main_part(LOG, 2), 3)
    # theirs 0.1 and 0.2
    assert found["ttft_bias"] == {"median_s": pytest.approx(0.05), "mean_s": pytest.approx(0.05), "p99_s": None,
                                  "by": "distribution"}  # fmt: skip
    assert found["itl_error"] is None


def test_a_bare_clients_mean_itl_weighs_tokens() -> None:
    lines = [
        json.dumps({"request_id": "a", "ok": True, "ttft_s": 0.1, "decode_s": 0.3, "tokens_after_first": 30}),
        json.dumps({"request_id": "b", "ok": True, "ttft_s": 0.1, "decode_s": 0.2, "tokens_after_first": 10}),
        json.dumps({"request_id": "c", "ok": False}),
    ]
    assert from_lines(lines).itl_mean_s == pytest.approx(0.5 / 40)
    assert from_lines(lines[2:]).itl_mean_s is None


def test_processor_time_is_read_between_samples() -> None:
    samples = [(0.0, 1.0), (1.0, 1.4), (2.0, 2.4), (3.0, 2.5)]
    assert spent_s(samples, 0.5, 2.5) == pytest.approx(2.45 - 1.2)
    assert spent_s(samples, 1.0, 9.0) == pytest.approx(1.1)  # the process has ended


def cell(client: str, point: Point, cpu_us: float, bias_s: float, itl_error: float = 0.0, number: int = 1) -> page.Cell:
    return {
        "client": client, "users": point.users, "per_event": point.per_event, "busy": point.busy, "round": number,
        "client_cpu_us_per_chunk": cpu_us, "ttft_bias": {"median_s": bias_s, "mean_s": bias_s}, "itl_error": itl_error,
        "coalesced": None, "requests": {"asked": 10, "ok": 10},
    }  # fmt: skip


def test_goals_are_judged_by_the_median_over_rounds() -> None:
    first, second = MAIN[:2]
    cells = [
        cell("nbridge", first, cpu, bias, number=n)
        for n, (cpu, bias) in enumerate([(39, 2e-4), (90, 9e-4), (38, -1e-4)])
    ]
    cells += [
        cell("nbridge", second, 41, 2e-3, itl_error=-0.02),
        cell("aiohttp", first, 50, 1),
        cell("vllm", first, 60, 1e-4),
    ]
    cells.append({**cell("aiperf", first, 0, 0), "error": "it failed"})
    late = [{"says": {"dispatch_lateness_p99_s": value}} for value in (0.002, 0.009, 0.003)]
    met = {(one["goal"], one["value"]): one["met"] for one in page.goals(cells, late)}
    assert met[(f"CPU per chunk, {first}", 39)] is True
    assert met[(f"… below aiohttp's, {first}", 39)] is True
    assert met[(f"CPU per chunk, {second}", 41)] is False
    assert met[(f"… below aiohttp's, {second}", 41)] is None  # aiohttp was not measured there
    assert met[(f"TTFT bias, median, {first}", 2e-4)] is True
    assert met[(f"TTFT bias, median, {second}", 2e-3)] is False
    assert met[(f"TTFT bias, median, {MAIN[2]}", None)] is None
    assert met[(f"CPU per chunk: ahead of every peer, {first}", 39)] is True
    assert met[(f"TTFT bias, median: ahead of every peer, {first}", 2e-4)] is False
    assert met[("dispatch lateness p99 at 200 requests/s", 0.003)] is True


def test_the_page_shows_medians_with_their_range_and_what_failed() -> None:
    first = MAIN[0]
    cells = [cell("nbridge", first, cpu, 0.0003, number=n) for n, cpu in enumerate([31.04, 35, 30])]
    cells.append({**cell("aiperf", first, 0, 0), "error": "it | failed"})
    text = page.page(cells, [])
    assert "| **nbridge bench** | 31.0 (30.0 to 35.0) | +0.30 (+0.30 to +0.30) |" in text
    assert "| AIPerf | failed: it / failed |" in text
    assert "| dispatch lateness p99 at 200 requests/s | – | 5.00 ms | not measured |" in text
    assert "httpx" not in text


def test_clients_come_by_turns_and_what_is_measured_is_not_measured_again() -> None:
    found = list(study.plan(["nbridge", "raw"], 2, 1, [MAIN[0], ALL[-1]]))
    assert found == [
        ("nbridge", MAIN[0], 1), ("raw", MAIN[0], 1), ("nbridge", ALL[-1], 1), ("raw", ALL[-1], 1),
        ("lateness", None, 1),
        ("raw", MAIN[0], 2), ("nbridge", MAIN[0], 2), ("lateness", None, 2),
    ]  # fmt: skip
    assert study.todo_of(cell("raw", ALL[-1], 1, 1, number=1)) == ("raw", ALL[-1], 1)
    assert study.todo_of({"client": "lateness", "round": 2}) == ("lateness", None, 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--peers", "wrk"), "--peers wrk: known are vllm, guidellm, aiperf."),
        (("--only", "vllm"), "--only vllm: here are nbridge, raw"),
        (("--points", "2x1"), "--points 2x1: known are 32x1"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(words: tuple[str, str], told: str) -> None:
    argv = [sys.executable, "-m", "bench.studies.clients.study", *words]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    assert (done.returncode, told in " ".join(done.stderr.split())) == (2, True), done.stderr
    with pytest.raises(PlanError):
        study._points("2x1")


@pytest.mark.slow
def test_a_small_study_end_to_end(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bench.studies.clients.study", "--points", "1x1", "--rounds", "0"]
    argv += ["--results", str(tmp_path / "cells.jsonl"), "--publish", str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out" / "clients.json").read_text())
    cells = {one["client"]: one for one in document["cells"]}
    assert set(cells) == {"nbridge", "raw", "aiohttp", "aiohttp-uvloop", "httpx", "fasthttp"}
    for name, one in cells.items():
        assert "error" not in one, (name, one)
        assert one["requests"] == {"asked": 12, "ok": 12, "served": 12}, name
        assert one["ttft_bias"]["by"] == "request"
        assert one["ttft_bias"]["median_s"] > 0  # nothing is seen before it was sent
        assert one["client_cpu_us_per_chunk"] > 0 < one["server_cpu_us_per_chunk"]
        assert one["chunks"] == 12 * 64
    assert "## 1 user, 1 token a chunk, nothing else running" in (tmp_path / "out" / "README.md").read_text()
    again = subprocess.run([*argv, "--json"], capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)
    assert json.loads(again.stdout)["cells"] == document["cells"]  # nothing was left to measure
