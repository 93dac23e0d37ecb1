"""When bytes came: by the kernel's clock where it gives one, else when the read that brought them returned.

Of a plain TCP socket Linux says with each read when it had taken up the last byte (SO_TIMESTAMPING, on CLOCK_REALTIME):
right however late this process woke, and read − kernel is how late that was. The time is mapped to the clock of
everything else here, `time.perf_counter()`, by the difference of the two. NTP slews both alike, so that only a step of
CLOCK_REALTIME changes the difference: it is taken when a request is sent and again when its answer has ended.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import NamedTuple

Control = list[tuple[int, int, bytes]]  # what recvmsg gives beside the bytes
# When a read returned (perf_counter), what the kernel said of it, and its counts after it (where there is doubt).
Read = tuple[float, Control | None, bytes | None]

CONTROL_BYTES = 64  # three timespecs and their header
STEP_NS = 100_000  # far more than the readings' error, far less than anything that sets a clock
LATE_SHARE_OF_GAP = 0.1

# <linux/net_tstamp.h> and <linux/tcp.h>, for which Python has no names.
_SO_TIMESTAMPING = 37
_RX_SOFTWARE, _SOFTWARE = 1 << 3, 1 << 4
_TIMESPEC = struct.Struct("@ll")
_TCP_INFO, _TCP_INFO_BYTES = 11, 232
_U32 = struct.Struct("@I")
_COUNTS_AT = (152, 224, 20)  # data_segs_in, rcv_ooopack, rcv_mss
_NEAR_NS = 20_000


def ask(sock: socket.socket) -> None:
    """Has the kernel stamp what comes on a socket; where it cannot, reads come without stamps."""
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)


def apart_ns(clock: int = time.CLOCK_REALTIME) -> int:
    """A clock − `time.perf_counter_ns()`, by readings so near to each other that their order does not matter."""
    nearest, found = sys.maxsize, 0
    for _ in range(100):  # who is interrupted between two readings tries again
        before = perf_counter_ns()
        there = time.clock_gettime_ns(clock)
        after = perf_counter_ns()
        if after - before < nearest:
            nearest, found = after - before, there - (before + after) // 2
        if nearest <= _NEAR_NS:
            break
    return found


def counts(sock: socket.socket) -> bytes | None:
    """What the kernel has counted on a TCP connection so far; None where it gives nothing. See `Counted`."""
    if sys.platform != "linux":
        return None
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None


class Counted(NamedTuple):
    """Of a connection's whole life: segments with data that came, and those of them that overtook an earlier one;
    and the bytes of a full segment as far as the kernel has seen."""

    segments: int
    disorder: int
    segment_bytes: int

    @classmethod
    def of(cls, info: bytes | None) -> Counted | None:
        """What `counts` gave."""
        if info is None or len(info) < max(_COUNTS_AT) + _U32.size:
            return None
        segments, disorder, full = (_U32.unpack_from(info, at)[0] for at in _COUNTS_AT)
        return cls(segments, disorder, max(1, full))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When the bytes of each read had come, in absolute seconds of `time.perf_counter()`.

    `clock` "kernel": `times_s` are the kernel's, and `late_s` how much later each read returned. "read": they are the
    reads' own, and how late those were is not known. None when nothing came. `segments`: how many segments a read was
    made of at most, by its index, where the kernel was asked.
    """

    clock: str | None
    times_s: list[float]
    late_s: list[float] | None = None
    segments: dict[int, int] = field(default_factory=dict)
    segment_bytes: int = 1


def arrivals(
    reads: Sequence[Read], whole: int, apart: tuple[int, int] | None, before: bytes | None, after: bytes | None
) -> Arrivals:
    """The arrivals of one answer's reads, of which the first `whole` brought bytes (the end of a connection does not).

    `apart` are the differences of the clocks before and after, `before` and `after` the kernel's counts. The kernel's
    times are taken only when all reads have one, the clocks kept their difference, and no segment overtook another
    (bytes then count as come before those in front of them have).
    """
    read_s = [read[0] for read in reads]
    if not whole:
        return Arrivals(None, read_s)
    stamps = [_stamp_ns(read[1]) for read in reads[:whole]]
    first, last = Counted.of(before), Counted.of(after)
    disorder = first is not None and last is not None and first.disorder != last.disorder
    if apart is None or abs(apart[1] - apart[0]) > STEP_NS or disorder or not all(stamps):
        return Arrivals("read", read_s)
    kernel_s = [(stamp - apart[0]) * 1e-9 for stamp in stamps]
    late_s = [late - came for late, came in zip(read_s, kernel_s, strict=False)]
    if min(late_s) < -STEP_NS * 1e-9:  # no byte is read before it comes: a clock went to and fro
        return Arrivals("read", read_s)
    return Arrivals(
        "kernel",
        [*kernel_s, *read_s[whole:]],
        [max(0.0, late) for late in late_s],
        {} if first is None else _segments(reads[:whole], first),
        1 if last is None else last.segment_bytes,
    )


def _stamp_ns(control: Control | None) -> int:
    """The kernel's time of a read, 0 when it gave none."""
    if not control or len(control[0][2]) < _TIMESPEC.size:
        return 0
    seconds, nanoseconds = _TIMESPEC.unpack_from(control[0][2])
    return int(seconds * 1_000_000_000 + nanoseconds)


def _segments(reads: Sequence[Read], before: Counted) -> dict[int, int]:
    """The most segments that each read with counts can have been made of: all since the last counts, less one for
    each read between."""
    found = {}
    known, between = before.segments, 0
    for index, read in enumerate(reads):
        if (counted := Counted.of(read[2])) is None:
            between += 1
        else:
            found[index] = counted.segments - known - between
            known, between = counted.segments, 0
    return found


def late_reads(came: Arrivals, crowded: Mapping[int, int], gap_s: float) -> int | None:
    """In how many of the reads `crowded` (index → bytes), which held several chunks, the client was late.

    None when that is not known. A read's stamp is its last byte's. The chunks of a read that came in one segment were
    sent together, and each has its true time. In several segments they came one after the other while nobody read, and
    only the last one's time is known. Such a read counts when its last byte, too, had waited for more than a tenth of
    the time `gap_s` between chunks; otherwise they came as good as together. (A client that is late by more than a gap
    finds its last byte at any age below it: one in ten such reads escapes.)
    """
    if came.late_s is None:
        return None
    return sum(
        came.late_s[index] > LATE_SHARE_OF_GAP * gap_s
        and came.segments.get(index, sys.maxsize) > -(-size // came.segment_bytes)
        for index, size in crowded.items()
    )
