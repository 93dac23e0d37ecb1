"""Looks at a server from outside: several scrapes, /health, one canary, and the GPUs beside it → an Observation."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from monitoring.gpu import nvml
from monitoring.health import server_gpus
from monitoring.health.figures import Gpu, Observation
from monitoring.scrape import http_exchange
from monitoring.scrape.address import is_loopback
from monitoring.scrape.canary import Canary
from monitoring.scrape.metrics import MetricsError, check, parse
from monitoring.scrape.window import Scrape, scrape

SCRAPE_DEADLINE_S = 5.0
NVML_DEADLINE_S = 5.0
SCRAPES = 5  # in a window, beside the first
# vLLM counts a request's end a moment after it has answered; the figures shall not contain the canary's.
SETTLE_S = 0.3


@dataclass
class Checkup:
    """How a server is looked at for `window_s` seconds. `server` and `exporter`: see http_exchange.address."""

    server: str
    window_s: float = 10.0
    deadline_s: float = 5.0
    with_canary: bool = True
    model: str | None = None
    api_key_env: str | None = None
    exporter: str | None = None
    read_nvml: Callable[[], server_gpus.Readings] = nvml.readings
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    on_step: Callable[[str], None] = lambda _: None
    _scrapes: list[Scrape] = field(default_factory=list)
    _gpu_scrapes: list[Scrape] = field(default_factory=list)
    _problem: str | None = None
    _gpu_problem: str | None = None
    _skew_s: float | None = None

    @property
    def stalled_s(self) -> float:
        """How long an engine with work may do no step; a bit less than the window, which no two scrapes span whole."""
        return 0.8 * self.window_s

    def run(self) -> Observation:
        """Look. Takes about `window_s`, less when nothing answers. Raises SettingsError for a bad address or key."""
        started_s = self.clock()
        headers = http_exchange.key_headers(self.api_key_env)
        canary = Canary(self.server, model=self.model, api_key_env=self.api_key_env, deadline_s=self.deadline_s)
        self.on_step("asking for /health and /metrics")
        health = self._health(headers)
        self._scrape(headers)
        self._scrape_gpus()
        beat, figures_from = None, 0
        if isinstance(health, str) and not self._scrapes:
            # Nobody is there, and no window will change that.
            return Observation(metrics_problem=self._problem, health_problem=health, gpus=self._gpus()[0])
        if self.with_canary:
            self.on_step("asking for one token")
            beat = canary.ask()
            figures_from = len(self._scrapes)
            self.sleep(SETTLE_S)
        # A server that took its time so far is still watched for a while: rates need two scrapes.
        self._watch(max(started_s + self.window_s, self.clock() + self.window_s / 2), headers)
        self._scrape_gpus()
        gpus, gpu_problem = self._gpus()
        said = health if not isinstance(health, str) else None
        return Observation(
            scrapes=tuple(self._scrapes),
            figures_from=min(figures_from, max(0, len(self._scrapes) - 1)),
            metrics_problem=self._problem,
            health_status=said[0] if said else None,
            health_problem=health if isinstance(health, str) else None,
            health_body=said[1] if said else None,
            canary=beat,
            gpus=gpus,
            gpu_problem=gpu_problem,
            clock_skew_s=self._skew_s,
        )

    def _watch(self, until_s: float, headers: dict[str, str]) -> None:
        pause_s = max(self.window_s / SCRAPES, 0.2)
        self._scrape(headers)
        while (left_s := until_s - self.clock()) > 0:
            self.on_step(f"watching for another {left_s:.0f} s")
            self.sleep(min(pause_s, left_s))
            self._scrape(headers)

    def _scrape(self, headers: dict[str, str]) -> None:
        self._problem = None
        try:
            self._scrapes.append(self._page(self.server, headers))
        except (http_exchange.NoAnswer, MetricsError) as error:
            self._problem = str(error)

    def _page(self, server: str, headers: dict[str, str]) -> Scrape:
        asked_s, asked_unix_s = self.clock(), time.time()
        answer = http_exchange.exchange("GET", f"{server}/metrics", deadline_s=SCRAPE_DEADLINE_S, headers=headers)
        check(answer)
        server_time_s = unix_time_s(answer.date)
        if server == self.server and server_time_s is not None:
            skew_s = server_time_s + 0.5 - (asked_unix_s + time.time()) / 2  # the header has whole seconds, cut off
            self._skew_s = skew_s if abs(skew_s) > 1 else 0.0
        return scrape((asked_s + self.clock()) / 2, parse(answer.text), server_time_s)

    def _health(self, headers: dict[str, str]) -> tuple[int, Mapping[str, Any]] | str:
        """Status and body, or why there are none."""
        try:
            answer = http_exchange.exchange(
                "GET", f"{self.server}/health", deadline_s=SCRAPE_DEADLINE_S, headers=headers
            )
        except http_exchange.NoAnswer as error:
            return str(error)
        if answer.is_html and answer.status == 200:
            return "an HTML page; is it the server's own address?"
        try:
            body = json.loads(answer.text)
        except (ValueError, RecursionError):
            body = {}  # as vLLM's own, which is empty
        return answer.status, body if isinstance(body, dict) else {}

    def _scrape_gpus(self) -> None:
        if self.exporter is not None:
            try:
                self._gpu_scrapes.append(self._page(self.exporter, {}))
            except (http_exchange.NoAnswer, MetricsError) as error:
                self._gpu_scrapes = []
                self._gpu_problem = f"the exporter {self.exporter}: {error}"

    def _gpus(self) -> tuple[list[Gpu], str | None]:
        if self.exporter is not None:
            return server_gpus.of_page(self._gpu_scrapes), self._gpu_problem
        if not is_loopback(self.server):
            return [], None
        try:
            return server_gpus.of_readings(server_gpus.within(NVML_DEADLINE_S, lambda: list(self.read_nvml()))), None
        except TimeoutError as error:
            return [], str(error)


def unix_time_s(date: str | None) -> float | None:
    """The instant of an HTTP Date header, None when there is none or it is none."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
