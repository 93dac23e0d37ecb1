"""The pure parser: whatever way the bytes are cut into reads, the same response, and each event at its own read."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.load import sse

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def reads(wire: bytes, cuts: list[int]) -> list[tuple[float, bytes]]:
    """The wire cut at these places; read number n returns at second n."""
    edges = sorted({0, len(wire), *cuts})
    return [(float(n), wire[a:b]) for n, (a, b) in enumerate(pairwise(edges))]


def event(text: str = "", tokens: int | None = None, finish: str | None = None, **more: object) -> bytes:
    document = {"choices": [{"text": text, "finish_reason": finish}], **more}
    if tokens is not None:
        document["usage"] = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}
    return f"data: {json.dumps(document)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'


def answer_of(*events: bytes) -> sse.Answer:
    wire = chunked(*events)
    return sse.answer(sse.parse([(float(n), part) for n, (_, part) in enumerate(reads(wire, []))]).events)


TRICKY = chunked(
    b": a comment\r\n\r\ndata: one\r\n\r\n",
    b"event: note\ndata:two\ndata:  lines\nid: 7\n\n",
    b"data: spread over ",
    b"two chunks\n",
    b"\ndata: 0\r\n\r\n",
    "data: {\"é\": \"0\\r\\n\\r\\n\"}\n\n".encode(),
    DONE,
    extension=b' ; name="a;b"',
    trailer=b"X-Trailer: yes\r\n",
)  # fmt: skip
TRICKY_EVENTS = [
    (b"one", "message"),
    (b"two\n lines", "note"),
    (b"spread over two chunks", "message"),
    (b"0", "message"),
    ('{"é": "0\\r\\n\\r\\n"}'.encode(), "message"),
    (b"[DONE]", "message"),
]


def test_a_cut_anywhere_changes_nothing() -> None:
    for cut in range(1, len(TRICKY)):
        response = sse.parse(reads(TRICKY, [cut]))
        assert (response.status, response.complete, response.error, response.extra) == (200, True, None, b""), cut
        assert [(e.data, e.name) for e in response.events] == TRICKY_EVENTS, cut


@given(cuts=st.lists(st.integers(1, len(TRICKY) - 1), max_size=40))
@example(cuts=list(range(len(TRICKY))))
def test_every_event_has_the_read_that_brought_its_last_byte(cuts: list[int]) -> None:
    parts = reads(TRICKY, cuts)
    response = sse.parse(parts)
    assert [(e.data, e.name) for e in response.events] == TRICKY_EVENTS
    # where an event's last byte stands on the wire, worked out from the wire itself
    ends = [TRICKY.index(mark) + len(mark) - 1 for mark in (b"one\r\n\r\n", b"7\n\n", b"\r\n\ndata: 0")]
    ends[2] = TRICKY.index(b"\ndata: 0")
    for end, found in zip(ends, response.events, strict=False):
        assert found.time_s == next(t for t, part in parts if (end := end - len(part)) < 0)
    assert response.head_s == next(
        t for t, _ in parts if TRICKY.index(b"\r\n\r\n") + 4 <= sum(len(p) for u, p in parts if u <= t)
    )


@given(cuts=st.lists(st.integers(1, len(TRICKY) - 1), max_size=40))
def test_the_end_is_seen_at_the_last_byte_and_not_before(cuts: list[int]) -> None:
    framing = sse.Framing()
    ended = [framing.feed(part) for _, part in reads(TRICKY, cuts)]
    assert ended == [False] * (len(ended) - 1) + [True]


@given(wire=st.binary(max_size=400), cuts=st.lists(st.integers(1, 399), max_size=10), closed=st.booleans())
def test_no_bytes_break_the_parser(wire: bytes, cuts: list[int], closed: bool) -> None:
    for prefix in (
        b"",
        HEAD + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Content-Length: 90\r\n\r\n",
    ):
        response = sse.parse(reads(prefix + wire, cuts), closed=closed)
        sse.answer(response.events)
        assert response.error is None or not response.complete


def test_content_length_ends_with_its_last_byte() -> None:
    body = event("a") + DONE
    wire = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    response = sse.parse(reads(wire, [len(wire) - 1]))
    assert response.complete
    assert [e.time_s for e in response.events] == [0.0, 1.0]
    assert not sse.parse(reads(wire[:-1], [])).complete
    assert sse.parse(reads(wire + b"HTTP", [])).extra == b"HTTP"


def test_a_body_without_length_ends_with_the_connection() -> None:
    wire = HEAD + b"\r\n" + event("a") + DONE
    assert not sse.parse(reads(wire, [])).complete
    response = sse.parse(reads(wire, []), closed=True)
    assert response.complete
    assert len(response.events) == 2


def test_an_early_close_is_an_error_and_keeps_what_came() -> None:
    wire = chunked(event("a"), event("b"))
    response = sse.parse(reads(wire[:-9], []), closed=True)
    assert not response.complete
    assert response.error is not None
    assert "closed before" in response.error
    assert len(response.events) == 1


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (b"xyz\r\nwhat\r\n", "hexadecimal"),
        (b"-5\r\nwhat\r\n", "hexadecimal"),
        (b"0x5\r\nwhat\r\n", "hexadecimal"),
        (b"1_0\r\n", "hexadecimal"),
        (b"\r\n", "hexadecimal"),
        (b"3\r\nwhat is this\r\n", "longer than its header"),
        (b"f" * 20_000, "longer than"),
    ],
)
def test_broken_chunks_are_an_error_after_what_was_understood(broken: bytes, word: str) -> None:
    wire = chunked(event("a"))[:-5] + broken
    response = sse.parse(reads(wire, []))
    assert response.error is not None
    assert word in response.error
    assert [json.loads(e.data)["choices"][0]["text"] for e in response.events] == ["a"]


@pytest.mark.parametrize(
    "wire",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"],
)
def test_what_is_not_http_is_an_error(wire: bytes) -> None:
    response = sse.parse(reads(wire, []))
    assert response.error is not None
    assert response.events == ()


def test_interim_responses_are_passed_over() -> None:
    wire = b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(event("a"), DONE)
    for cut in range(1, len(wire)):
        response = sse.parse(reads(wire, [cut]))
        assert (response.status, len(response.events), response.complete) == (200, 2, True)


def test_bare_line_feeds_work_throughout() -> None:
    wire = chunked(event("a"), DONE).replace(b"\r\n", b"\n")
    assert len(sse.parse(reads(wire, [])).events) == 2


def test_conflicting_lengths_are_an_error_and_equal_ones_are_not() -> None:
    for values, ok in (
        ("5\r\nContent-Length: 5", True),
        ("5\r\nContent-Length: 6", False),
        ("²", False),
        ("-1", False),
    ):
        wire = f"HTTP/1.1 200 OK\r\nContent-Length: {values}\r\n\r\nhello".encode("latin-1")
        assert sse.parse(reads(wire, [])).complete is ok


def test_a_last_event_without_its_blank_line_counts_when_the_body_is_whole() -> None:
    assert [e.data for e in sse.parse(reads(chunked(b"data: a\n\ndata: b\n"), [])).events] == [b"a", b"b"]
    assert [e.data for e in sse.parse(reads(chunked(b"data: a\n\ndata: b"), [])).events] == [b"a", b"b"]


def test_chunks_and_tokens_by_continuous_usage() -> None:
    """Growth decides: a role or finish event without a new token is no chunk, a token without visible text is one."""
    answer = answer_of(
        event("", 0), event("a", 1), event("", 3), event("bc", 5), event("", 5, finish="stop"), USAGE, DONE
    )
    assert answer.chunk_tokens == [1, 2, 2]
    assert len(answer.chunk_s) == 3
    assert (answer.finished, answer.done, answer.error_kind) == (True, True, None)
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (3, 2, None)


def test_chunks_by_text_where_usage_comes_at_the_end() -> None:
    answer = answer_of(event(""), event("a"), event("b"), event("", finish="stop"), USAGE, DONE)
    assert (len(answer.chunk_s), answer.chunk_tokens) == (2, [1, 1])


def test_tokens_per_chunk_are_unknown_when_nothing_says_them() -> None:
    answer = answer_of(event("a bc"), event("", finish="stop"), USAGE, DONE)
    assert (len(answer.chunk_s), answer.chunk_tokens, answer.output_tokens) == (1, None, 2)
    answer = answer_of(event("a"), event("b", finish="stop"), DONE)
    assert (len(answer.chunk_s), answer.chunk_tokens, answer.output_tokens) == (2, None, None)


@pytest.mark.parametrize(
    "delta",
    [{"content": "a"}, {"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}],
)
def test_reasoning_and_tool_calls_are_content(delta: dict) -> None:
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    said = {"choices": [{"delta": delta}]}
    answer = answer_of(*(f"data: {json.dumps(d)}\n\n".encode() for d in (role, said)))
    assert len(answer.chunk_s) == 1


def test_cached_tokens_come_from_the_usage_details() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    answer = answer_of(event("a", 1), f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode(), DONE)
    assert (answer.prompt_tokens, answer.cached_tokens) == (9, 8)


def test_reads_with_several_chunks_are_counted() -> None:
    wire = chunked(event("a", 1), event("b", 2), event("c", 3), event("d", 4, finish="stop"), DONE)
    second = wire.index(b'"c"')
    answer = sse.answer(sse.parse(reads(wire, [second])).events)
    assert answer.coalesced_reads == 2
    assert answer.chunk_s == [0.0, 0.0, 1.0, 1.0]


def test_an_error_in_the_stream_ends_the_answer_and_keeps_the_chunks() -> None:
    broken = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    answer = answer_of(event("a", 1), broken)
    assert (answer.error_kind, answer.error, len(answer.chunk_s)) == ("stream_error", "out of memory", 1)


@pytest.mark.parametrize("data", [b"data: {broken\n\n", b"data: 7\n\n", b"<html>\n\n", b"data: \xff\xfe\n\n"])
def test_garbage_in_the_stream_is_named(data: bytes) -> None:
    answer = answer_of(event("a", 1), data, DONE)
    assert (answer.error_kind, len(answer.chunk_s), answer.done) == ("garbage", 1, False)


def test_an_aborted_answer_is_an_error() -> None:
    assert answer_of(event("a", 1), event("", 1, finish="abort"), DONE).error_kind == "stream_error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"error": "flat"}, "flat"),
        ({"object": "error", "message": "old vLLM"}, "old vLLM"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"msg": "field required"}]}, '[{"msg": "field required"}]'),
        ({"choices": []}, None),
        ([1], None),
    ],
)
def test_error_messages_of_many_servers(body: object, message: str | None) -> None:
    assert sse.error_message(body) == message
