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

import json
import logging
import os
import random
import re
import signal
import sys
from pathlib import Path
from time import perf_counter as now
from typing import Any
from uuid import uuid4

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from bench.client import stream
from bench.client.connection import Connection
from bench.client.pages import metrics
from bench.client.probe import Found, ProbeError, learn
from bench.client.target import Target
from bench.load import loadfile
from bench.load.afar import Fleet, Forwarded, answer_pings, given, pack
from bench.load.crew import DRAIN_S, Crew
from bench.load.hub import in_the_hub
from bench.load.pulse import PULSE
from bench.load.users import closed_user, open_dispatcher, warm_up

log = logging.getLogger("nbridge.load")

SETTLE_S = 1.0  # how long the server's gauges may take to say that nothing runs
GO_LEAD_S = 0.2  # how far ahead the master sets zero, so that every worker has heard of it
READY_S = 15.0  # how long users may take to arrive at the gate
TOLD_S = 60.0  # how long workers may take to tell the master of their users, and that these are at the gate

_RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", re.MULTILINE)
_ZERO = ("0", "0.0")


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


class RequestFailed(Exception):
    """A recorded failure, as Locust's tables show it."""


def fire(environment: Any, kind: str, name: str, seconds: float, *, failure: str | None = None) -> None:
    """One request in Locust's own statistics (which hold milliseconds); nobody counted its bytes."""
    environment.events.request.fire(
        request_type=kind,
        name=name,
        response_time=seconds * 1000,
        response_length=0,
        exception=None if failure is None else RequestFailed(failure),
        context={},
    )


def part(environment: Any, kind: str, name: str, seconds: float) -> None:
    """One part of a request, in a row of its own: Locust's totals are of requests, and this one has been counted."""
    environment.runner.stats.get(name, kind).log(seconds * 1000, 0)


def publish(environment: Any, record: dict[str, Any]) -> None:
    """A record in Locust's own statistics: the request end to end, and time to first token and per token beside it."""
    sent, first, last = (record[key] for key in ("sent", "first_token", "last_token"))
    failure = None if record["outcome"] == "ok" else f"{record['outcome']} ({record['error_kind']}): {record['error']}"
    if failure is not None:
        failure = re.sub(r"\d+", "#", failure)[:160]  # Locust keeps every text that it has not seen yet
    spent_s = record["ended"] - sent if sent is not None and record["ended"] is not None else 0.0
    fire(environment, "E2E", record["scenario"], spent_s, failure=failure)
    if first is not None and sent is not None:
        part(environment, "TTFT", record["scenario"], first - sent)
        if (after := record["tokens_after_first"]) is not None and after > 0:
            part(environment, "TPOT", record["scenario"], (last - first) / after)


