"""Body pieces of a response → server-sent events, each with the read that brought its last byte. Pure.

The time of an event is the time of the read that completed it (the end of its blank line).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client.framing import Framing, Piece

_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(rb"(data|event|id|retry)?:")
_IGNORED = re.compile(rb"[A-Za-z][\w-]*(:|$)|:")


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: `read` and `chunk` are the indices of the read and the HTTP chunk that completed it
    (`chunk` is None in a body that has none), `time_s` is the read's time."""

    read: int
    time_s: float
    data: bytes
    name: str = "message"
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One response as far as it was understood; `body` is the body without its framing.

    `events` is None when the body is no event stream: neither its content-type nor its first line says so. `trailing`
    is the end of a read in which bytes followed the response.
    """

    status: int | None
    headers: dict[str, str]
    head_s: float | None
    body: bytes
    events: tuple[Event, ...] | None
    complete: bool
    error: str | None
    trailing: bytes | None
    notes: tuple[str, ...] = ()


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
    body = b"".join(piece.data for piece in framing.pieces)
    declared = framing.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"
    notes, pieces = [], framing.pieces
    if body.startswith(_BOM):
        notes.append("bom")
        pieces = _without_bom(pieces)
    stream = declared or _FIELD.match(body.removeprefix(_BOM).lstrip()) is not None
    if stream and not declared:
        notes.append("content_type")
    return Response(
        status=framing.status,
        headers=framing.headers,
        head_s=None if framing.head_read is None else times_s[framing.head_read],
        body=body,
        events=events(pieces, times_s, complete=framing.complete) if stream else None,
        complete=framing.complete,
        error=framing.error,
        trailing=framing.trailing,
        notes=tuple(notes),
    )


def _without_bom(pieces: Sequence[Piece]) -> list[Piece]:
    left, kept = len(_BOM), []
    for read, chunk, data in pieces:
        kept.append(Piece(read, chunk, data[left:]))
        left = max(0, left - len(data))
    return kept


def events(pieces: Sequence[Piece], times_s: Sequence[float], *, complete: bool = True) -> tuple[Event, ...]:
    """The server-sent events in body pieces, each with the read that completed it.

    An event without its blank line is taken at the end of a `complete` body (servers exist that leave it out) and
    dropped from a body that was cut.
    """
    found: list[Event] = []
    lines: list[bytes] = []
    name = "message"
    rest = b""
    read, chunk = 0, None
    for read, chunk, data in pieces:
        *whole, rest = (rest + data if rest else data).split(b"\n")
        for raw in whole:
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if not line:
                if lines:
                    found.append(Event(read, times_s[read], b"\n".join(lines), name, chunk))
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
        found.append(Event(read, times_s[read], b"\n".join(lines), name, chunk))
    return tuple(found)
