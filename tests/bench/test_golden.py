"""The golden server against what it promises: its schedule, its turns, its faults, and its log."""

import json
import re
import signal
import socket
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import perf_counter as now
from typing import Any

import pytest
from golden import Golden, golden
from waiting import wait_for

from bench.client import stream
from bench.client.connection import Connection
from bench.client.pages import fetch, metrics
from bench.client.target import target_of
from bench.errors import PlanError
from bench.golden.answer import Answer, Step
from bench.golden.behaviour import Behaviours, parse, split
from bench.golden.dialects import DIALECTS
from bench.golden.turns import Turns
from monitoring.scrape.metrics import parse as parse_page
from monitoring.scrape.metrics import total

Nbridge = Callable[..., Any]
ASKED = {"prompt": "one two three", "max_tokens": 10, "stream_options": {"include_usage": True}}


def steps(words: str, **asked: Any) -> list[Step]:
    behaviour = parse(dict(split(words.split())), "the test")
    return list(Answer(behaviour, {**ASKED, **asked}, 1, "golden").steps())


def sends(words: str, **asked: Any) -> list[tuple[float, tuple[int, ...]]]:
    return [(round(step.due_s, 9), step.tokens) for step in steps(words, **asked) if step.tokens]


def test_tokens_leave_on_their_schedule() -> None:
    assert sends("ttft_s=0.2 gap_s=0.01", max_tokens=3) == [(0.2, (1,)), (0.21, (1,)), (0.22, (1,))]
    # an event leaves when the last of its tokens is there, a send when the last of its events is
    assert sends("ttft_s=0.2 gap_s=0.01 per_event=4") == [(0.2, (4,)), (0.24, (4,)), (0.26, (2,))]
    assert sends("ttft_s=0.2 gap_s=0.01 per_event=4 per_send=2") == [(0.2, (4, 4)), (0.22, (2,))]
    assert sends("ttft_s=0.2 gap_s=0.01 output_tokens=2 stall_s=1") == [(0.2, (1,)), (1.21, (1,))]
    assert sends("ttft_s=0.2 gap_s=0.1 halves=1", max_tokens=2) == [(0.202, (1,)), (0.302, (1,))]
    assert sends("ttft_s=0 gap_s=0.5 dialect=no-length", max_tokens=99)[-1] == (5.5, (1,))


@pytest.mark.parametrize(
    "words", ["", "per_event=4", "per_event=3 per_send=2", "output_tokens=4", "dialect=four-a-chunk"]
)
def test_a_request_occupies_its_place_for_its_service_time(words: str) -> None:
    behaviour = parse(split(words.split()), "the test")
    assert behaviour.service_s(10) == pytest.approx(steps(words)[-1].due_s)


def test_jitter_is_bounded_drawn_anew_and_the_same_every_time() -> None:
    waits = []
    for number in range(50):
        answer = Answer(parse({"jitter": "0.5"}, "the test"), ASKED, number, "golden")
        waits += [b - a for a, b in pairwise([step.due_s for step in answer.steps() if step.tokens])]
    assert (min(waits) >= 0.005, max(waits) <= 0.015) == (True, True)
    assert mean(waits) == pytest.approx(0.01, rel=0.1)
    assert sends("jitter=0.5 seed=7") == sends("jitter=0.5 seed=7") != sends("jitter=0.5 seed=8")


def test_a_share_of_the_requests_has_the_fault() -> None:
    some = parse({"then": "cut", "share": "0.25", "seed": "3"}, "the test")
    assert mean(some.faulty(number) for number in range(8000)) == pytest.approx(0.25, abs=0.02)
    assert [step.end for step in Answer(some.sound(), ASKED, 1, "m").steps()][-1] == "whole"


@pytest.mark.parametrize(
    ("then", "end", "tokens"),
    [("hang", "hang", 3), ("cut", "cut", 3), ("reset", "reset", 3), ("break_off", "broken off", 3),
     ("garbage", "whole", 10), ("no_done", "whole", 10)],
)  # fmt: skip
def test_a_fault_comes_after_so_many_events(then: str, end: str, tokens: int) -> None:
    found = steps(f"then={then} after=3")
    assert (found[-1].end, sum(sum(step.tokens) for step in found)) == (end, tokens)
    assert [step.due_s for step in found] == sorted(step.due_s for step in found)


