"""Timed samples of a server beside a load: its metrics, its processes' memory, and the GPUs where there are any.

Runs in a thread of its own. A source that does not answer leaves a gap, never a zero and never an old value.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import psutil

from monitoring.gpu import nvml
from monitoring.scrape.address import is_loopback
from monitoring.scrape.metrics import MetricsError, fetch, parse

# Gauges and counters worth a time series; histograms are compared once per cell, by sum and count.
SERVER_SERIES = frozenset(
    {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_queries_total",
    }
)


_WANTED = tuple(SERVER_SERIES)

# Reading a large process's PSS makes the kernel walk its pages: not at every round, lest it slows what it measures.
MEMORY_EVERY = 5


@dataclass(frozen=True)
class Reading:
    """One value at one instant of the machine's monotonic clock."""

    at_s: float
    source: str
    name: str
    labels: str
    value: float


def process_memory(pids: Iterable[int]) -> int | None:
    """Proportional memory (PSS) in bytes of the processes `pids`, added up; None when none of them can be read.

    A page that n of them share counts 1/n in each, so the sum is what they occupy together.
    """
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            memory = psutil.Process(pid).memory_full_info()
            found.append(int(getattr(memory, "pss", memory.rss)))
    return sum(found) if found else None


@dataclass
class Sampler:
    """Takes a reading of every source each `interval_s` seconds between `start` and `stop`."""

    base_url: str
    pids: Callable[[], list[int]]
    headers: dict[str, str] = field(default_factory=dict)
    interval_s: float = 1.0
    clock: Callable[[], float] = time.perf_counter
    read: Callable[[], str] | None = None  # how to read the page where a plain GET does not do; raises MetricsError
    readings: list[Reading] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _rounds: int = 0

    def __enter__(self) -> "Sampler":
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.take()
            self._stop.wait(self.interval_s)

    def take(self) -> None:
        """One reading of every source, now."""
        now = self.clock()
        of_gpus = [nvml.ENERGY]
        if self._rounds % MEMORY_EVERY == 0:
            pids = self.pids()
            memory = process_memory(pids)
            if memory is not None:
                self._add(now, "process", "memory_bytes", {}, memory)
            of_gpus.append(nvml.held_by(frozenset(pids)))
        self._rounds += 1
        if is_loopback(self.base_url):  # the GPUs of this machine are none of a server's elsewhere
            now = self.clock()
            for name, labels, value in nvml.readings(*of_gpus):
                self._add(now, "gpu", name, labels, value)
        with contextlib.suppress(MetricsError):
            read = self.read or partial(fetch, self.base_url, timeout_s=self.interval_s * 2, headers=self.headers)
            page = read()
            now = self.clock()
            # Only the lines that are wanted: reading a whole page takes 10 ms of a core that the load needs.
            wanted = "\n".join(line for line in page.splitlines() if line.startswith(_WANTED))
            for sample in parse(f"{wanted}\n"):
                if sample.name in SERVER_SERIES:
                    self._add(now, "server", sample.name, sample.labels, sample.value)

    def _add(self, at_s: float, source: str, name: str, labels: dict[str, str], value: float) -> None:
        self.readings.append(Reading(at_s, source, name, json.dumps(labels, sort_keys=True), float(value)))
