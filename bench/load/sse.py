"""Reads of one HTTP connection → response head, body, server-sent events, and what they say about the tokens.

Pure: nothing here touches a socket or a clock. `Framing` is fed one socket read at a time and answers only "has the
response ended?" (the one question that must be answered while the stream runs); everything else is worked out from
what it kept once the response is over, so that no JSON is parsed between two reads.

The time of an event is the time of the read that brought its last byte (the end of its blank line).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

HEAD_LIMIT_BYTES = 64 * 1024
LINE_LIMIT_BYTES = 16 * 1024
PAUSE_EVENTS = 32

_IGNORED = re.compile(rb"[A-Za-z][\w-]*(:|$)|:")
_HEAD, _LENGTH, _CLOSE, _SIZE, _AFTER, _TRAILER, _DONE = range(7)


class Framing:
    """Where one HTTP/1.x response ends, found read by read (RFC 9112: chunked, content-length or until close).

    After the end: `status`, `headers` (lower-case names), `head_read` (index of the read that completed the head),
    `pieces` (index of the read, body bytes without framing), `complete`, `extra` (bytes after the end) and `error`
    (what broke the framing, or None).
    """

    __slots__ = (
        "_buffer",
        "_left",
        "_state",
        "complete",
        "error",
        "extra",
        "head_read",
        "headers",
        "pieces",
        "reads",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.head_read: int | None = None
        self.pieces: list[tuple[int, bytes]] = []
        self.reads = 0
        self.complete = False
        self.reusable = False
        self.extra = b""
        self.error: str | None = None
        self._state = _HEAD
        self._buffer = b""  # an unfinished head, chunk-size line or trailer line
        self._left = 0  # body bytes of this chunk or this response still to come

    def feed(self, data: bytes) -> bool:
        """Takes the bytes of one read; True when the response has ended (well, or with `error` set)."""
        index = self.reads
        self.reads += 1
        if self._state == _HEAD:
            rest = self._take_head(data, index)
            if not rest:
                return self._state == _DONE
            data = rest
        if self._state >= _SIZE and self._state != _DONE:
            self._take_chunks(data, index)
        elif self._state == _CLOSE:
            self.pieces.append((index, data))
        elif self._state == _LENGTH:
            body, data = data[: self._left], data[self._left :]
            self.pieces.append((index, body))
            self._left -= len(body)
            if not self._left:
                self._finish(data)
        elif self._state == _DONE:
            self.extra += data
        return self._state == _DONE

    def end(self) -> None:
        """Says that the peer closed the connection: the proper end of a close-delimited body, an early one else."""
        if self._state == _CLOSE:
            self._finish(b"")
            self.reusable = False
        elif self._state != _DONE:
            self._fail("the connection was closed before the response ended")

    def _finish(self, extra: bytes) -> None:
        self._state = _DONE
        self.complete = True
        self.extra = extra

    def _fail(self, why: str) -> None:
        self._state = _DONE
        self.error = why
        self.reusable = False

    def _take_head(self, data: bytes, index: int) -> bytes:
        """Collects the head; returns what follows it (b"" while it is not complete)."""
        self._buffer += data
        while True:
            ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := self._buffer.find(mark)) >= 0]
            if not ends:
                if len(self._buffer) > HEAD_LIMIT_BYTES:
                    self._fail(f"the response head is longer than {HEAD_LIMIT_BYTES} bytes")
                elif len(self._buffer) >= 5 and not self._buffer.startswith(b"HTTP/"):
                    self._fail(f"the answer is not HTTP: it begins with {self._buffer[:40]!r}")
                return b""
            at, length = min(ends)
            head, rest = self._buffer[:at], self._buffer[at + length :]
            self._buffer = b""
            if not self._read_head(head):
                return b""
            if self.status is not None and 100 <= self.status < 200 and self.status != 101:
                self._buffer, self.status = rest, None  # an interim response (100 Continue): the real one follows
                continue
            self.head_read = index
            self._choose_body(head, rest)
            return rest if self._state != _DONE else b""

    def _read_head(self, head: bytes) -> bool:
        first, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
        parts = first.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
            self._fail(f"the answer is not HTTP/1.x: its first line is {first[:80]!r}")
            return False
        self.status = int(parts[1])
        self.headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                self._fail(f"a response header has no colon: {line[:80]!r}")
                return False
            key, value = name.strip().lower(), value.strip()
            self.headers[key] = f"{self.headers[key]}, {value}" if key in self.headers else value
        return True

    def _choose_body(self, head: bytes, rest: bytes) -> None:
        connection = self.headers.get("connection", "").lower()
        self.reusable = "keep-alive" in connection if head.startswith(b"HTTP/1.0") else "close" not in connection
        length = self.headers.get("content-length")
        if self.status in (101, 204, 304):
            self._finish(rest)
        elif "transfer-encoding" in self.headers:
            coding = self.headers["transfer-encoding"].lower()
            if coding.rsplit(",", 1)[-1].strip() == "chunked":
                self._state = _SIZE
            else:
                self._fail(f"the transfer coding {coding!r} is not chunked")
        elif length is not None:
            values = {value.strip() for value in length.split(",")}
            if len(values) != 1 or not (text := values.pop()).isdecimal():
                self._fail(f"the content-length {length!r} is not a number")
                return
            self._left = int(text)
            self._state = _LENGTH
            if not self._left:
                self._finish(rest)
        else:
            self._state = _CLOSE
            self.reusable = False

    def _take_chunks(self, data: bytes, index: int) -> None:
        position, size = 0, len(data)
        while position < size:
            if self._left:
                piece = data[position : position + self._left]
                self.pieces.append((index, piece))
                self._left -= len(piece)
                position += len(piece)
                continue
            newline = data.find(b"\n", position)
            if newline < 0:
                self._buffer += data[position:]
                if len(self._buffer) > LINE_LIMIT_BYTES:
                    self._fail(f"a chunk header is longer than {LINE_LIMIT_BYTES} bytes")
                return
            line = (self._buffer + data[position:newline]).rstrip(b"\r")
            self._buffer = b""
            position = newline + 1
            self._take_line(line)
            if self._state == _DONE:
                self.extra = data[position:]
                return

    def _take_line(self, line: bytes) -> None:
        if self._state == _AFTER:
            if line:
                self._fail(f"a chunk is longer than its header says: {line[:40]!r} follows it")
            self._state = _SIZE if not line else _DONE
        elif self._state == _TRAILER:
            if not line:
                self._finish(b"")
        else:
            digits = line.partition(b";")[0].strip()
            # int() also takes signs, underscores and "0x", which are not chunk sizes
            if not digits or digits.strip(b"0123456789abcdefABCDEF") or len(digits) > 15:
                self._fail(f"a chunk size is not a hexadecimal number: {line[:40]!r}")
                return
            self._left = int(digits, 16)
            self._state = _AFTER if self._left else _TRAILER


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: `read` is the index and `time_s` the time of the read that completed it."""

    read: int
    time_s: float
    data: bytes
    name: str = "message"


