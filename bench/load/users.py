"""The users of a crew: those of the warm-up, of a closed load, and an open load's dispatcher.

Like the crew, they use the standard library's events and queues as they are, which under Locust are gevent's.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event
from time import perf_counter as now

from bench.client import stream
from bench.client.connection import Connection
from bench.load.crew import Crew, wait_until
from bench.load.loadfile import Item
from bench.plans import arrivals

BACKOFF_S = 0.2  # a user's pause after a connection error or a rate limit, doubled up to BACKOFF_MAX_S
BACKOFF_MAX_S = 1.0
CONNECT_AHEAD_S = 5.0  # how long a user may take to connect before the phase begins without its connection
SPARE_CONNECTIONS = 32  # an open loop connects ahead as well, so that arrivals rarely wait for a new connection
SPIN_S = 0.0015  # the event loop's timers tick in whole milliseconds; the rest of a wait is spun
SPIN_FROM_RPS = 20.0  # below this rate a millisecond of lateness does not matter, and the CPU does


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
