"""One keep-alive connection to a server under load: time stamps per socket read, failures as facts, not exceptions.

It talks through `socket` and `ssl` as they are: under Locust those are gevent's (Locust patches them when it is
imported) and many connections share one thread; without Locust they are the plain ones and a thread runs each.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter as now
from typing import Any

from bench.client import clock
from bench.client.framing import Framing
from bench.client.target import Target

READ_BYTES = 64 * 1024
_STALE = ("reset", "no_response")


@dataclass
class Exchange:
    """One request on the wire: when it was sent, when each read returned and what the kernel said of it, and how the
    request failed, if it did.

    Times are absolute seconds of `time.perf_counter()`. `connect_s` is the time spent on a new connection before
    `sent_s`, None when an open one was used. `ended_s` is when the end was noticed. `failure` is (outcome, error_kind,
    message). `apart` and `counts` are the clocks' difference and the kernel's counts before the request and after it.
    """

    framing: Framing = field(default_factory=Framing)
    reads: list[clock.Read] = field(default_factory=list)
    connect_s: float | None = None
    sent_s: float | None = None
    ended_s: float = 0.0
    failure: tuple[str, str, str] | None = None
    apart: tuple[int, int] | None = None
    counts: tuple[bytes | None, bytes | None] = (None, None)

    def arrivals(self) -> clock.Arrivals:
        """When the bytes of each read had come."""
        return clock.arrivals(self.reads, self.framing.reads, self.apart, *self.counts)


class Deadlines:
    """Ends the requests whose time is up: one thread (under Locust a greenlet) looks at all of them now and then.

    A timeout on every read would do it exactly, and would make each read half as expensive again.
    """

    LOOK_S = 0.05

    def __init__(self) -> None:
        self._due_s: dict[Connection, float] = {}
        self._lock = threading.Lock()
        self._looking = False

    def add(self, connection: Connection, due_s: float) -> None:
        """From `due_s` (absolute) on, at most LOOK_S later, the connection is expired, unless it is removed."""
        with self._lock:
            self._due_s[connection] = due_s
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, daemon=True).start()

    def remove(self, connection: Connection) -> None:
        """The connection's request has ended."""
        with self._lock:
            del self._due_s[connection]

    def _look(self) -> None:
        while True:
            time.sleep(self.LOOK_S)
            with self._lock:
                for connection in [each for each, due_s in self._due_s.items() if due_s <= now()]:
                    connection.expire()
                if not self._due_s:
                    self._looking = False
                    return


DEADLINES = Deadlines()


Receive = Callable[[int, int], tuple[bytes, clock.Control | None, int, Any]]  # as socket.recvmsg
Take = Callable[[Receive], bool]  # takes one read; True when nothing more is to come
Serve = Callable[[socket.socket, Take], None]  # has `take` take every read of a plain socket


def in_turn(sock: socket.socket, take: Take) -> None:
    """Reads in the caller's own thread (under Locust: greenlet), which waits for each read."""
    while not take(sock.recvmsg):
        pass