def test_usage_stands_where_the_dialect_has_it_and_the_request_asks_for_it() -> None:
    def counts(words: str, **options: bool) -> list[int]:
        body = b"".join(step.data for step in steps(words, stream_options=options, max_tokens=3)).decode()
        return [int(count) for count in re.findall(r'"completion_tokens": (\d+)', body)]

    assert counts("dialect=vllm") == []
    assert counts("dialect=vllm", include_usage=True) == [3]
    assert counts("dialect=vllm", include_usage=True, continuous_usage_stats=True) == [1, 2, 3, 3]
    assert counts("usage=zeros", include_usage=True) == [0, 0, 3, 3]
    assert counts("usage=none", include_usage=True) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("per_evnt=2", "per_evnt is unknown. Did you mean per_event?"),
        ("ttft_s=-1", "ttft_s = -1: should be greater than or equal to 0"),
        ("ttft_s=nan", "ttft_s = nan: should be a finite number"),
        ("gap_s=soon", "gap_s = soon: should be a valid number"),
        ("then=explode", "then = explode: should be 'hang'"),
        ("share=2", "share = 2: should be less than or equal to 1"),
        ("dialect=klingon", "dialect = klingon: Known are plain, vllm"),
        ("per_event=0", "per_event = 0: should be greater than or equal to 1"),
        ("ttft_s", "ttft_s: expected KEY=VALUE. Did you mean ttft_s?"),
        ("ttft_s=1 ttft_s=2", "ttft_s is given twice: 1 and 2."),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, told: str) -> None:
    with pytest.raises(PlanError, match=re.escape(told)):
        parse(split(words.split()), "nbridge golden")


def test_a_models_name_goes_before_the_dialect_and_that_before_the_default() -> None:
    behaviours = Behaviours({"ttft_s": "3", "dialect": "vllm"})
    assert behaviours.of("m", None).ttft_s == 3
    assert behaviours.of("m?ttft_s=1", "strict").speaks is DIALECTS["strict"]
    assert behaviours.of("m?ttft_s=1&dialect=crlf", "strict").model_dump(include={"ttft_s", "dialect"}) == {
        "ttft_s": 1.0, "dialect": "crlf",
    }  # fmt: skip