@dataclass(frozen=True, slots=True)
class Response:
    """One response as far as it was understood; `body` is the body without its framing."""

    status: int | None
    headers: dict[str, str]
    head_s: float | None
    body: bytes
    events: tuple[Event, ...]
    complete: bool
    error: str | None
    extra: bytes


def parse(reads: Sequence[tuple[float, bytes]], *, closed: bool = False) -> Response:
    """The response in a list of (seconds, bytes) reads; `closed` says that the peer closed after the last one."""
    framing = Framing()
    for _, data in reads:
        framing.feed(data)
    if closed:
        framing.end()
    return response(framing, [time_s for time_s, _ in reads])


def response(framing: Framing, times_s: Sequence[float]) -> Response:
    """What a framing was fed, as a Response; `times_s` are the times of its reads."""
    is_sse = framing.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"
    return Response(
        status=framing.status,
        headers=framing.headers,
        head_s=None if framing.head_read is None else times_s[framing.head_read],
        body=b"".join(piece for _, piece in framing.pieces),
        events=events(framing.pieces, times_s, complete=framing.complete) if is_sse else (),
        complete=framing.complete,
        error=framing.error,
        extra=framing.extra,
    )


def events(
    pieces: Sequence[tuple[int, bytes]], times_s: Sequence[float], *, complete: bool = True
) -> tuple[Event, ...]:
    """The server-sent events in body pieces (index of the read, bytes), each with the read that completed it.

    An event without its blank line is taken at the end of a `complete` body (servers exist that leave it out) and
    dropped from a body that was cut.
    """
    found: list[Event] = []
    lines: list[bytes] = []
    name = "message"
    rest = b""
    read = 0
    for read, piece in pieces:
        *whole, rest = (rest + piece if rest else piece).split(b"\n")
        for raw in whole:
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if not line:
                if lines:
                    found.append(Event(read, times_s[read], b"\n".join(lines), name))
                lines, name = [], "message"
            elif line.startswith(b"data:"):
                lines.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode("utf-8", "replace")
            elif line == b"data":
                lines.append(b"")
            elif not _IGNORED.match(line):
                # Not a field at all (a comment has an empty name): kept as data, so that the garbage is seen.
                lines.append(line)
    if complete and rest.strip():
        last = rest.rstrip(b"\r")
        lines.append(last[5:].lstrip() if last.startswith(b"data:") else last)
    if complete and lines:
        found.append(Event(read, times_s[read], b"\n".join(lines), name))
    return tuple(found)


