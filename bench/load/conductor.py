"""The conductor of a measured phase: warm-up, gates, the workers' reports, the phase file. Runs inside Locust."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from time import perf_counter as now
from typing import Any

import gevent
from gevent.event import Event
from locust.runners import MasterRunner

from bench.client import stream
from bench.client.pages import metrics
from bench.client.target import Target
from bench.load.afar import Fleet, pack
from bench.load.crew import DRAIN_S, Crew
from bench.load.pulse import PULSE
from bench.load.users import warm_up

SETTLE_S = 1.0  # how long the server's gauges may take to say that nothing runs
GO_LEAD_S = 0.2  # how far ahead the master sets zero, so that every worker has heard of it
READY_S = 15.0  # how long users may take to arrive at the gate
TOLD_S = 60.0  # how long workers may take to tell the master of their users, and that these are at the gate
_RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", re.MULTILINE)
_ZERO = ("0", "0.0")


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
