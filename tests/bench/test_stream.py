"""The streaming client against the golden server: what it stamps is compared with what the server says it sent."""

import json
import socket
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from asking import MODEL, ask, assert_in_order, truth
from golden import Golden
from waiting import wait_for

from bench.client import stream
from bench.client.pages import fetch, metrics, models
from bench.client.target import target_of


@pytest.mark.parametrize("body", ["chunked", "extended", "length", "close"])
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_every_chunk_is_found_and_none_before_the_server_sent_it(server: Golden, body: str, endpoint: str) -> None:
    record = ask(server, f"body={body}", endpoint=endpoint)
    said = truth(server)
    assert (record["outcome"], record["error_kind"], record["http_status"]) == ("ok", None, 200)
    assert (record["output_tokens"], record["chunk_tokens"], record["cached_tokens"]) == (8, [1] * 8, 2)
    assert record["prompt_tokens"] == 3
    assert_in_order(record)
    assert record["sent"] <= said["received_s"]
    assert len(record["chunk_s"]) == len(said["events"]) == 8
    assert all(seen >= sent for seen, (sent, _) in zip(record["chunk_s"], said["events"], strict=True))


def test_the_request_says_what_was_asked(server: Golden) -> None:
    ask(server, prompt=[5, 6, 7], max_tokens=2)
    said = truth(server)
    assert (said["method"], said["path"]) == ("POST", "/v1/completions")
    assert said["body"] == {
        "model": MODEL,
        "prompt": [5, 6, 7],
        "max_tokens": 2,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_a_path_prefix_and_a_trailing_v1_are_understood(server: Golden) -> None:
    assert ask(f"{server.url}/deep/er/")["outcome"] == "ok"
    assert truth(server)["path"] == "/deep/er/v1/completions"
    assert ask(f"{server.url}/deep/v1")["outcome"] == "ok"
    assert truth(server)["path"] == "/deep/v1/completions"


def test_gaps_at_four_tokens_per_event_are_the_servers_own(server: Golden) -> None:
    def agree() -> bool:
        record = ask(server, "per_event=4&gap_s=0.005", max_tokens=32)
        sent = [time for time, _ in truth(server)["events"]]
        assert record["chunk_tokens"] == [4] * 8
        theirs, ours = ([b - a for a, b in pairwise(times)] for times in (sent, record["chunk_s"]))
        # the whole span has no room for error but the delay of its two ends
        spans = record["last_token"] - record["first_token"], sent[-1] - sent[0]
        return median(ours) == pytest.approx(median(theirs), rel=0.25) and spans[0] == pytest.approx(spans[1], abs=0.05)

    wait_for(agree)  # other work on the machine may wake the client late for one answer; a client at fault always is


def test_events_that_share_a_read_are_counted(server: Golden) -> None:
    def four_reads() -> dict[str, Any] | None:
        record = ask(server, "per_send=4&gap_s=0.025", max_tokens=16)
        assert len(record["chunk_s"]) == 16
        assert record["coalesced_reads"] == len(set(record["chunk_s"]))  # a client that wakes late has fewer reads
        return record if len(set(record["chunk_s"])) == 4 else None

    assert wait_for(four_reads)


def test_an_event_in_two_sends_is_stamped_by_its_second_half(server: Golden) -> None:
    record = ask(server, "halves=1")
    assert record["outcome"] == "ok"
    assert all(seen >= sent for seen, (sent, _) in zip(record["chunk_s"], truth(server)["events"], strict=True))


@pytest.mark.parametrize(("usage", "tokens"), [("chunk", [1] * 8), ("end", [1] * 8), ("none", None)])
def test_token_counts_are_the_servers(server: Golden, usage: str, tokens: list[int] | None) -> None:
    record = ask(server, f"usage={usage}")
    assert record["outcome"] == "ok"
    assert record["chunk_tokens"] == tokens
    assert record["output_tokens"] == (None if usage == "none" else 8)


@pytest.mark.parametrize(
    ("options", "outcome", "kind", "chunks", "words"),
    [
        ("then=cut&after=3", "protocol_error", "early_close", 3, "closed before"),
        ("then=reset&after=3", "connection_error", "reset", None, ""),
        ("then=bad_chunk&after=3", "protocol_error", "bad_framing", 3, "chunk size"),
        ("then=garbage&after=3", "protocol_error", "garbage", 3, "broken"),
        ("then=error_event&after=3", "http_error", "stream_error", 3, "the engine fell over"),
        ("then=trailing", "protocol_error", "trailing_garbage", 8, "what?"),
        ("then=plain", "protocol_error", "not_sse", 0, "all at once"),
        ("then=redirect", "http_error", "redirect", 0, "http://elsewhere"),
        ("then=cut&after=0&body=close", "protocol_error", "early_close", 0, "[DONE]"),
        ("status=500", "http_error", "http_500", 0, "status 500 as asked"),
        ("status=429", "rate_limited", "http_429", 0, "status 429 as asked"),
        ("status=404", "http_error", "http_404", 0, "status 404 as asked"),
    ],
)
def test_each_failure_has_its_outcome(
    server: Golden, options: str, outcome: str, kind: str, chunks: int | None, words: str
) -> None:
    record = ask(server, options)
    assert (record["outcome"], record["error_kind"]) == (outcome, kind)
    assert words in record["error"]
    assert chunks is None or len(record["chunk_s"]) == chunks
    assert record["ended"] >= record["sent"]
    assert_in_order(record)
    assert json.loads(json.dumps(record)) == record


def test_a_finish_reason_and_a_clean_end_are_an_answer(server: Golden) -> None:
    record = ask(server, "then=no_done")
    assert (record["outcome"], record["notes"], record["finish_reason"]) == ("ok", ["no_done"], "length")


def test_a_done_alone_is_how_an_answer_is_broken_off(server: Golden) -> None:
    """What llama-cpp-python sends when the next request comes; a server that never gives a reason is another matter."""
    for after, chunks in ((0, 0), (3, 3)):
        record = ask(server, f"then=break_off&after={after}")
        assert (record["outcome"], record["error_kind"], len(record["chunk_s"])) == (
            "protocol_error",
            "early_close",
            chunks,
        )
        assert "broke the answer off" in record["error"]


def test_a_hanging_server_is_a_timeout_with_what_came(server: Golden) -> None:
    record = ask(server, "then=hang&after=3", timeout_s=1)
    assert (record["outcome"], record["error_kind"], len(record["chunk_s"])) == ("timeout", "deadline", 3)
    assert record["ended"] - record["sent"] >= 0.99


def test_the_timeout_is_for_the_whole_request_and_not_for_each_read(server: Golden) -> None:
    record = ask(server, "gap_s=0.1", max_tokens=200, timeout_s=1)
    assert record["outcome"] == "timeout"
    assert 1 <= len(record["chunk_s"]) <= 11


def test_metrics_and_models(server: Golden) -> None:
    target = target_of(server.url)
    text = metrics(target)
    assert text is not None
    assert "vllm:generation_tokens_total" in text
    assert [entry["id"] for entry in models(fetch(target, "/v1/models").document())] == ["golden"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = target_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert metrics(nobody, timeout_s=0.1) is None
        with pytest.raises(OSError, match="/v1/models"):
            fetch(nobody, "/v1/models", timeout_s=0.1)


def test_prompts_that_do_not_fit_the_endpoint_are_refused() -> None:
    target = target_of("http://host")
    with pytest.raises(ValueError, match="chat"):
        stream.request(target, {"prompt": [1], "max_tokens": 1}, request_id="r", model="m", endpoint="chat")
    with pytest.raises(ValueError, match="prompt"):
        stream.request(target, {"messages": [], "max_tokens": 1}, request_id="r", model="m")