@dataclass(slots=True)
class Answer:
    """What a stream of completion events says: content chunks, the server's token counts, and how it ended.

    `chunk_s` (absolute seconds) and `chunk_tokens` have one entry per content chunk: an event that brings at least
    one token. `chunk_tokens` is None when the server does not say how many and one each is not right either.
    """

    chunk_s: list[float] = field(default_factory=list)
    chunk_tokens: list[int] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    coalesced_reads: int = 0
    finished: bool = False
    done: bool = False
    error_kind: str | None = None
    error: str | None = None


def answer(stream: Sequence[Event], pause: Callable[[], None] | None = None) -> Answer:
    """Reads OpenAI completion or chat-completion events up to [DONE], the first error event or the first garbage.

    `pause` is called now and then, so that a long answer does not keep others waiting.
    """
    result = Answer()
    parsed: list[tuple[Event, dict[str, Any]]] = []
    for number, event in enumerate(stream, 1):
        if pause is not None and number % PAUSE_EVENTS == 0:
            pause()
        if result.done:
            result.error_kind, result.error = "garbage", f"the stream goes on after [DONE]: {event.data[:80]!r}"
            break
        if event.data.strip() == b"[DONE]":
            result.done = True
            continue
        document = _document(event)
        if document is None:
            result.error_kind = "garbage"
            result.error = f"an event is not a JSON object: {event.data[:120].decode('utf-8', 'replace')!r}"
            break
        if (message := error_message(document)) is not None or event.name == "error":
            result.error_kind = "stream_error"
            result.error = message or event.data[:500].decode("utf-8", "replace")
            break
        parsed.append((event, document))
    _read_usage(result, parsed)
    _read_chunks(result, parsed)
    return result


def error_message(document: object) -> str | None:
    """The message of an error body in OpenAI's shape (or FastAPI's, or vLLM's older one); None if it is none."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if error is None and document.get("object") == "error":
        error = document
    if error is None and "choices" not in document:
        error = document.get("detail")
    if not error:
        return None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return error if isinstance(error, str) else json.dumps(error)


def _document(event: Event) -> dict[str, Any] | None:
    try:
        document = json.loads(event.data.decode())
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_usage(result: Answer, parsed: list[tuple[Event, dict[str, Any]]]) -> None:
    for _, document in parsed:
        usage = document.get("usage")
        if not isinstance(usage, dict):
            continue
        result.prompt_tokens = _count(usage.get("prompt_tokens"), result.prompt_tokens)
        result.output_tokens = _count(usage.get("completion_tokens"), result.output_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            result.cached_tokens = _count(details.get("cached_tokens"), result.cached_tokens)


def _read_chunks(result: Answer, parsed: list[tuple[Event, dict[str, Any]]]) -> None:
    choosing = [
        (event, choices, _used(document))
        for event, document in parsed
        if isinstance(choices := document.get("choices"), list) and choices
    ]
    speaking = [used for _, choices, used in choosing if _speaks(choices)]
    continuous = None not in speaking and any(used is not None for _, _, used in choosing)
    chunks: list[Event] = []
    growth: list[int] = []
    before = 0
    for event, choices, used in choosing:
        for choice in choices:
            reason = choice.get("finish_reason") if isinstance(choice, dict) else None
            if reason in ("abort", "error") and result.error_kind is None:
                result.error_kind = "stream_error"
                result.error = f"the server ended the answer with finish_reason {reason!r}"
            result.finished = result.finished or reason is not None
        if continuous:
            if used is None or used <= before:
                continue
            growth.append(used - before)
            before = used
        elif not _speaks(choices):
            continue
        chunks.append(event)
    result.chunk_s = [event.time_s for event in chunks]
    per_read = Counter(event.read for event in chunks)
    result.coalesced_reads = sum(1 for count in per_read.values() if count > 1)
    if continuous:
        result.chunk_tokens = growth
    elif result.output_tokens == len(chunks):
        result.chunk_tokens = [1] * len(chunks)


def _speaks(choices: list[Any]) -> bool:
    """Whether any choice brings visible content: text, content, reasoning or a tool call."""
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text"):
            return True
        if isinstance(delta, dict) and any(
            delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls")
        ):
            return True
    return False


def _used(document: dict[str, Any]) -> int | None:
    usage = document.get("usage")
    return _count(usage.get("completion_tokens"), None) if isinstance(usage, dict) else None


def _count(value: object, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
