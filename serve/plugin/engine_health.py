"""The engine's signs of life, seen from inside the server, and the health that follows from them.

vLLM's own check asks whether the engine has reported an error; an engine that hangs reports nothing. Here it lives when
its count of steps grows, or, when it does not, when it answers a question that goes through its loop to every worker.
The question is asked only then, so it costs a busy engine nothing, and it counts as no request.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge

from monitoring.alerting.thresholds import Thresholds
from monitoring.gpu import nvml
from monitoring.health import progress, server_gpus
from monitoring.health.figures import Gpu, Observation
from monitoring.health.verdict import Health, examine, hang
from monitoring.scrape.metrics import Sample
from monitoring.scrape.window import Scrape, scrape
from serve.errors import SettingsError
from serve.plugin.journal import Journal

LOOK_EVERY_S = 2.0
LOOK_AGAIN_S = 0.2  # however often somebody asks for /health/detail
WINDOW_S = 60.0
NVML_DEADLINE_S = 2.0
STALL_VARIABLE = "NBRIDGE_HEALTH_STALL_S"
DEFAULT_STALL_S = 12.0
# Of all that is on the page, what a verdict needs.
_WANTED = ("vllm:", "http_requests", "process_start_time_seconds")

SILENCE_S = Gauge(
    "nbridge_engine_silence_seconds",
    "Seconds since the engine last did a step or answered, as known when it was last looked after.",
    multiprocess_mode="livemax",
)
_log = logging.getLogger("vllm.nbridge.vitals")


@dataclass
class Vitals:
    """Looks after one engine from `start` on. `ask` is the question; `collect` gives the metrics of this server."""

    ask: Callable[[], Awaitable[Any]]
    collect: Callable[[], list[Sample]]
    journal: Journal
    thresholds: Thresholds
    stalled_s: float = DEFAULT_STALL_S
    clock: Callable[[], float] = time.monotonic
    unix_time: Callable[[], float] = time.time
    read_nvml: Callable[[], server_gpus.Readings] = nvml.readings

    def __post_init__(self) -> None:
        self._alive_s = self.clock()
        self._scrapes: deque[Scrape] = deque()
        self._question: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._nvml_hangs = False
        self._looking = asyncio.Lock()

    @property
    def silence_s(self) -> float:
        """Seconds since the engine's last sign of life."""
        return max(0.0, self.clock() - self._alive_s)

    @property
    def hang(self) -> str | None:
        """Why the engine counts as hanging, None while it does not."""
        seen = Observation(tuple(self._scrapes), engine_silence_s=self.silence_s, requests_in_work=self.journal.in_work)
        return hang(seen, self.stalled_s)

    def start(self) -> None:
        """Look every two seconds, as long as the running event loop lives."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="nbridge vitals")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - looking after the engine must not end because one look failed
                _log.exception("A look after the engine failed")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Take the server's metrics, and ask the engine when they show no step of every engine since the last look."""
        async with self._looking:
            if not self._scrapes or self.clock() - self._scrapes[-1].at_s >= LOOK_AGAIN_S:
                await self._look()
        SILENCE_S.set(self.silence_s)

    async def _look(self) -> None:
        new = scrape(self.clock(), await asyncio.to_thread(self.collect), self.unix_time())
        old = self._scrapes[-1] if self._scrapes else None
        self._scrapes.append(new)
        while len(self._scrapes) > 2 and new.at_s - self._scrapes[1].at_s >= WINDOW_S:
            self._scrapes.popleft()
        if old is not None and _all_moved(old, new):
            self._alive_s = new.at_s
        elif self._question is None or self._question.done():
            self._question = asyncio.get_running_loop().create_task(self._ask())
            # An engine that lives answers at once; then this look already knows.
            await asyncio.wait({self._question}, timeout=0.1)

    async def _ask(self) -> None:
        try:
            await self.ask()
        except Exception as error:  # noqa: BLE001 - an engine that is dead has its own words in vLLM's log
            _log.debug("The engine gave no answer: %s", error)
        else:
            self._alive_s = self.clock()

    async def examine(self, health_status: int | None = None) -> Health:
        """The verdict on this server; takes a look first, so that it is never older than that."""
        await self.look()
        gpus, problem = await asyncio.to_thread(self._gpus)
        ended = [one for one in self.journal.ended_since(self.clock() - WINDOW_S) if one.outcome == "ok"]
        generated = [one for one in ended if one.output_tokens]
        durations = {
            "e2e": [one.seconds for one in generated],
            "ttft": [one.ttft_s for one in generated if one.ttft_s is not None],
            "queue": [one.queue_s for one in generated if one.queue_s is not None],
        }
        seen = Observation(
            scrapes=tuple(self._scrapes),
            health_status=health_status,
            engine_silence_s=self.silence_s,
            requests_in_work=self.journal.in_work,
            durations_s=durations,
            gpus=gpus,
            gpu_problem=problem,
        )
        return await asyncio.to_thread(examine, seen, self.thresholds, stalled_s=self.stalled_s)

    def _gpus(self) -> tuple[list[Gpu], str | None]:
        if self._nvml_hangs:
            return [], "NVML has not answered once and is not asked again"
        try:
            return server_gpus.of_readings(server_gpus.within(NVML_DEADLINE_S, lambda: list(self.read_nvml()))), None
        except TimeoutError as error:
            self._nvml_hangs = True
            return [], str(error)


def samples_of(registry: Any) -> list[Sample]:
    """The samples in a prometheus_client registry that health is judged by."""
    return [
        Sample(sample.name, dict(sample.labels), float(sample.value))
        for family in registry.collect()
        if family.name.startswith(_WANTED)
        for sample in family.samples
    ]


def stall_limit_s(environ: Mapping[str, str] | None = None) -> float:
    """After how much silence an engine counts as hanging. Raises SettingsError for anything but a positive number."""
    text = (os.environ if environ is None else environ).get(STALL_VARIABLE)
    if text is None:
        return DEFAULT_STALL_S
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LOOK_EVERY_S < value < 86400:
        raise SettingsError(
            f"environment variable {STALL_VARIABLE} = {text!r}: expected seconds, more than {LOOK_EVERY_S:g}."
        )
    return value


def _all_moved(old: Scrape, new: Scrape) -> bool:
    before, after = old.series.get(progress.ITERATIONS, {}), new.series.get(progress.ITERATIONS, {})
    return bool(after) and all(value != before.get(labels) for labels, value in after.items())