class Clock:
    """A clock that jumps from one timer to the next."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_at(self, at_s: float, ring: Callable[[], None]) -> None:
        self.timers.append((at_s, ring))

    def run(self, late_s: float = 0.0) -> None:
        while self.timers:
            self.timers.sort(key=lambda timer: timer[0])
            at_s, ring = self.timers.pop(0)
            self.now_s = max(self.now_s, at_s + late_s)
            ring()


def begun(clock: Clock, turns: Turns, service_s: float, arrivals_s: list[float]) -> list[float]:
    """When each of some requests begins, each ending `service_s` after it began."""
    found = []

    def arrive(at_s: float) -> None:
        def begin(turn_s: float) -> None:
            found.append(turn_s)
            clock.call_at(turn_s + service_s, lambda: turns.end(turn_s + service_s))

        turns.ask(at_s, begin)

    for at_s in arrivals_s:
        clock.call_at(at_s, lambda at_s=at_s: arrive(at_s))  # type: ignore[misc]
    return found


@pytest.mark.parametrize("late_s", [0.0, 0.003])
def test_turns_follow_the_schedule_and_not_the_timers(late_s: float) -> None:
    clock = Clock()
    turns = Turns(2, None, now=lambda: clock.now_s, call_at=clock.call_at)
    found = begun(clock, turns, 1.0, [0.0] * 5 + [9.0])
    clock.run(late_s)
    assert found == [0.0, 0.0, 1.0, 1.0, 2.0, 9.0]
    assert (turns.running, len(turns.waiting)) == (0, 0)


@pytest.mark.parametrize("late_s", [0.0, 0.003])
def test_turns_begin_at_the_rate_and_no_faster(late_s: float) -> None:
    clock = Clock()
    turns = Turns(None, 10.0, now=lambda: clock.now_s, call_at=clock.call_at)
    found = begun(clock, turns, 5.0, [0.0] * 4 + [0.32, 2.0])
    clock.run(late_s)
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 2.0])


def test_who_waits_may_leave_and_a_full_queue_is_told() -> None:
    clock = Clock()
    turns = Turns(1, None, now=lambda: clock.now_s, call_at=clock.call_at)
    assert not turns.full(0)
    seen: list[str] = []
    turns.ask(0.0, lambda _: seen.append("first"))
    second = turns.ask(0.0, lambda _: seen.append("second"))
    turns.ask(0.0, lambda _: seen.append("third"))
    assert (turns.full(2), turns.full(3), turns.full(None)) == (True, False, False)
    turns.give_up(second)
    clock.now_s = 0.5
    turns.end(0.5)
    assert seen == ["first", "third"]


def ask(url: str, words: str = "", tokens: int = 8, timeout_s: float = 60.0) -> dict[str, Any]:
    connection = Connection(target_of(url))
    what = stream.request(
        connection.target, {"prompt": "one two", "max_tokens": tokens}, request_id="r", model=f"golden?{words}"
    )
    record = stream.complete(connection, what, scheduled_s=now(), timeout_s=timeout_s)
    connection.close()
    return record


def ask_at_once(url: str, requests: int, words: str = "") -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: records.append(ask(url, words))) for _ in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return records


def test_the_log_says_what_was_sent_and_never_before_it_was_due(server: Golden) -> None:
    ask(server.url, "ttft_s=0.03&gap_s=0.004&per_event=2", tokens=6)
    said = server.log()[-1]
    due_s = [0.03, 0.038, 0.046]
    assert [tokens for _, tokens in said["events"]] == [2, 2, 2]
    late = [sent_s - said["began_s"] - due for (sent_s, _), due in zip(said["events"], due_s, strict=True)]
    assert min(late) >= 0
    assert max(late) == pytest.approx(said["late_s"], abs=1e-6)
    assert (said["began_s"], said["tokens"], said["end"], said["blocked"]) == (said["received_s"], 6, "whole", 0)


def test_a_limit_makes_requests_wait_their_turn_and_capacity_is_exact(tmp_path: Path) -> None:
    with golden(tmp_path, "ttft_s=0.05", "gap_s=0.01", "--limit", "2") as server:
        assert {record["outcome"] for record in ask_at_once(server.url, 8)} == {"ok"}
        began = sorted(entry["began_s"] for entry in server.log())
        page = parse_page(metrics(target_of(server.url)) or "")
        log = server.log()
    # service: 0.05 + 7 × 0.01 s; two places, so each turn begins when the one before the last has ended
    assert [b - a for a, b in zip(began, began[2:], strict=False)] == pytest.approx([0.12] * 6, abs=1e-6)
    queued = sum(entry["began_s"] - entry["received_s"] for entry in log)
    assert total(page, "vllm:request_queue_time_seconds_sum") == pytest.approx(queued, abs=1e-6)
    assert total(page, "vllm:time_to_first_token_seconds_sum") == pytest.approx(
        sum(entry["events"][0][0] - entry["received_s"] for entry in log), abs=1e-6
    )
    assert total(page, "vllm:e2e_request_latency_seconds_count") == 8
    assert total(page, "vllm:generation_tokens_total") == total(page, "vllm:request_generation_tokens_sum") == 64
    assert total(page, "vllm:prompt_tokens_total") == 16
    assert total(page, "vllm:num_requests_running") == total(page, "vllm:num_requests_waiting") == 0


def test_a_rate_limit_spaces_turns(tmp_path: Path) -> None:
    with golden(tmp_path, "--limit-rps", "40") as server:
        ask_at_once(server.url, 8)
        began = sorted(entry["began_s"] for entry in server.log())
    assert [b - a for a, b in pairwise(began)] == pytest.approx([0.025] * 7, abs=1e-6)


def test_a_full_queue_refuses_with_what_to_do(tmp_path: Path) -> None:
    with golden(tmp_path, "ttft_s=0.3", "retry_after_s=2", "--limit", "1", "--queue-limit", "1") as server:
        records = ask_at_once(server.url, 6)
        ends = [entry["end"] for entry in server.log()]
    refused = [record for record in records if record["outcome"] == "rate_limited"]
    assert {record["outcome"] for record in records} == {"ok", "rate_limited"}
    assert {(record["http_status"], record["retry_after_s"], record["error"]) for record in refused} == {
        (429, 2.0, "The queue is full.")
    }
    assert (ends.count("refused"), ends.count("whole")) == (len(refused), 6 - len(refused))


def test_a_client_that_leaves_gives_its_place_free(tmp_path: Path) -> None:
    with golden(tmp_path, "--limit", "1") as server:
        assert ask(server.url, "then=hang&after=2", timeout_s=0.2)["outcome"] == "timeout"
        assert ask(server.url, "gap_s=9", timeout_s=0.2)["outcome"] == "timeout"
        wait_for(lambda: len(server.log()) == 2)
        assert ask(server.url)["outcome"] == "ok"
        page = parse_page(metrics(target_of(server.url)) or "")
        assert [(entry["end"], entry["tokens"]) for entry in server.log()] == [
            ("hang", 2), ("client left", 1), ("whole", 8),
        ]  # fmt: skip
    assert total(page, "vllm:request_success_total", finished_reason="abort") == 2
    assert total(page, "vllm:request_success_total", finished_reason="length") == 1


def test_words_in_a_models_name_that_mean_nothing_are_a_400(server: Golden) -> None:
    record = ask(server.url, "ttft=1")
    assert (record["outcome"], record["http_status"]) == ("http_error", 400)
    assert "ttft is unknown. Did you mean ttft_s?" in record["error"]


def test_what_is_no_request_is_a_400_and_the_server_goes_on(server: Golden) -> None:
    target = target_of(server.url)
    for sent in (b"hello\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]"):
        with socket.create_connection((target.host, target.port)) as raw:
            raw.sendall(sent)
            assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    assert fetch(target, "/health").status == 200
    assert fetch(target, "/nothing").status == 404


def test_what_is_under_way_when_it_is_stopped_is_logged(tmp_path: Path) -> None:
    with golden(tmp_path) as server:
        asking = threading.Thread(target=ask, args=(server.url, "ttft_s=60"))
        asking.start()
        page = target_of(server.url)
        wait_for(lambda: 'running{engine="0",model_name="golden"} 1.0' in (metrics(page) or ""))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 130
        asking.join()
        assert [entry["end"] for entry in server.log()] == ["server stopped"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["ttft=1"], 2, "ttft is unknown. Did you mean ttft_s?"),
        (["--limit-rps", "0"], 2, "--limit-rps 0: expected more than 0 requests per second."),
        (["--limit", "0"], 2, "--limit"),
        (["--api-key-env", "NOT_SET_ANYWHERE"], 2, "NOT_SET_ANYWHERE: the environment variable is not set"),
        (["--certificate", "{folder}/none.pem"], 2, "no PEM file with a certificate and its key"),
        (["--log", "{folder}/none/log.jsonl", "--port", "0"], 3, "none/log.jsonl cannot be written: No such file"),
        (["--port", "{taken}"], 3, "cannot be listened on"),
        (["--host", "203.0.113.9"], 3, "cannot be listened on"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(
    tmp_path: Path, nbridge: Nbridge, words: list[str], code: int, told: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        filled = [word.format(folder=tmp_path, taken=taken.getsockname()[1]) for word in words]
        answer = nbridge("golden", *filled, timeout_s=60)
    assert answer.returncode == code
    assert told in " ".join(answer.stderr.split())
    assert "Traceback" not in answer.stderr


def test_the_ready_line_is_a_document(tmp_path: Path) -> None:
    with golden(tmp_path, "gap_s=0.002") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert json.loads(fetch(target_of(server.url), "/v1/models").text)["data"][0]["id"] == "golden"
        assert server.log() == []
