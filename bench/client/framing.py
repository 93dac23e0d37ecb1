"""Reads of one HTTP connection → status, headers and body of a response; the bytes are framed by llhttp (httptools).

`Framing` is fed one socket read at a time and answers only "has the response ended?", the one question that must be
answered while a stream runs. It keeps which read brought which bytes; what they say is worked out once the response is
over, so that no JSON is parsed between two reads. Pure: nothing here touches a socket or a clock.
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 2**30  # hidden states of many prompts are long; what never ends must not fill the memory


class Piece(NamedTuple):
    """Body bytes without framing: the index of their read, and of their HTTP chunk (None in a body without chunks)."""

    read: int
    chunk: int | None
    data: bytes


class Framing:
    """Where one HTTP/1.x response ends, found read by read.

    After the end: `status`, `headers` (lower-case names), `head_read` (index of the read that completed the head),
    `pieces`, `complete`, `trailing` (the end of a read in which bytes followed the response) and `error` (what broke
    the framing, or None).
    """

    __slots__ = (
        "_body_bytes",
        "_chunk",
        "_chunked",
        "_head_bytes",
        "_in_head",
        "_parser",
        "complete",
        "error",
        "head_read",
        "headers",
        "pieces",
        "reads",
        "reusable",
        "status",
        "trailing",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.head_read: int | None = None
        self.pieces: list[Piece] = []
        self.reads = 0
        self.complete = False
        self.reusable = False
        self.trailing: bytes | None = None
        self.error: str | None = None
        self._body_bytes = 0
        self._chunk = 0
        self._chunked = False
        self._in_head = True
        self._head_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        # What home-made servers and RFC 9112 (space before a chunk extension) allow; nothing here is at risk from it.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    def feed(self, data: bytes) -> bool:
        """Takes the bytes of one read; True when the response has ended (well, or with `error` set)."""
        ended = self.complete or self.error is not None
        self.reads += 1
        if ended:
            self.trailing = data[-40:]
            return True
        if self.reads == 1 and data[:5] != b"HTTP/"[: len(data)]:
            self._fail(f"the answer is not HTTP: it begins with {data[:40]!r}")
            return True
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # a switch of protocols (101): what follows is not HTTP, and the response is complete
        except httptools.HttpParserError as error:
            if self.complete:
                self.trailing = b""
            else:
                self._fail(f"the framing of the response is broken: {str(error)[:200]}")
        if self.trailing is not None:
            self.trailing = data[-40:]
        if self._in_head and self._head_bytes > HEAD_LIMIT_BYTES and self.error is None:
            self._fail(f"the response head is longer than {HEAD_LIMIT_BYTES} bytes")
        return self.complete or self.error is not None

    def end(self) -> None:
        """Says that the peer closed the connection: the proper end of a close-delimited body, an early one else."""
        if self.complete or self.error is not None:
            return
        by_close = not self._in_head and not self._chunked and "content-length" not in self.headers
        if by_close:
            self.complete, self.reusable = True, False
        else:
            self._fail("the connection was closed before the response ended")

    def _fail(self, why: str) -> None:
        self.error, self.reusable = why, False

    # What llhttp calls, by the names that httptools gives them.

    def on_message_begin(self) -> None:
        if self.complete:
            self.trailing = b""  # a second response that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != 101:
            return  # an interim response (100 Continue): the real one follows
        self._in_head, self.head_read = False, self.reads - 1
        self._chunked = self.headers.get("transfer-encoding", "").lower().rpartition(",")[2].strip() == "chunked"

    def on_chunk_header(self) -> None:
        self._chunk += 1

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > BODY_LIMIT_BYTES:
            self._fail(f"the body is longer than {BODY_LIMIT_BYTES} bytes")
        elif not self.complete:
            self.pieces.append(Piece(self.reads - 1, self._chunk if self._chunked else None, data))

    def on_message_complete(self) -> None:
        if self.complete:
            return
        if self._in_head:  # an interim response
            self.status, self.headers, self._head_bytes = None, {}, 0
            return
        self.complete = True
        self.reusable = self._parser.should_keep_alive() and self.status != 101
