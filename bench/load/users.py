"""A crew: the part of a measured phase that one process carries, with its users, its clerk and its records.

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
from bench.plans import arrivals

log = logging.getLogger("nbridge.load")

UNREACHABLE_REQUESTS = 20  # so many connection errors in a row …
UNREACHABLE_S = 3.0  # … over at least so long mean that the server is gone
BACKOFF_S = 0.2  # a user's pause after a connection error or a rate limit, doubled up to BACKOFF_MAX_S
BACKOFF_MAX_S = 1.0
CONNECT_AHEAD_S = 5.0  # how long a user may take to connect before the phase begins without its connection
SPARE_CONNECTIONS = 32  # an open loop connects ahead as well, so that arrivals rarely wait for a new connection
DRAIN_S = 10.0  # how long requests may take to notice that they were aborted
SPIN_S = 0.0015  # the event loop's timers tick in whole milliseconds; the rest of a wait is spun
SPIN_FROM_RPS = 20.0  # below this rate a millisecond of lateness does not matter, and the CPU does

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


def warm_up(crew: Crew, warm: list[stream.Request]) -> None:
    """Sends the warm-up requests, as many at a time as the load has users, and returns when all are recorded."""
    todo = iter(warm)
    users = min(len(warm), crew.load.concurrency or crew.load.max_in_flight)
    done: SimpleQueue[None] = SimpleQueue()

    def user() -> None:
        connection = crew.connection()
        for what in todo:
            if crew.stopped:
                break
            crew.send(connection, what, now())
        connection.close()
        done.put(None)

    for _ in range(users):
        crew.spawn(user)
    for _ in range(users):
        done.get()
    crew.flush()


def closed_user(crew: Crew) -> None:
    """One closed-loop user: takes the next request as soon as its last one has ended, until there is none."""
    connection = crew.connection()
    connection.open(CONNECT_AHEAD_S)
    zero_s = crew.arrive()
    if zero_s is not None:
        wait_until(zero_s, crew.halt)
        end_s = zero_s + crew.load.seconds if crew.load.seconds is not None else float("inf")
        free_s, pause_s = now(), BACKOFF_S
        while free_s < end_s and (what := crew.take()) is not None:
            exchange = crew.carry(connection, what, free_s, end_s)
            refused = exchange.framing.status in (429, 503)
            if refused or (exchange.failure is not None and exchange.failure[0] == "connection_error"):
                crew.halt.wait(pause_s)  # a server that refuses is not asked in a tight loop
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
            else:
                pause_s = BACKOFF_S
            free_s = now()
    connection.close()
    crew.leave()


def open_dispatcher(crew: Crew) -> None:
    """One process's open loop: starts a request at each due time, whether or not earlier ones have ended."""
    load = crew.load
    free = _connect_ahead(crew, min(load.max_in_flight, SPARE_CONNECTIONS))
    zero_s = crew.arrive()
    if zero_s is not None and load.rate_rps is not None:
        if load.arrival == "trace":
            due_s = arrivals.traced(load.due_s or (), worker=crew.slots.start, workers=crew.of)
        else:
            due_s = arrivals.schedule(
                load.arrival,
                load.rate_rps,
                seconds=load.seconds,
                requests=load.requests,
                seed=load.seed,
                burstiness=load.burstiness or 1.0,
                rates_rps=load.rates_rps or (),
                worker=crew.slots.start,
                workers=crew.of,
            )
        peak_rps = max(load.rates_rps or [load.rate_rps])
        end_s = zero_s + load.seconds if load.seconds is not None else float("inf")
        _dispatch(crew, free, [zero_s + offset_s for offset_s in due_s], peak_rps, end_s)
    for connection in free:
        connection.close()
    crew.leave()


def _connect_ahead(crew: Crew, connections: int) -> list[Connection]:
    free = [crew.connection() for _ in range(connections)]
    done: SimpleQueue[None] = SimpleQueue()
    for connection in free:
        crew.spawn(lambda each: done.put(each.open(CONNECT_AHEAD_S)), connection)
    for _ in free:
        done.get()
    return free


def _dispatch(crew: Crew, free: list[Connection], due_s: list[float], peak_rps: float, end_s: float) -> None:
    all_ended = Event()
    at_most = -(-crew.load.max_in_flight // crew.of)
    spin_s = SPIN_S if peak_rps > SPIN_FROM_RPS else 0.0

    def run(what: Item, scheduled_s: float) -> None:
        connection = free.pop() if free else crew.connection()
        crew.carry(connection, what, scheduled_s, end_s)
        free.append(connection)
        crew.in_flight -= 1
        if not crew.in_flight:
            all_ended.set()

    for scheduled_s in due_s:
        wait_until(scheduled_s, crew.halt, spin_s)
        what = crew.take()
        if what is None:
            break
        if crew.in_flight >= at_most:
            crew.drop(what, scheduled_s)
        else:
            crew.in_flight += 1
            all_ended.clear()
            crew.spawn(run, what, scheduled_s)
    if crew.in_flight:
        all_ended.wait()


def wait_until(due_s: float, halt: Event, spin_s: float = 0.0) -> None:
    """Returns at `due_s` (absolute), or earlier when `halt` is set; the last `spin_s` are spun, giving way."""
    while (left_s := due_s - now()) > 0 and not halt.is_set():
        if left_s > spin_s:
            halt.wait(left_s - spin_s)
        else:
            time.sleep(0)
