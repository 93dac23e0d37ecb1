"""The pure parser: whatever way the bytes are cut into reads, the same response, and each event at its own read."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.client import framing
from bench.client.answer import answer
from bench.client.events import parse
from bench.client.framing import Framing

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


TRICKY = chunked(
    b": a comment\r\n\r\ndata: one\r\n\r\n",
    b"event: note\ndata:two\ndata:  lines\nid: 7\n\n",
    b"data: spread over ",
    b"two chunks\n",
    b"\ndata: 0\r\n\r\n",
    "data: {\"é\": \"0\\r\\n\\r\\n\"}\n\n".encode(),
    DONE,
    extension=b' ;name="a;b"',
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
        response = parse(reads(TRICKY, [cut]))
        assert (response.status, response.complete, response.error, response.trailing) == (200, True, None, None), cut
        assert [(e.data, e.name) for e in response.events] == TRICKY_EVENTS, cut


@given(cuts=st.lists(st.integers(1, len(TRICKY) - 1), max_size=40))
@example(cuts=list(range(len(TRICKY))))
def test_every_event_has_the_read_that_brought_its_last_byte(cuts: list[int]) -> None:
    parts = reads(TRICKY, cuts)
    response = parse(parts)
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
    framing = Framing()
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
        response = parse(reads(prefix + wire, cuts), closed=closed)
        answer(response.events or ())
        assert response.error is None or not response.complete


def test_content_length_ends_with_its_last_byte() -> None:
    body = event("a") + DONE
    wire = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    response = parse(reads(wire, [len(wire) - 1]))
    assert response.complete
    assert [e.time_s for e in response.events] == [0.0, 1.0]
    assert not parse(reads(wire[:-1], [])).complete
    assert (parse(reads(wire + b"HTTP", [])).trailing or b"").endswith(b"HTTP")


def test_a_body_without_length_ends_with_the_connection() -> None:
    wire = HEAD + b"\r\n" + event("a") + DONE
    assert not parse(reads(wire, [])).complete
    response = parse(reads(wire, []), closed=True)
    assert response.complete
    assert len(response.events) == 2


def test_an_early_close_is_an_error_and_keeps_what_came() -> None:
    wire = chunked(event("a"), event("b"))
    response = parse(reads(wire[:-9], []), closed=True)
    assert not response.complete
    assert response.error is not None
    assert "closed before" in response.error
    assert len(response.events) == 1


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (b"xyz\r\nwhat\r\n", "chunk size"),
        (b"-5\r\nwhat\r\n", "chunk size"),
        (b"0x5\r\nwhat\r\n", "chunk size"),
        (b"1_0\r\n", "chunk size"),
        (b"\r\n", "chunk size"),
        (b"3\r\nwhat is this\r\n", "after chunk data"),
        (b"f" * 20_000, "chunk size overflow"),
    ],
)
def test_broken_chunks_are_an_error_after_what_was_understood(broken: bytes, word: str) -> None:
    wire = chunked(event("a"))[:-5] + broken
    response = parse(reads(wire, []))
    assert response.error is not None
    assert word in response.error.lower()
    assert [json.loads(e.data)["choices"][0]["text"] for e in response.events or ()] == ["a"]


@pytest.mark.parametrize(
    "wire",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"],
)
def test_what_is_not_http_is_an_error(wire: bytes) -> None:
    response = parse(reads(wire, []))
    assert response.error is not None
    assert response.events is None


def test_interim_responses_are_passed_over() -> None:
    wire = b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(event("a"), DONE)
    for cut in range(1, len(wire)):
        response = parse(reads(wire, [cut]))
        assert (response.status, len(response.events), response.complete) == (200, 2, True)


def test_a_head_with_bare_line_feeds_is_read() -> None:
    head, body = chunked(event("a"), DONE).split(b"\r\n\r\n", 1)
    wire = head.replace(b"\r\n", b"\n") + b"\n\n" + body
    assert len(parse(reads(wire, [])).events or ()) == 2


@pytest.mark.parametrize("value", ["5\r\nContent-Length: 6", "²", "-1", "9" * 40])
def test_a_length_that_is_none_is_an_error(value: str) -> None:
    wire = f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello".encode("latin-1")
    response = parse(reads(wire, []))
    assert (response.complete, "Content-Length" in (response.error or "")) == (False, True)


def test_a_head_and_a_body_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "BODY_LIMIT_BYTES", 1000)
    head = Framing()
    assert head.feed(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000)
    body = Framing()
    assert not body.feed(HEAD + b"\r\n" + b"a" * 900)
    assert body.feed(b"a" * 200)
    assert "longer than" in (head.error or "") and "longer than" in (body.error or "")


def test_what_is_no_event_stream_has_no_events_and_what_reads_like_one_has() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
    for media in (b"text/plain", b"application/json", b""):
        body = b"\n" + event("a") + DONE
        found = parse(reads(plain % (media, len(body), body), []))
        assert len(found.events or ()) == 2 and found.notes == ("content_type",)
    assert parse(reads(plain % (b"application/json", 2, b"{}"), [])).events is None


def test_a_byte_order_mark_is_passed_over_wherever_it_is_cut() -> None:
    wire = chunked(b"\xef", b"\xbb\xbfdata: a\n\n", b"data: \xef\xbb\xbf\n\n")
    for cut in range(1, len(wire)):
        found = parse(reads(wire, [cut]))
        assert [e.data for e in found.events or ()] == [b"a", b"\xef\xbb\xbf"]
        assert found.notes == ("bom",)


def test_a_last_event_without_its_blank_line_counts_when_the_body_is_whole() -> None:
    assert [e.data for e in parse(reads(chunked(b"data: a\n\ndata: b\n"), [])).events] == [b"a", b"b"]
    assert [e.data for e in parse(reads(chunked(b"data: a\n\ndata: b"), [])).events] == [b"a", b"b"]