class Conductor:
    """Leads a measured phase from warm-up to phase file; one per run, in the process that is not a worker."""

    def __init__(self, environment: Any, crew: Crew) -> None:
        self.environment, self.crew = environment, crew
        self.over = Event()
        self.metrics_before: str | None = None
        self.workers: set[str] = set()
        self.ready: set[str] = set()
        self.reports: dict[str, dict[str, Any]] = {}
        self.distributed = isinstance(environment.runner, MasterRunner)
        self.fleet = Fleet(environment.runner, Path(crew.load.records_path), self.stop) if crew.load.machines else None

    def prepare(self, warm: list[stream.Request]) -> None:
        """Sends the warm-up requests and scrapes the server when it has nothing left to do."""
        if self.fleet is not None:
            message = pack(Path(os.environ["NBRIDGE_LOAD"]), Path(self.crew.load.prompts_path))
            if (why := self.fleet.prepare(message, lambda: self.crew.stopped is not None)) is not None:
                self.stop(why, 0)
                return
        warm_up(self.crew, warm)
        if not self.crew.stopped:
            self.metrics_before = settled_metrics(self.crew.target)

    def open_gates(self) -> None:
        """Begins the measured phase once every user waits for it."""
        crew, runner = self.crew, self.environment.runner
        if crew.stopped or crew.zero_s is not None:
            return
        if not self.distributed:
            users = crew.load.concurrency if crew.load.kind == "closed" else 1
            crew.share(range(users or 1), users or 1)
            wait_for(lambda: crew.at_gate >= len(crew.slots) or crew.halt.is_set(), READY_S)
            crew.start(now())
            return
        # Locust waits for its workers' counts of users for a second only; a worker without users would issue nothing.
        wanted = self.environment.parsed_options.num_users
        if not wait_for(lambda: sum(users_of(runner).values()) >= wanted or crew.halt.is_set(), TOLD_S):
            self.stop(f"the Locust worker processes did not start {wanted} users within {TOLD_S:.0f} s", 1)
            return
        start, shares = 0, {}
        for worker, users in users_of(runner).items():
            shares[worker] = (start, start + users)
            start += users
        self.workers = set(shares)
        for worker, (first, end) in shares.items():
            runner.send_message("nbridge_share", {"first": first, "end": end, "of": start}, worker)
        if not wait_for(lambda: self.ready >= self.workers or crew.halt.is_set(), TOLD_S):
            self.stop(f"the Locust worker processes were not ready within {TOLD_S:.0f} s", 1)
        if not crew.stopped:
            crew.zero_s = now() + GO_LEAD_S
            for worker in self.workers:
                zero_s = crew.zero_s if self.fleet is None else self.fleet.theirs(worker, crew.zero_s)
                runner.send_message("nbridge_go", {"zero_s": zero_s}, worker)

    def done(self, worker: str, report: dict[str, Any]) -> None:
        """A worker has nothing left to do."""
        self.reports[worker] = report if self.fleet is None else self.fleet.report(worker, report)

    def stop(self, why: str, exit_code: int) -> None:
        """Ends the phase early, here and in the workers."""
        if not self.over.is_set() and not self.crew.stopped:
            self.crew.stop(why, exit_code)
            if self.distributed:
                self.environment.runner.send_message("nbridge_stop", {"why": why, "exit_code": exit_code})

    def finish(self) -> None:
        """Waits for the end of the phase, writes the phase file and lets Locust go."""
        if self.distributed:
            self._gather()
        else:
            self.crew.wait()
            self.reports["local"] = self.crew.report()
        reports = [self.crew.report(), *self.reports.values()]
        exit_code = max(report["exit_code"] for report in reports)
        document = self._document(reports, settled_metrics(self.crew.target))
        if document["stopped"]:
            sys.stderr.write(f"The load was stopped: {document['stopped']}.\n")
        try:
            path = Path(self.crew.load.phase_path)
            partial = path.with_name(f"{path.name}.partial")
            partial.write_text(json.dumps(document), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            sys.stderr.write(f"The phase file {self.crew.load.phase_path} cannot be written: {error}.\n")
            exit_code = 4
        self.environment.process_exit_code = exit_code
        self.over.set()
        self.environment.runner.quit()

    def _document(self, reports: list[dict[str, Any]], metrics_after: str | None) -> dict[str, Any]:
        load, zero_s = self.crew.load, self.crew.zero_s
        stopped = next((report["stopped"] for report in reports if report["stopped"]), None)
        ended = [report["ended_s"] for report in self.reports.values() if report["ended_s"] is not None]
        totals = {key: sum(report[key] for report in self.reports.values()) for key in ("issued", "reused", "dropped")}
        return {
            "zero": zero_s,
            "window_end": zero_s + load.seconds if zero_s is not None and load.seconds is not None else None,
            "ended": max(ended, default=now()),
            "metrics_before": self.metrics_before,
            "metrics_after": metrics_after,
            "dropped": totals["dropped"],
            "warmup_failed": self.crew.warmup_failed,
            "client_cpu_s": sum(report["cpu_s"] for report in self.reports.values()),
            # of the process that fared worst: its part of the load is wrong, whatever the others did
            **{key: max((r[key] for r in self.reports.values() if r[key] is not None), default=None) for key in PULSE},
            "exhausted": stopped is None,
            "stopped": stopped,
            "issued": totals["issued"],
            "prompts_reused": totals["reused"],
            "workers": len(self.reports),
            "machines": None if self.fleet is None else self.fleet.machines(),
        }

    def _gather(self) -> None:
        """Waits for every worker's report; a stopped run waits for the drain, a lost worker stops it."""
        clients, deadline_s = self.environment.runner.clients, None
        while not (self.workers and self.workers <= set(self.reports)):
            gevent.sleep(0.05)
            if self.crew.stopped:
                deadline_s = deadline_s or now() + DRAIN_S + 2
                if not self.workers or now() > deadline_s:
                    return
            alive = {client.id for client in clients.all} - {client.id for client in clients.missing}
            if lost := self.workers - set(self.reports) - alive:
                self.stop(f"{len(lost)} of {len(self.workers)} Locust worker processes died", 1)
            for report in self.reports.values():
                if report["stopped"]:
                    self.stop(report["stopped"], report["exit_code"])


def settled_metrics(to: Target) -> str | None:
    """The target's metrics once its gauges say that no request runs or waits (or after SETTLE_S); None without any."""
    deadline_s = now() + SETTLE_S
    while True:
        text = metrics(to, timeout_s=2.0)
        if text is None or now() > deadline_s or not any(value not in _ZERO for value in _RUNNING.findall(text)):
            return text
        gevent.sleep(0.05)


def users_of(runner: Any) -> dict[str, int]:
    """How many users each worker has told the master of."""
    return {client.id: sum(client.user_classes_count.values()) for client in runner.clients.all}


def wait_for(condition: Any, limit_s: float) -> bool:
    """Whether the condition came to hold within the limit."""
    deadline_s = now() + limit_s
    while not (holds := bool(condition())) and now() < deadline_s:
        gevent.sleep(0.005)
    return holds


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
