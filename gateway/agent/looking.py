"""Looks at servers from outside: canaries, the engine's steps beside them, and what HAProxy counted of them.

Every server gets a canary now and then: bytes that flow may be garbage. One that has requests and makes no progress is
in doubt, and is asked at once.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gateway import adapters
from gateway.agent.verdict import WINDOW_S, Probe, Signs, Standing, silence_s
from gateway.errors import AdapterRefused
from gateway.haproxy.runtime import Row
from gateway.settings import Adapter, Health, Server
from monitoring.errors import MonitoringError
from monitoring.health.progress import ITERATIONS
from monitoring.scrape import http_exchange
from monitoring.scrape.canary import Canary
from monitoring.scrape.metrics import fetch, parse, total

RELIST_S = 5.0
TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


@dataclass(frozen=True)
class Counted:
    """What an engine has counted since its start: steps, prompt and output tokens; None what it does not count."""

    steps: float | None
    tokens: tuple[float, float] | None


@dataclass
class Watched:
    """One server, what was seen of it and where it stands. `asks` and `reads` run in threads of their own."""

    server: Server
    backend: str
    rules: Health
    pool: ThreadPoolExecutor
    clock: Callable[[], float] = time.monotonic
    failed: threading.Event = field(default_factory=threading.Event)  # a first canary: another one is to follow at once
    standing: Standing = field(default_factory=Standing)
    row: Row | None = None
    listed: dict[str, Any] | None = None
    busy: bool = False
    ejections: int = 0
    tokens: tuple[float, float] | None = None
    adapters: tuple[Adapter, ...] = ()
    silent_s: float = 0.0

    def __post_init__(self) -> None:
        self._canary: Canary | None = None
        self._probes: deque[Probe] = deque(maxlen=2)
        self._asking: Future[Probe] | None = None
        self._reading: Future[Counted | None] | None = None
        self._counted: tuple[float, float] | None = None
        self._iterations: float | None = None
        self._stepped_s: float | None = None
        self._sent_s: float | None = None
        self._looked_s: float | None = None
        self._rows: deque[tuple[float, Row]] = deque()
        self._confirmed = False
        self._listed_s = 0.0

    @property
    def last(self) -> Probe | None:
        return self._probes[-1] if self._probes else None

    @property
    def is_silent(self) -> bool:
        """Whether nothing has moved for as long as a canary may take."""
        return self.silent_s >= self.rules.canary_deadline_s

    def look(self, row: Row | None, *, others_silent: bool = False) -> Signs:
        """Take in what HAProxy counted and what has come back, ask anew where it is time, and say what is known."""
        now_s = self.clock()
        progress_s, last = self._progress_s(), self.last
        is_asked = self._asking is not None or (last is not None and last.failed == "late")
        self._take_in(row, now_s)
        is_answered = self.last is not None and self.last is not last and self.last.failed != "late"
        if is_answered or self._progress_s() != progress_s:
            self.silent_s = 0.0
        elif is_asked and self._looked_s is not None:
            # For as long as we stood still ourselves we cannot say that it did.
            self.silent_s += min(now_s - self._looked_s, 2 * self.rules.look_s)
        self._looked_s = now_s
        in_doubt = row is not None and row.sessions > 0 and (self._progress_s() or 0.0) < now_s - self.rules.look_s
        if self._asking is None and (in_doubt or self._is_due(now_s)):
            self._asking = self.pool.submit(self._ask)
            self._asking.add_done_callback(self._say_failed)
        # With every canary, so that a late one can be told from a busy engine.
        if self._asking is not None and self._reading is None:
            self._reading = self.pool.submit(self._steps)
        oldest = self._rows[0][1] if self._rows else None
        attempts = row.attempts - oldest.attempts if row and oldest else 0
        failures = row.failures - oldest.failures if row and oldest else 0
        unconnected = row.unconnected if row else None
        return Signs(tuple(self._probes), self.silent_s, others_silent, unconnected, attempts, min(failures, attempts))

    def _progress_s(self) -> float | None:
        """When the server last made progress: its engine's steps and canaries, and bytes where it counts no steps.

        Bytes alone can come from in front of an engine that hangs: refusals, tokens of a text, the list of models.
        """
        known = [self._stepped_s] if self._iterations is not None else [self._stepped_s, self._sent_s]
        return max((one for one in known if one is not None), default=None)

    def _take_in(self, row: Row | None, now_s: float) -> None:
        if self._asking is not None and self._asking.done():
            probe = self._asking.result()
            self._asking = None
            self._probes.append(probe)
            if probe.failed is None:
                self._stepped_s = max(self._stepped_s or 0.0, probe.ended_s)
        if self._reading is not None and self._reading.done():
            read, self._reading = self._reading.result(), None
            if read is not None:
                self._count(read, now_s)
        if row is None:
            return
        if self.row is not None and row.bytes_out > self.row.bytes_out:
            self._sent_s = now_s
        if self.row is not None and row.attempts < self.row.attempts:
            self._rows.clear()  # HAProxy began anew
        self.row = row
        self._rows.append((now_s, row))
        while len(self._rows) > 1 and self._rows[1][0] <= now_s - WINDOW_S:
            self._rows.popleft()

    def _count(self, read: "Counted", now_s: float) -> None:
        if read.steps is not None:
            if self._iterations is not None and read.steps != self._iterations:
                self._stepped_s = now_s
            self._iterations = read.steps
        if read.tokens is not None:
            before = self._counted or read.tokens
            # A counter that begins anew has counted all that it shows.
            more = [new - old if new >= old else new for new, old in zip(read.tokens, before, strict=True)]
            known = self.tokens or (0.0, 0.0)
            self.tokens, self._counted = (known[0] + more[0], known[1] + more[1]), read.tokens

    def forget_attempts(self) -> None:
        """Count attempts from now on: those before an ejection do not speak against a server that returns."""
        while len(self._rows) > 1:
            self._rows.popleft()

    def _is_due(self, now_s: float) -> bool:
        last = self.last
        if last is None:
            return True
        moved = last.failed == "late" and (self._progress_s() or 0.0) >= last.started_s
        if last.counts and not self.standing.out and not moved:
            return True  # a second canary follows a failed one at once, unless the server is just busy
        return now_s - last.ended_s >= min(self.rules.canary_interval_s, 1.0 if self.standing.out else 1e9)

    def _say_failed(self, asked: "Future[Probe]") -> None:
        if asked.result().counts and not (self.last is not None and self.last.counts):
            self.failed.set()

    def _ask(self) -> Probe:
        """One canary; the first one, and the first after a failure, also looks at which models the server lists.

        Where there are adapters it looks every few seconds, and has the server load those that it lacks: it may have
        been started anew between two canaries.
        """
        started_s = self.clock()
        try:
            if self._canary is None:
                self._canary = Canary(
                    self.server.url,
                    model=self.server.model,
                    api_key_env=self.server.api_key_env,
                    deadline_s=self.rules.canary_deadline_s,
                )
            if self.adapters and started_s - self._listed_s >= RELIST_S:
                self._confirmed = False
            if not self._confirmed and (words := self._other_model() or self._without_adapter()):
                return Probe(started_s, self.clock(), "other", words)
            beat = self._canary.ask()
        except MonitoringError as error:
            self._confirmed = False
            late = isinstance(error, http_exchange.NoAnswer) and error.slow
            return Probe(started_s, self.clock(), "late" if late else "down", str(error))
        self._confirmed = beat.up
        failed = None if beat.failed == "unserved" else beat.failed
        return Probe(started_s, self.clock(), failed, beat.reason, beat.latency_s)

    def _other_model(self) -> str | None:
        """Which models the server lists, when ours is not among them; one that lists none is taken at its word."""
        answer = http_exchange.exchange(
            "GET",
            f"{self.server.url}/v1/models",
            deadline_s=self.rules.canary_deadline_s,
            headers=http_exchange.key_headers(self.server.api_key_env),
        )
        try:
            entries = {str(one["id"]): dict(one) for one in json.loads(answer.text)["data"]}
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        if entries and self.server.model not in entries:
            return f"it serves {', '.join(sorted(entries))[:100]} and not {self.server.model}"
        self.listed, self._listed_s = entries, self.clock()
        return None

    def _without_adapter(self) -> str | None:
        """Why the server lacks an adapter that its model has here; None when it has all of them."""
        for one in self.adapters:
            listed = (self.listed or {}).get(one.name)
            if listed is not None and listed.get("root", one.path) == one.path:
                continue
            try:
                if listed is not None:
                    adapters.unload(self.server, one.name)  # another one of that name
                adapters.load(self.server, one)
            except AdapterRefused as error:
                return str(error)
        return None

    def take(self, wanted: tuple[Adapter, ...]) -> None:
        """These adapters from now on; the next canary sees to them."""
        if wanted != self.adapters:
            self.adapters, self._confirmed = wanted, False

    def _steps(self) -> "Counted | None":
        """The engine's counts of steps and tokens; None when its page does not come, be it late."""
        try:
            page = fetch(
                self.server.url,
                timeout_s=silence_s(self.rules),
                headers=http_exchange.key_headers(self.server.api_key_env),
            )
            # Of a page of thousands of lines a few are needed, and parsing is what costs.
            lines = [line for line in page.splitlines() if line.startswith((ITERATIONS, *TOKENS))]
            samples = parse("\n".join(lines) + "\n")
        except MonitoringError:
            return None
        steps, prompt, output = (total(samples, name) for name in (ITERATIONS, *TOKENS))
        return Counted(steps, None if prompt is None or output is None else (prompt, output))
