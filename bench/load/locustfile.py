"""Locust scenarios that stream completions from an OpenAI-compatible server and record every request.

By hand, with Locust's web page (users, spawn rate and host are set there or as flags):

    locust -f bench/load/locustfile.py --host http://127.0.0.1:8000

The environment variables NBRIDGE_MODEL (default: the server's first), NBRIDGE_PROMPT_TOKENS (64 words),
NBRIDGE_OUTPUT_TOKENS (32), NBRIDGE_ENDPOINT (completions, chat, or hidden_states) and NBRIDGE_API_KEY_ENV (the name of
the variable that holds the key) say what is sent, in the dialect that the first user learns.

As the sweep does it, with a load file (`NBRIDGE_LOAD=load.json locust -f bench/load/locustfile.py --headless`): warm-up
requests, then the measured phase, closed or open loop, one line in the records file per request as it ends and a
phase file at the end. The load file sets the number of users. Exit codes: 0 the phase file says how it went, whatever
became of the requests; 1 Locust failed; 2 the load file is not usable; 4 nothing can be written; 130 interrupted.

A measured phase is the same in one process and in several on this machine (`--processes N`): everything is prepared,
all users wait at a gate, and the gate opens at `zero`. With several processes the master warms up, opens the gates by
message and writes the phase file; the workers write requests.<n>.jsonl beside the records file.

Workers on other machines (`NBRIDGE_LOAD=afar locust -f bench/load/locustfile.py --worker --master-host …`, which is
what `nbridge worker` runs) are given the load by the master and send their records home (bench.load.afar).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from time import perf_counter as now
from typing import Any
from uuid import uuid4

import gevent
from gevent.lock import BoundedSemaphore
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from bench.client import stream
from bench.client.connection import Connection
from bench.client.probe import Found, ProbeError, learn
from bench.client.target import Target
from bench.load import loadfile
from bench.load.afar import Forwarded, answer_pings, given
from bench.load.conductor import READY_S, Conductor, wait_for
from bench.load.crew import DRAIN_S, Crew
from bench.load.hub import in_the_hub
from bench.load.locust_statistics import fire, publish
from bench.load.users import closed_user, open_dispatcher


def _prepare() -> tuple[loadfile.Load, Target, list[stream.Request], list[loadfile.Item]] | None:
    """The load file's work, read while Locust imports this file, so that worker processes share it; None by hand."""
    path = os.environ.get("NBRIDGE_LOAD")
    if not path or AFAR:
        return None
    try:
        load = loadfile.read_load(path)
        to = load.server()
        warm, measured = loadfile.read_prompts(load, to)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    return load, to, warm, measured


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        sys.stderr.write(f"{name} = {text!r}: expected a whole number of at least 1.\n")
        sys.exit(2)
    return int(text)


PROMPT_WORDS = _count("NBRIDGE_PROMPT_TOKENS", 64)
OUTPUT_TOKENS = _count("NBRIDGE_OUTPUT_TOKENS", 32)
ENDPOINT = os.environ.get("NBRIDGE_ENDPOINT", "completions")
if ENDPOINT not in ("completions", "chat", "hidden_states"):
    sys.stderr.write(f"NBRIDGE_ENDPOINT = {ENDPOINT!r}: expected completions, chat or hidden_states.\n")
    sys.exit(2)
AFAR = os.environ.get("NBRIDGE_LOAD") == "afar"  # a worker that will be given its load
WORK = _prepare()
KIND = WORK[0].kind if WORK else None
if WORK is None:  # by hand; a load file's prompts are made elsewhere
    from bench.plans.workload import words


class ClosedLoop(User):  # type: ignore[misc]
    """A user of a closed load: one connection, the next request when the last has ended."""

    abstract = KIND != "closed" and not AFAR

    @task  # type: ignore[untyped-decorator]
    def work(self) -> None:
        closed_user(self.environment.nbridge_crew)
        raise StopUser


class OpenLoop(User):  # type: ignore[misc]
    """The dispatcher of an open load, one per process."""

    abstract = KIND != "open" and not AFAR

    @task  # type: ignore[untyped-decorator]
    def work(self) -> None:
        open_dispatcher(self.environment.nbridge_crew)
        raise StopUser


class ByHand(User):  # type: ignore[misc]
    """A user for Locust's web page: seeded random prompts, one after the other, into Locust's own statistics."""

    abstract = WORK is not None or AFAR
    host = "http://127.0.0.1:8000"
    users = 0
    found: Found | None = None
    learning = BoundedSemaphore()

    def on_start(self) -> None:
        ByHand.users += 1
        self.sent = 0
        self.rng = random.Random(f"by hand/{ByHand.users}")  # noqa: S311 (reproducible, not secret)
        self.connection = Connection(loadfile.open_target(self.host, os.environ.get("NBRIDGE_API_KEY_ENV")))

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        try:
            with ByHand.learning:
                ByHand.found = found = ByHand.found or learn(
                    self.connection.target, model=os.environ.get("NBRIDGE_MODEL"), endpoint=ENDPOINT
                )
        except ProbeError as error:
            fire(self.environment, "GET", "/v1/models", 0.0, failure=str(error))
            gevent.sleep(1)
            return
        self.sent += 1
        text = words(self.rng, PROMPT_WORDS)
        asked = {"prompts": [text]} if ENDPOINT == "hidden_states" else {"prompt": text, "max_tokens": OUTPUT_TOKENS}
        prompt = {**asked, "scenario": ENDPOINT}
        what = stream.request(
            self.connection.target,
            prompt,
            request_id=str(uuid4()),
            model=found.model,
            endpoint=ENDPOINT,
            dialect=found.dialect,
        )
        record = stream.complete(self.connection, what, scheduled_s=now(), timeout_s=300.0)
        publish(self.environment, record)
        if record["outcome"] == "connection_error":
            gevent.sleep(1)


