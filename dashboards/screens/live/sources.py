"""Live figures: metrics pages of servers and exporters over the last minutes, asked for directly or from Prometheus.

Both ways end in the same `monitoring.scrape.window.Scrape`s, so that every figure of the page is computed by one code.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from dashboards.errors import SourceError
from monitoring.health.figures import GPU_FIELDS, HISTOGRAMS, KV_USAGE, PREEMPTIONS, REJECTED
from monitoring.health.progress import ITERATIONS, RUNNING, WAITING
from monitoring.scrape.address import reachable
from monitoring.scrape.http_exchange import certificates
from monitoring.scrape.metrics import MetricsError, Sample, fetch, parse
from monitoring.scrape.window import START_TIME, Scrape, scrape

COUNTERS = (
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    PREEMPTIONS,
    REJECTED,
    "http_requests_total",
    ITERATIONS,
)
KEPT = frozenset(
    {
        START_TIME,
        RUNNING,
        WAITING,
        KV_USAGE,
        *COUNTERS,
        *(f"{name}_{part}" for name in HISTOGRAMS.values() for part in ("bucket", "sum", "count")),
        *(f"nbridge_gpu_{name}" for name in ("up", "throttle_seconds_total", *GPU_FIELDS)),
    }
)
POINTS = 180  # scrapes that Prometheus is asked for: a figure is not wider
GATEWAY = "nbridge_gateway_"
Fetch = Callable[[str], str]


@dataclass(frozen=True)
class Seen:
    """What is known of one address: its scrapes, the oldest first, and why there is none now (None: it answers)."""

    address: str
    scrapes: tuple[Scrape, ...]
    problem: str | None = None

    @property
    def has_gpus(self) -> bool:
        return any("nbridge_gpu_up" in one.series for one in self.scrapes[-1:])

    @property
    def has_gateway(self) -> bool:
        return any(f"{GATEWAY}retries_allowed" in one.series for one in self.scrapes[-1:])

    @property
    def has_engine(self) -> bool:
        return any(RUNNING in one.series for one in self.scrapes[-1:])


def kept(samples: Iterable[Sample]) -> list[Sample]:
    """The samples that a figure of the page is made of: about a tenth of a server's page, and all of a gateway's."""
    return [sample for sample in samples if sample.name in KEPT or sample.name.startswith(GATEWAY)]


@dataclass
class Watch:
    """Remembers the pages of servers and exporters for `history_s`; shared by all visitors of the app.

    Pages are fetched when somebody looks, at most every `every_s`, all at once and each within `timeout_s`.
    """

    addresses: Sequence[str]
    history_s: float
    every_s: float
    timeout_s: float = 3.0
    fetch: Fetch | None = None
    clock: Callable[[], float] = time.time
    _scrapes: dict[str, deque[Scrape]] = field(default_factory=dict)
    _problems: dict[str, str | None] = field(default_factory=dict)
    _looked_s: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> list[Seen]:
        """Every address as it is now."""
        with self._lock:
            if self.addresses and self.clock() - self._looked_s >= self.every_s * 0.9:
                with ThreadPoolExecutor(max_workers=min(16, len(self.addresses))) as pool:
                    list(pool.map(self._visit, self.addresses))
                self._looked_s = self.clock()
            return [Seen(one, tuple(self._scrapes.get(one, ())), self._problems.get(one)) for one in self.addresses]

    def _visit(self, address: str) -> None:
        try:
            page = self.fetch(address) if self.fetch else fetch(address, timeout_s=self.timeout_s)
            samples = kept(parse(page))
        except MetricsError as error:
            self._problems[address] = str(error)
            return
        now = self.clock()
        remembered = self._scrapes.setdefault(address, deque())
        remembered.append(scrape(now, samples, now))
        while remembered[0].at_s < now - self.history_s:
            remembered.popleft()
        self._problems[address] = None


def ask_prometheus(address: str, *, history_s: float, now_s: float, timeout_s: float = 5.0) -> list[Seen]:
    """Every server and exporter that the Prometheus at `address` scrapes; raises SourceError with the reason."""
    names = "|".join((*sorted(KEPT | {"up"}), f"{GATEWAY}.+"))
    step_s = max(history_s / POINTS, 1.0)
    form = {"query": f'{{__name__=~"{names}"}}', "start": now_s - history_s, "end": now_s, "step": step_s}
    url = f"{reachable(address)}/api/v1/query_range"
    try:
        answer = httpx.post(url, data=form, timeout=timeout_s, trust_env=False, verify=certificates())
    except httpx.HTTPError as error:
        raise SourceError(f"Prometheus at {address} does not answer ({type(error).__name__}: {error}).") from error
    try:
        document = answer.json()
    except ValueError as error:
        raise SourceError(f"{address} answers HTTP {answer.status_code}, but not as a Prometheus does.") from error
    if not isinstance(document, dict) or document.get("status") != "success":
        said = document.get("error") if isinstance(document, dict) else None
        raise SourceError(f"Prometheus at {address} refused the query: {said or f'HTTP {answer.status_code}'}.")
    return of_matrix(document["data"]["result"])


def of_matrix(result: Sequence[dict[str, Any]]) -> list[Seen]:
    """The series of a range query as the pages they were scraped from, one list for each instance that has any."""
    pages: dict[str, dict[float, list[Sample]]] = {}
    up: dict[str, float] = {}
    for series in result:
        labels = {
            name: value for name, value in series["metric"].items() if name not in ("__name__", "instance", "job")
        }
        instance = str(series["metric"].get("instance", "?"))
        name = series["metric"].get("__name__", "")
        if name == "up":
            up[instance] = float(series["values"][-1][1])
            continue
        page = pages.setdefault(instance, {})
        for at, value in series["values"]:
            page.setdefault(float(at), []).append(Sample(name, labels, float(value)))
    return [
        Seen(
            instance,
            tuple(scrape(at, samples, at) for at, samples in sorted(page.items())),
            None if up.get(instance, 1.0) else "Prometheus cannot scrape it: it does not answer",
        )
        for instance, page in sorted(pages.items())
    ]
