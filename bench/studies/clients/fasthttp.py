"""Locust's own client, FastHttpUser, with a time stamp per event: a Locust file.

    NBRIDGE_CLIENTS_LOAD='{"requests": 320, "tokens": 64, "users": 32, "out": "…"}' locust -f …/fasthttp.py --headless

As in bench.studies.clients.bare, connections are opened first, an answer is parsed when it has ended, and one line per
request goes to `out`.
"""

import json
import os
from itertools import count
from pathlib import Path
from time import perf_counter as now
from typing import Any

import gevent
from gevent.event import Event
from locust import FastHttpUser, events, task
from locust.exception import StopUser

from bench.studies.clients.seen import Answer, asked, read_stream

LOAD: dict[str, Any] = json.loads(os.environ["NBRIDGE_CLIENTS_LOAD"])


class Asking(FastHttpUser):  # type: ignore[misc]
    """A closed-loop user."""

    numbers = count(1)
    opened = left = 0
    gate = Event()
    found: list[dict[str, Any]] = []  # noqa: RUF012 (shared by all users)

    def ask(self, request_id: str, tokens: int) -> Answer:
        headers, sent_s = {"X-Request-Id": request_id}, now()
        response = self.client.post("/v1/completions", json=asked(tokens), headers=headers, stream=True)
        reads = []
        while line := response.stream.readline(b"\n\n"):
            reads.append((now(), bytes(line)))
        return Answer(sent_s, reads, response.status_code == 200)

    @task  # type: ignore[untyped-decorator]
    def work(self) -> None:
        self.ask("warm-up", 2)
        Asking.opened += 1
        if Asking.opened == LOAD["users"]:
            Asking.gate.set()
        Asking.gate.wait()
        while (number := next(Asking.numbers)) <= LOAD["requests"]:
            try:
                answer = self.ask(f"r{number}", LOAD["tokens"])
            except Exception:  # noqa: BLE001 (whatever it is, the request is lost)
                answer = Answer(now(), [], complete=False)
            # its buffer hides which events one read brought
            Asking.found.append(read_stream(f"r{number}", answer) | {"reads": None, "coalesced": None})
        Asking.left += 1
        if Asking.left == LOAD["users"]:
            lines = "".join(json.dumps(request) + "\n" for request in Asking.found)
            Path(LOAD["out"]).write_text(lines, encoding="utf-8")
            gevent.spawn(self.environment.runner.quit)
        raise StopUser


@events.init.add_listener  # type: ignore[untyped-decorator]
def _quiet(environment: Any, **_: Any) -> None:
    environment.process_exit_code = 0