def on_init(environment: Any, runner: Any, **_: Any) -> None:
    """Sets up this process's part and, unless it is a worker, the number of users that the load asks for."""
    if AFAR:
        answer_pings(runner)
        given(runner, lambda path: take_from_afar(environment, path))
        return
    if WORK is None:
        return
    load, to, _warm, measured = WORK
    crew = crew_of(environment, load, to, measured)
    if isinstance(runner, WorkerRunner):
        register_worker(runner, crew)
        return
    conductor = environment.nbridge_conductor = Conductor(environment, crew)
    workers = 1
    if isinstance(runner, MasterRunner):
        workers = environment.parsed_options.expect_workers
        runner.register_message("nbridge_ready", lambda msg, **_: conductor.ready.add(msg.node_id))
        runner.register_message("nbridge_done", lambda msg, **_: conductor.done(msg.node_id, msg.data))
    users = load.concurrency if load.kind == "closed" and load.concurrency else workers
    environment.events.spawning_complete.add_listener(lambda **_: conductor.open_gates())
    environment.events.user_error.add_listener(
        lambda exception, **_: conductor.stop(f"a user failed: {exception!r}", 1)
    )
    environment.parsed_options.num_users = users
    environment.parsed_options.spawn_rate = min(users, 100)


def crew_of(environment: Any, load: loadfile.Load, to: Target, measured: list[loadfile.Item]) -> Crew:
    """This process's crew, where Locust's users find it."""
    crew = Crew(
        load,
        to,
        measured,
        publish=lambda record: publish(environment, record),
        spawn=gevent.spawn,
        serve=in_the_hub,
    )
    environment.nbridge_crew, environment.nbridge_conductor = crew, None
    return crew


def take_from_afar(environment: Any, path: Path) -> None:
    """A load that the master sent: encoded beside Locust's heartbeats, which must not wait for it."""
    load = loadfile.read_load(str(path))
    to = load.server()
    _, measured = gevent.get_hub().threadpool.apply(loadfile.read_prompts, (load, to))
    register_worker(environment.runner, crew_of(environment, load, to, measured))


def register_worker(runner: Any, crew: Crew) -> None:
    """What a worker does when the master says so: take a share, begin, stop."""

    def share(msg: Any, **_: Any) -> None:
        crew.share(range(msg.data["first"], msg.data["end"]), msg.data["of"])
        wait_for(lambda: crew.at_gate >= len(crew.slots) or crew.halt.is_set(), READY_S)
        runner.send_message("nbridge_ready")

    runner.register_message("nbridge_share", share, concurrent=True)
    runner.register_message("nbridge_go", lambda msg, **_: crew.start(msg.data["zero_s"]))
    runner.register_message("nbridge_stop", lambda msg, **_: crew.stop(msg.data["why"], msg.data["exit_code"]))


def on_test_start(environment: Any, **_: Any) -> None:
    """Opens the records file and, unless this is a worker, warms the server up; users are spawned when this returns."""
    if WORK is None and not AFAR:
        try:
            loadfile.open_target(environment.host or ByHand.host, os.environ.get("NBRIDGE_API_KEY_ENV"))
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            environment.process_exit_code = 2
            environment.runner.quit()
        return
    crew, conductor = environment.nbridge_crew, environment.nbridge_conductor
    path = Path(crew.load.records_path)
    if conductor is None and not AFAR:
        path = path.with_name(f"{path.stem}.{environment.runner.worker_index}{path.suffix}")
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, on_signal, environment)
    gevent.spawn(report_when_quiet, environment) if conductor is None else gevent.spawn(conductor.finish)
    if AFAR:
        crew.records = Forwarded(environment.runner.send_message)
        gevent.spawn(crew.records.run, crew.quiet.is_set)
        return
    try:
        crew.records = loadfile.Records(str(path))
    except OSError as error:
        crew.stop(f"the records file {path} cannot be opened: {error.strerror}", 4)
    if conductor is not None and WORK is not None and not crew.stopped:
        conductor.prepare(WORK[2])


def report_when_quiet(environment: Any) -> None:
    """A worker's last word to the master."""
    crew = environment.nbridge_crew
    crew.wait()
    if isinstance(crew.records, Forwarded):
        crew.records.flush()
    environment.runner.send_message("nbridge_done", crew.report())


def on_signal(environment: Any) -> None:
    """SIGINT or SIGTERM: what is in flight is recorded as aborted, the phase file is written, Locust goes."""
    if environment.nbridge_conductor is not None:
        environment.nbridge_conductor.stop("interrupted", 130)
        return
    environment.nbridge_crew.stop("interrupted", 130)
    environment.nbridge_crew.quiet.wait(DRAIN_S)
    gevent.sleep(2)  # time for the master to take the report; it tells the workers to quit, if it still can
    environment.runner.quit()


def on_stopping(environment: Any, **_: Any) -> None:
    """Locust stops for whatever reason (its own time limit, its web page, a signal): the phase ends in good order."""
    crew = getattr(environment, "nbridge_crew", None)
    if crew is None or (crew.records is None and not crew.stopped):
        return
    if environment.nbridge_conductor is not None:
        environment.nbridge_conductor.stop("interrupted", 130)
        environment.nbridge_conductor.over.wait(DRAIN_S + 10)
    else:
        environment.nbridge_crew.stop("interrupted", 130)
        environment.nbridge_crew.quiet.wait(DRAIN_S)


events.init.add_listener(on_init)
events.test_start.add_listener(on_test_start)
events.test_stopping.add_listener(on_stopping)
events.quitting.add_listener(on_stopping)
