"""A crew: the part of a measured phase that one process carries, with its clerk and its records.

Like the streaming client, this uses the standard library's events and queues as they are: under Locust those are
gevent's, every user is a greenlet and a process is one thread, which is what the counters here rely on.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from queue import SimpleQueue
from threading import Event
from time import perf_counter as now
from typing import Any

from bench.client import stream
from bench.client.connection import Connection, Exchange, Serve, in_turn
from bench.client.target import Target
from bench.load.afar import Forwarded
from bench.load.conversation import Conversation
from bench.load.loadfile import Item, Load, Records
from bench.load.pulse import PULSE, Pulse

log = logging.getLogger("nbridge.load")

UNREACHABLE_REQUESTS = 20  # so many connection errors in a row …
UNREACHABLE_S = 3.0  # … over at least so long mean that the server is gone
DRAIN_S = 10.0  # how long requests may take to notice that they were aborted

_Ended = tuple[stream.Request, Exchange | None, float]


class Crew:
    """One process's share of the requests of a load, in order, and what became of them.

    Users arrive at the gate, take requests until there are none, and leave; `quiet` is set when all have left and
    every record is written. `stop` ends it early: users leave and requests in flight are aborted (and recorded).
    `publish` is called with every record, `spawn` runs a function beside the caller (a greenlet under Locust), `serve`
    reads what comes on its connections.
    """

    def __init__(
        self,
        load: Load,
        to: Target,
        measured: list[Item],
        *,
        publish: Callable[[dict[str, Any]], None],
        spawn: Callable[..., object],
        serve: Serve = in_turn,
    ) -> None:
        self.load, self.target, self._measured, self._serve = load, to, measured, serve
        self._publish, self.spawn = publish, spawn
        self.records: Records | Forwarded | None = None
        self.gate, self.quiet, self.halt = Event(), Event(), Event()
        self.zero_s: float | None = None
        self.ended_s: float | None = None
        self.pulse = Pulse(now)
        self.slots, self.of = range(0), 1
        self.at_gate = self.in_flight = 0
        self.issued = self.reused = self.dropped = self.warmup_failed = 0
        self.stopped: str | None = None
        self.exit_code = 0
        self._users = 0
        self._cpu_start_s: float | None = None
        self._indices: Iterator[int] = iter(())
        self._open: dict[Connection, tuple[stream.Request, float]] = {}
        self._errors_in_a_row = 0
        self._failing_since_s: float | None = None
        self._ended: SimpleQueue[_Ended | dict[str, Any] | Event | None] = SimpleQueue()
        spawn(self._keep_records)

    def share(self, slots: range, of: int) -> None:
        """Says which requests are this process's: number n with n mod `of` in `slots`, one user per slot."""
        total = self.load.requests
        numbers = count() if total is None else iter(range(total))
        self._indices = (number for number in numbers if number % of in slots)
        self.slots, self.of, self._users = slots, of, len(slots)
        gc.collect()
        gc.freeze()  # what was loaded stays: no collection during the phase looks at it again

    def start(self, zero_s: float) -> None:
        """Opens the gate: the measured phase begins at `zero_s` (absolute, now or soon)."""
        if self.stopped:
            return
        self.zero_s = zero_s
        self._cpu_start_s = time.process_time()
        self.spawn(self.pulse.run)
        self.gate.set()
        if not self._users:
            self._ended.put(None)

    def stop(self, why: str, exit_code: int) -> None:
        """Ends the phase early; only the first reason counts, and none once the phase has ended."""
        if self.stopped or self.quiet.is_set():
            return
        self.stopped, self.exit_code = why, exit_code
        self.halt.set()
        for connection in list(self._open):
            connection.abort()
        if not self.gate.is_set():
            self.gate.set()
            self._ended.put(None)

    def arrive(self) -> float | None:
        """A user waits for the phase; returns its zero, None when there is no phase any more."""
        self.at_gate += 1
        self.gate.wait()
        return self.zero_s

    def take(self) -> Item | None:
        """The next request or conversation; None when the load has been issued or was stopped."""
        number = None if self.stopped else next(self._indices, None)
        if number is None:
            return None
        self.issued += 1
        if number < len(self._measured):
            return self._measured[number]
        self.reused += 1
        again, round_ = self._measured[number % len(self._measured)], number // len(self._measured)
        if isinstance(again, Conversation):
            return again.again(str(round_))
        return replace(again, request_id=f"{again.request_id}-{round_}")

    def carry(self, connection: Connection, what: Item, scheduled_s: float, end_s: float) -> Exchange:
        """Carries one request, or one conversation of which no turn begins after `end_s`, to its end."""
        if isinstance(what, Conversation):
            return self._converse(connection, what, scheduled_s, end_s)
        return self.send(connection, what, scheduled_s)

    def connection(self) -> Connection:
        """A new connection to the server, not yet open."""
        return Connection(self.target, self._serve)

    def send(self, connection: Connection, what: stream.Request, scheduled_s: float) -> Exchange:
        """Sends a request, waits for its end and hands it to the clerk: reading it must not delay the next request."""
        exchange = self._exchange(connection, what, scheduled_s)
        self._ended.put((what, exchange, scheduled_s))
        self._watch(exchange)
        return exchange

    def _converse(self, connection: Connection, held: Conversation, scheduled_s: float, end_s: float) -> Exchange:
        """Turn after turn, each with the answers before it, when its user has thought about the last one.

        It ends early with an answer that is none: what would follow it nobody knows.
        """
        what, said = held.first, list(held.messages)
        for number, following in enumerate((*held.then, None), 2):
            exchange = self._exchange(connection, what, scheduled_s)
            record = self._read(what, exchange, scheduled_s)
            answer = record.pop("content", None)
            self._ended.put(record)
            self._watch(exchange)
            if following is None or record["outcome"] != "ok":
                break
            said += [{"role": "assistant", "content": answer or ""}, *following["messages"]]
            what = held.turn(number, said)
            scheduled_s = record["ended"] + following["think_s"]
            if scheduled_s >= end_s:
                break
            wait_until(scheduled_s, self.halt)
            if self.stopped:
                break
        return exchange

    def _exchange(self, connection: Connection, what: stream.Request, scheduled_s: float) -> Exchange:
        self._open[connection] = (what, scheduled_s)
        if self.stopped:
            connection.abort()
        exchange = connection.exchange(what.wire, self.load.timeout_s)
        del self._open[connection]
        return exchange

    def drop(self, what: Item, scheduled_s: float) -> None:
        """Records an arrival that the cap on requests in flight kept from being sent."""
        self.dropped += 1
        self._ended.put((what.first if isinstance(what, Conversation) else what, None, scheduled_s))

    def leave(self) -> None:
        """A user says that it is done."""
        self._users -= 1
        if self._users == 0 and self._cpu_start_s is not None:
            self._ended.put(None)

    def flush(self) -> None:
        """Returns when every request that has ended so far is recorded."""
        done = Event()
        self._ended.put(done)
        done.wait()

    def wait(self) -> None:
        """Returns when the process is quiet; requests that do not notice their abort delay that by DRAIN_S at most."""
        while not self.quiet.wait(0.5):
            if self.stopped and not self.quiet.wait(DRAIN_S):
                for what, scheduled_s in list(self._open.values()):
                    self._store(stream.blank(what, scheduled_s, "aborted"))
                self.quiet.set()

    def report(self) -> dict[str, Any]:
        """What the phase file takes from this process."""
        cpu_s = 0.0 if self._cpu_start_s is None else time.process_time() - self._cpu_start_s
        names = ("zero_s", "ended_s", "issued", "reused", "dropped", "stopped", "exit_code")
        pulse = {name: getattr(self.pulse, name) for name in PULSE}
        return {"cpu_s": cpu_s, **pulse, **{name: getattr(self, name) for name in names}}

    def _watch(self, exchange: Exchange) -> None:
        if exchange.failure is None or exchange.reads:
            self._errors_in_a_row, self._failing_since_s = 0, None
        elif exchange.failure[0] == "connection_error":
            self._errors_in_a_row += 1
            since_s = self._failing_since_s = self._failing_since_s or exchange.ended_s
            if self._errors_in_a_row >= UNREACHABLE_REQUESTS and exchange.ended_s - since_s >= UNREACHABLE_S:
                self.stop(f"server unreachable: {exchange.failure[2]}", 0)

    def _keep_records(self) -> None:
        """The clerk: reads what has ended, in small steps, between which running streams are served."""
        while True:
            item = self._ended.get()
            if item is None:
                self.ended_s = self.ended_s or now()
                self.pulse.end()
                self.quiet.set()
            elif isinstance(item, Event):
                item.set()
            elif isinstance(item, dict):  # a conversation's turn, which had to be read for the next one
                self.ended_s = max(self.ended_s or 0.0, item["ended"])
                self._store(item)
            else:
                what, exchange, scheduled_s = item
                if exchange is None:
                    self._store(stream.blank(what, scheduled_s))
                    continue
                record = self._read(what, exchange, scheduled_s)
                if not what.warmup:
                    self.ended_s = max(self.ended_s or 0.0, record["ended"])
                self._store(record)

    def _read(self, what: stream.Request, exchange: Exchange, scheduled_s: float) -> dict[str, Any]:
        try:
            return stream.record(what, exchange, scheduled_s, self.target.secrets, pause=_give_way)
        except Exception as error:  # noqa: BLE001 (whatever an answer does to its reader, only its own record may end)
            return stream.blank(what, scheduled_s, "client_error") | {
                "sent": exchange.sent_s,
                "ended": exchange.ended_s,
                "error_kind": type(error).__name__,
                "error": "This program failed to read the answer; please report it.",
            }

    def _store(self, record: dict[str, Any]) -> None:
        if record["warmup"] and record["outcome"] != "ok":
            self.warmup_failed += 1
            log.warning("warm-up request failed (%s): %s", record["outcome"], record["error"])
        try:
            if self.records is not None:
                self.records.append(record)
        except OSError as error:
            self.records = None  # a file with a hole in it would be worse than one that ends
            self.stop(f"the records file {self.load.records_path} cannot be written: {error.strerror}", 4)
        self._publish(record)


def _give_way() -> None:
    time.sleep(0)


def wait_until(due_s: float, halt: Event, spin_s: float = 0.0) -> None:
    """Returns at `due_s` (absolute), or earlier when `halt` is set; the last `spin_s` are spun, giving way."""
    while (left_s := due_s - now()) > 0 and not halt.is_set():
        if left_s > spin_s:
            halt.wait(left_s - spin_s)
        else:
            time.sleep(0)