class Connection:
    """One keep-alive connection to a target, used by one request at a time; opened when it is first needed."""

    def __init__(self, to: Target, serve: Serve = in_turn) -> None:
        self.target, self._serve = to, serve
        self._socket: socket.socket | None = None
        self._counts: bytes | None = None
        self._aborted = self._expired = False

    def open(self, timeout_s: float) -> None:
        """Connects ahead of the first request, so that connecting is not part of it; a failure waits for that one."""
        if self._socket is None:
            with suppress(OSError):
                self._connect(now() + timeout_s)

    def close(self) -> None:
        """Closes the connection; the next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Ends the request in flight from another greenlet or thread; its outcome becomes "aborted"."""
        self._aborted = True
        self._shut()

    def expire(self) -> None:
        """Ends the request in flight from beside because its time is up; its outcome becomes "timeout"."""
        self._expired = True
        self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # The plain socket's method: TLS's own would take its state away from under the waiting reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def exchange(self, wire: bytes, timeout_s: float) -> Exchange:
        """Sends a request and reads until its response ends, fails, or `timeout_s` after the start have passed.

        A kept connection that the server had closed meanwhile is replaced once and the request sent (and stamped)
        anew: nothing of a response had arrived.
        """
        deadline_s = now() + timeout_s
        kept = self._still_open()
        result = self._attempt(wire, deadline_s)
        if kept and not result.reads and result.failure is not None and result.failure[1] in _STALE:
            result = self._attempt(wire, deadline_s)
        return result

    def _attempt(self, wire: bytes, deadline_s: float) -> Exchange:
        result = Exchange()
        connecting = self._expired = False
        try:
            if self._socket is None:
                connecting, start_s = True, now()
                self._connect(deadline_s)
                connecting, result.connect_s = False, now() - start_s
            self._talk(wire, deadline_s, result)
        except OSError as error:
            result.failure = _failure(error, connecting=connecting)
        result.ended_s = result.reads[-1][0] if result.framing.complete else now()
        if self._aborted:
            result.failure = ("aborted", "aborted", "The run was stopped while this request was in flight.")
        elif self._expired and not result.framing.complete:
            result.failure = _failure(TimeoutError(), connecting=False)
        elif result.failure is None and not result.reads:
            result.failure = ("connection_error", "no_response", "The server closed the connection without an answer.")
        ended_well = result.framing.complete and result.failure is None and result.framing.trailing is None
        if not (ended_well and result.framing.reusable):
            self.close()
        return result

    def _talk(self, wire: bytes, deadline_s: float, result: Exchange) -> None:
        sock = self._socket
        if sock is None or self._aborted:
            return
        sock.settimeout(_left_s(deadline_s, now()))
        apart = clock.apart_ns()
        result.sent_s = now()
        # A server may refuse a body before it has read it all and close; what it said is still there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(wire)
        sock.settimeout(None)
        DEADLINES.add(self, deadline_s)
        try:
            self._read(sock, result)
        finally:
            DEADLINES.remove(self)
            result.apart = (apart, clock.apart_ns())
            before, self._counts = self._counts, clock.counts(sock)
            result.counts = (before, self._counts)

    def _read(self, sock: socket.socket, result: Exchange) -> None:
        framing, reads, plain = result.framing, result.reads, self.target.tls is None

        def take(receive: Receive) -> bool:
            data, said, _, _ = receive(READ_BYTES, clock.CONTROL_BYTES)
            time_s = now()
            if data:
                # Several events, or the head and what came with it: then it matters in how many segments they came.
                doubt = plain and (not reads or data.count(b"data:") > 1)
                reads.append((time_s, said, clock.counts(sock) if doubt else None))
                return framing.feed(data)
            if not self._expired and not self._aborted:
                framing.end()
            if framing.complete:  # a body that ends with the connection ends at this read
                reads.append((time_s, None, None))
            return True

        if plain:
            self._serve(sock, take)
        else:
            while not take(lambda size, _: (sock.recv(size), None, 0, None)):
                pass

    def _connect(self, deadline_s: float) -> None:
        failure: OSError = OSError(f"the name {self.target.host} has no address")
        for found in self.target.addresses():
            family, address = found
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(_left_s(deadline_s, now()))
                self._socket.connect(address)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.target.tls is None:
                    clock.ask(self._socket)
                    self._counts = clock.counts(self._socket)
                else:
                    self._socket = self.target.tls.wrap_socket(self._socket, server_hostname=self.target.host)
            except OSError as error:
                self.close()
                failure = error
            else:
                self.target.prefer(found)
                return
        raise failure

    def _still_open(self) -> bool:
        """Whether a kept connection can be used again: the server neither closed it nor sent what nobody asked for."""
        if self._socket is None:
            return False
        try:
            self._socket.settimeout(0.0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        self.close()
        return False


def _left_s(deadline_s: float, time_s: float) -> float:
    left_s = deadline_s - time_s
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _failure(error: OSError, *, connecting: bool) -> tuple[str, str, str]:
    if isinstance(error, TimeoutError):
        what = "connected" if connecting else "answered completely"
        return ("timeout", "connect" if connecting else "deadline", f"The server had not {what} when the time was up.")
    if isinstance(error, socket.gaierror):
        kind = "dns"
    elif isinstance(error, ConnectionRefusedError):
        kind = "refused"
    elif isinstance(error, ConnectionError):
        kind = "reset"
    elif isinstance(error, ssl.SSLCertVerificationError):
        kind = "tls_verify"
    elif isinstance(error, ssl.SSLError):
        kind = "tls"
    else:
        kind = "network"
    return ("connection_error", kind, str(error) or type(error).__name__)
