"""The kernel's clock: arrivals against a sender's own log, also to a client that is late, and where there is none."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter as now
from typing import Any

import pytest
from asking import ask, certificate
from golden import golden
from test_framing import DONE, event
from waiting import wait_for

from bench.client import clock
from bench.client.clock import Control, arrivals, late_reads
from bench.client.connection import Connection
from bench.client.target import target_of

ROOT = Path(__file__).parents[2]
CLIENT = """
import json, sys
from time import perf_counter
from bench.client import stream
from bench.client.connection import Connection
from bench.client.target import target_of
connection = Connection(target_of(sys.argv[1]))
what = stream.request(connection.target, {"prompt": "a", "max_tokens": 9}, request_id="r", model="m")
print(json.dumps(stream.complete(connection, what, scheduled_s=perf_counter(), timeout_s=120)))
"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes")


def stamp(seconds: float) -> Control:
    """What recvmsg gives beside the bytes that the kernel took up at `seconds` of CLOCK_REALTIME."""
    whole, part = divmod(round(seconds * 1e9), 1_000_000_000)
    return [(socket.SOL_SOCKET, 37, clock._TIMESPEC.pack(whole, part) + bytes(32))]


def counted(segments: int, *, disorder: int = 0, segment_bytes: int = 536) -> bytes:
    """The kernel's counts of a connection."""
    info = bytearray(232)
    for at, value in zip(clock._COUNTS_AT, (segments, disorder, segment_bytes), strict=True):
        struct.pack_into("@I", info, at, value)
    return bytes(info)


APART = (1_000_000_000_000, 1_000_000_000_000)  # CLOCK_REALTIME is 1,000 s ahead
FIRST = (5.004, stamp(1005.0), None)


def test_a_kernels_time_is_mapped_to_our_clock() -> None:
    found = arrivals([FIRST, (5.110, stamp(1005.1), None)], 2, APART, counted(7), counted(9))
    assert found.clock == "kernel"
    assert found.times_s == pytest.approx([5.0, 5.1], abs=1e-9)
    assert found.late_s == pytest.approx([0.004, 0.010], abs=1e-9)


def test_the_end_of_a_connection_has_no_stamp_and_needs_none() -> None:
    found = arrivals([FIRST, (5.2, None, None)], 1, APART, None, None)
    assert (found.clock, found.times_s) == ("kernel", pytest.approx([5.0, 5.2]))
    assert arrivals([(5.2, None, None)], 0, APART, None, None).clock is None


@pytest.mark.parametrize(
    ("second", "apart", "after"),
    [
        (None, APART, counted(2)),
        (stamp(0.0), APART, counted(2)),
        ([(1, 37, b"")], APART, counted(2)),
        # the clock was set by a millisecond
        (stamp(1005.101), (APART[0], APART[0] + 1_000_000), counted(2)),
        # it was set to and fro: read before it had come
        (stamp(1006.1), APART, counted(2)),
        # a segment overtook another: its stamp is older than the bytes in front of it
        (stamp(1005.06), APART, counted(3, disorder=1)),
        (stamp(1005.1), None, counted(2)),
    ],
)
def test_where_the_kernels_times_cannot_be_trusted_the_reads_own_are_taken(
    second: Control | None, apart: tuple[int, int] | None, after: bytes
) -> None:
    found = arrivals([FIRST, (5.110, second, None)], 2, apart, counted(0), after)
    assert (found.clock, found.times_s, found.late_s) == ("read", [5.004, 5.110], None)


# Four reads; the last, with 600 bytes, held several chunks and waited 40 ms. Segments so far after the first, and after
# the last; bytes of a full segment; time between chunks → late reads
@pytest.mark.parametrize(
    ("first", "last", "segment_bytes", "gap_s", "late"),
    [
        (1, 4, 1448, 0.1, 0),  # one segment a read: sent together, however long the client let it lie
        (2, 5, 1448, 0.1, 0),  # the first read had the head and more: that is no matter of the last one's
        (1, 5, 1448, 0.1, 1),  # two segments, of which the last had waited for 40 % of a gap
        (1, 5, 1448, 0.5, 0),  # for 8 %: as good as together
        (1, 5, 536, 0.1, 0),  # 600 bytes are more than a segment holds: one send makes two
        (1, 6, 536, 0.1, 1),
        (None, None, 536, 0.1, 1),  # nobody counted: waiting decides
    ],
)
def test_late_client_and_sent_together_are_told_apart(
    first: int | None, last: int | None, segment_bytes: int, gap_s: float, late: int
) -> None:
    reads = [
        (5.001, stamp(1005.0), None if first is None else counted(10 + first)),
        (5.041, stamp(1005.04), None),
        (5.081, stamp(1005.08), None),
        (5.14, stamp(1005.1), None if last is None else counted(10 + last)),
    ]
    found = arrivals(reads, 4, APART, counted(10), counted(20, segment_bytes=segment_bytes))
    assert late_reads(found, {3: 600}, gap_s) == late
    assert late_reads(found, {}, gap_s) == 0


def test_without_stamps_nobody_knows_who_was_late() -> None:
    found = arrivals([(5.0, None, None), (5.1, None, None)], 2, APART, counted(0), counted(9))
    assert late_reads(found, {1: 600}, 0.1) is None


