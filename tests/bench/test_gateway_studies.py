"""The soak and the overhead of a door, worked out by hand."""

from typing import Any

import pytest

from bench.studies.clients.seen import Answer, read_stream
from bench.studies.gateway.overhead import goals, summary
from bench.studies.gateway.overhead import table as overhead_table
from bench.studies.gateway.soak import Process, growth, problems, role_of, table

MIB = 2**20


def test_growth_is_from_behind_the_warm_up_to_the_end() -> None:
    # A hundred seconds: the first 20 do not count; 20 to 30 against 90 to 100.
    early = [(float(at), 50 * MIB) for at in range(0, 20, 2)]
    middle = [(float(at), 100 * MIB) for at in range(20, 90, 2)]
    late = [(90.0, 104 * MIB), (94.0, 104 * MIB), (98.0, 400 * MIB)]
    assert growth(Process("x", 1, (*early, *middle, *late)), 100) == pytest.approx(0.04)
    assert growth(Process("x", 1, tuple(early)), 100) is None  # it ended


@pytest.mark.parametrize(
    ("name", "command", "role"),
    [
        ("haproxy", ["haproxy", "-W", "-f", "x"], "HAProxy"),
        ("python", ["python", "-m", "gateway.agent.process", "data"], "agent"),
        ("python", ["python", "-m", "nbridge", "gateway", "run"], "nbridge gateway"),
        ("VLLM::EngineCore", ["VLLM::EngineCore"], "engine core"),
        ("python", ["python", "-m", "vllm.entrypoints.cli.main", "serve"], "API server"),
        ("python", ["python", "-I", "-S", "/x/warden.py", "5"], "warden"),
        ("sleep", ["sleep", "1"], "sleep"),
    ],
)
def test_processes_have_roles(name: str, command: list[str], role: str) -> None:
    assert role_of(name, command) == role


def test_a_soak_says_what_it_did_not_show() -> None:
    requests = {"count": 900, "per_minute": 900.0, "failed": 1, "why": {"failed: HTTP 503": 1}}
    requests |= {"first_piece_p50_s": 0.1, "first_piece_p99_s": None}
    one = {"role": "agent", "pid": 7, "first_mib": 50.0, "last_mib": 60.0, "most_mib": 61.0, "growth": 0.2}
    document: dict[str, Any] = {"load": {"minutes": 1.0}, "requests": requests, "retried": 0, "processes": [one]}
    document["ejections"] = ["a is out: hangs"]
    assert problems(document) == [
        "1 of 900 requests failed: {'failed: HTTP 503': 1}",
        "900 requests a minute are fewer than 1000",
        "agent grew by 20.0%",
    ]
    assert "| agent | 50.0 | 60.0 | 61.0 | +20.0% |" in table(document)
    assert "p50 100 ms, p99 –" in table(document)
    assert "- out: a is out: hangs" in table(document)
    well = {**requests, "failed": 0, "per_minute": 1200.0}
    assert problems({**document, "requests": well, "processes": [{**one, "growth": 0.01}]}) == []
    assert problems({**document, "requests": well, "processes": [{**one, "growth": None}]}) == [
        "agent (7) was not there all the time"
    ]


def cell(
    door: str, number: int, p50_s: float, p99_s: float | None, rate: float, cpu_us: float | None
) -> dict[str, object]:
    bias = {"median_s": p50_s, "p99_s": p99_s}
    return {"load": "paced", "door": door, "round": number, "lost": 0, "beyond_server_s": bias, "chunks_per_s": rate,
            "door_cpu_us_per_chunk": cpu_us}  # fmt: skip


def test_what_a_door_adds_is_the_difference_in_the_same_round() -> None:
    cells = [
        cell("direct", 1, 0.001, 0.004, 1000, None),
        cell("gateway", 1, 0.0015, 0.006, 950, 40.0),
        cell("direct", 2, 0.010, 0.030, 800, None),  # a bad moment for both
        cell("gateway", 2, 0.0107, None, 800, 44.0),
        cell("gateway", 3, 9.0, 9.0, 1, 900.0),  # nothing to compare it with
        {"load": "paced", "door": "direct", "round": 3, "error": "it did not come up"},
    ]
    direct, ours = summary(cells)
    assert (direct["door"], direct["share_of_direct"], direct["cpu_us_per_chunk"]) == ("direct", 1.0, None)
    assert ours["added_p50_s"] == pytest.approx(0.0006)  # 0.5 and 0.7 ms
    assert ours["added_p99_s"] == pytest.approx(0.002)
    assert ours["share_of_direct"] == pytest.approx(0.975)
    assert ours["cpu_us_per_chunk"] == 44.0
    text = overhead_table({"summary": [direct, ours]})
    assert "| paced | gateway | +0.60 ms | +2.00 ms | 800 | 98% | 44 | 0 |" in text
    assert "| paced | direct | – | – | 900 | 100% | – | 0 |" in text


def test_goals_are_said_whether_reached_or_not() -> None:
    row = {"load": "paced", "door": "gateway", "added_p50_s": 0.0004, "added_p99_s": 0.009}
    full = {"load": "full", "door": "gateway", "share_of_direct": 0.95, "cpu_us_per_chunk": 10.0}
    peer = {"load": "full", "door": "litellm", "share_of_direct": 0.1, "cpu_us_per_chunk": 450.0}
    assert goals([row, full, peer]) == [
        "added at 64 users, p50 ≤ 1 ms: yes",
        "added at 64 users, p99 ≤ 5 ms: NO",
        "≥ 90 % of the direct chunks/s: yes",
        "chunks per core beside LiteLLM: 45.0 times (≥ 10 wanted)",
    ]
    assert goals([])[0] == "added at 64 users, p50 ≤ 1 ms: not measured"


def test_a_proxys_answer_is_read_without_its_usage() -> None:
    reads = [
        (1.5, b'data: {"choices": [{"text": ""}]}\n\n'),  # some send an empty piece first
        (2.0, b'data: {"choices": [{"text": "a"}]}\n\n'),
        (3.0, b'data: {"choices": [{"text": "b"}]}\n\ndata: [DONE]\n\n'),
    ]
    found = read_stream("r1", Answer(1.0, reads, complete=True))
    assert (found["ok"], found["ttft_s"], found["decode_s"], found["tokens_after_first"]) == (True, 1.0, 1.0, 1)