@dataclass
class Sender:
    """A server of one answer, sent as the test says, to a client in a process of its own."""

    peer: socket.socket
    client: subprocess.Popen[str]
    sent_s: list[float] = field(default_factory=list)

    def send(self, *events: bytes, last: bytes = b"") -> None:
        """Some events in one send, each in an HTTP chunk of its own."""
        data = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in events) + last
        self.sent_s.append(now())
        self.peer.sendall(data)

    def stop(self) -> None:
        self.client.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.client.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Lets the client run, and returns when it has read all that was sent."""
        self.client.send_signal(signal.SIGCONT)
        address = f"0100007F:{self.peer.getpeername()[1]:04X}"
        wait_for(lambda: not _unread(address), 60)

    def record(self) -> dict[str, Any]:
        return json.loads(self.client.communicate(timeout=60)[0])


def _unread(address: str) -> int:
    """Bytes that lie in the kernel for the owner of a local address."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if local == address:
            return int(queues.partition(":")[2], 16)
    return 0


@contextmanager
def sender() -> Iterator[Sender]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as first:
        clock.ask(first)  # the kernel begins to stamp some time after the first socket asks for it
        argv = [sys.executable, "-c", CLIENT, f"http://127.0.0.1:{listener.getsockname()[1]}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as client:
            try:
                peer, _ = listener.accept()
                with peer:
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while b"\r\n\r\n" not in peer.recv(65536, socket.MSG_PEEK):
                        pass
                    peer.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                    )
                    yield Sender(peer, client)
            finally:
                client.kill()


def facts(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("outcome", "clock", "coalesced_reads", "late_reads"))


def pass_time(seconds: float) -> None:
    until_s = now() + seconds
    wait_for(lambda: now() >= until_s, 60)


@only_linux
def test_a_client_that_wakes_late_still_knows_when_each_chunk_came() -> None:
    with sender() as server:
        server.go_on()
        for number in (1, 2, 3):
            server.stop()
            server.send(event("a", number, finish="stop" if number == 3 else None))
            pass_time(0.3)
            server.go_on()
        server.send(DONE, last=b"0\r\n\r\n")
        record = server.record()
    assert facts(record) == ("ok", "kernel", 0, 0)
    assert len(record["chunk_s"]) == 3
    for came_s, sent_s in zip(record["chunk_s"], server.sent_s, strict=False):
        assert 0 <= came_s - sent_s < 0.1  # by the reads they came 300 ms after they were sent
    assert sum(late_us >= 300_000 for late_us in record["read_late_us"]) == 3
    assert len(record["read_late_us"]) == record["reads"]


@only_linux
def test_chunks_that_came_one_by_one_to_a_client_that_slept_were_read_late() -> None:
    with sender() as server:
        server.send(event("a", 1))
        server.go_on()
        server.stop()
        for number in (2, 3, 4):
            server.send(event("a", number))
            pass_time(0.1)
        server.go_on()
        server.send(event("a", 5, finish="stop"), DONE, last=b"0\r\n\r\n")
        record = server.record()
    assert facts(record) == ("ok", "kernel", 1, 1)
    assert record["chunk_s"][1:4] == [record["chunk_s"][1]] * 3  # the kernel's one time for all that it had merged
    assert abs(record["chunk_s"][1] - server.sent_s[3]) < 0.1


@only_linux
def test_chunks_that_were_sent_together_are_nobodys_lateness() -> None:
    with sender() as server:
        server.send(event("a", 1))
        server.go_on()
        server.stop()
        server.send(event("a", 2), event("a", 3), event("a", 4))
        pass_time(0.2)  # the client is late all the same, and still knows when they came
        server.go_on()
        server.send(event("a", 5, finish="stop"), DONE, last=b"0\r\n\r\n")
        record = server.record()
    assert facts(record) == ("ok", "kernel", 1, 0)
    assert all(0 <= came_s - server.sent_s[1] < 0.1 for came_s in record["chunk_s"][1:4])
    # tokens after the first arrival: four of five
    assert record["tokens_after_first"] == 4


@only_linux
def test_what_comes_with_the_first_chunk_took_no_time_of_its_own() -> None:
    with sender() as server:
        server.send(event("a", 1), event("a", 2), event("a", 4))
        server.go_on()
        server.send(event("a", 5, finish="stop"), DONE, last=b"0\r\n\r\n")
        record = server.record()
    assert (record["chunk_tokens"], record["tokens_after_first"]) == ([1, 1, 2, 1], 1)


def unstamped(record: dict[str, Any]) -> bool:
    assert record["outcome"] == "ok"
    return (record["clock"], record["read_late_us"], record["late_reads"]) == ("read", None, None)


def test_under_tls_the_reads_own_times_are_taken_and_said(tmp_path: Path) -> None:
    with golden(tmp_path, certificate=str(certificate(tmp_path))) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert unstamped(ask(url, connection=Connection(target_of(url, verify_tls=False))))


def test_a_kernel_without_stamps_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_SO_TIMESTAMPING", 9999)  # an option that no kernel knows
    with golden(tmp_path) as server:
        assert unstamped(ask(server))


@only_linux
def test_a_clock_that_is_set_during_a_request_is_not_used_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_ns = clock.apart_ns()
    readings = iter([true_ns, true_ns + 5_000_000, true_ns, true_ns])
    monkeypatch.setattr(clock, "apart_ns", lambda: next(readings))
    with golden(tmp_path) as server:
        assert unstamped(ask(server))
        assert ask(server)["clock"] == "kernel"  # each request has a difference of its own


def test_the_clocks_difference_is_known_to_microseconds() -> None:
    found = [clock.apart_ns() for _ in range(20)]
    assert max(found) - min(found) < clock.STEP_NS
