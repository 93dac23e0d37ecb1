"""The canary: asks a server for one token, again and again. It notices what /health does not: an engine that hangs.

canaries = Canaries(["http://127.0.0.1:8000"])
canaries.start()
registry.register(canaries)       # prometheus_client calls collect() at each scrape; it never waits
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from monitoring.errors import SettingsError
from monitoring.scrape import http_exchange

PROMPT = "1"
INTERVAL_S = 15.0
DEADLINE_S = 5.0
FOLLOW_S = 5.0  # as often as Prometheus reads its target files


@dataclass(frozen=True)
class Way:
    """A way of asking for little: the route, the request's body without the model, and what its answer must hold."""

    path: str
    asks: dict[str, Any]
    result: Callable[[Any], Any]


_ONE_TOKEN = {"max_tokens": 1, "temperature": 0}
WAYS = (
    Way("/v1/completions", {"prompt": PROMPT, **_ONE_TOKEN}, lambda said: said["choices"][0]["text"]),
    Way(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": PROMPT}], **_ONE_TOKEN},
        lambda said: said["choices"][0]["message"],
    ),
    Way("/v1/embeddings", {"input": PROMPT}, lambda said: said["data"][0]["embedding"]),
    Way("/pooling", {"input": PROMPT}, lambda said: said["data"][0]["data"]),
)


@dataclass(frozen=True)
class Beat:
    """One canary's outcome. `latency_s` from before the connection to the whole answer, None when it failed.

    `failed` is None when a token came; else "down" (no connection, or cut off), "late" (nothing before the deadline),
    "refused" (4xx: a wrong key or model, which says nothing of the engine), "unserved" (it has no route that a canary
    knows: nothing is known of it), "error" (5xx) or "bad" (no token in it).
    """

    latency_s: float | None = None
    failed: str | None = None
    reason: str | None = None

    @property
    def up(self) -> bool:
        return self.failed is None


class Canary:
    """Asks one server, in a thread of its own between `start` and `stop`.

    `api_key_env` is the NAME of the environment variable with the key. Raises SettingsError for what cannot be asked.
    """

    def __init__(
        self,
        server: str,
        *,
        model: str | None = None,
        api_key_env: str | None = None,
        interval_s: float = INTERVAL_S,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = http_exchange.address(server)
        self.interval_s, self.deadline_s = interval_s, deadline_s
        self._headers = http_exchange.key_headers(api_key_env)
        self._given_model, self._model = model, model
        self._clock = clock
        self._way: Way | None = None
        self.failures = 0
        self._last: tuple[float, Beat] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self) -> Beat:
        """One token, now; at the latest after `deadline_s`. Never raises."""
        started_s = self._clock()
        beat = self._ask(started_s + self.deadline_s)
        if not beat.up:
            self.failures += 1
            self._way = None
            self._model = self._given_model  # another model may be served when it comes back
        self._last = self._clock(), beat
        return beat

    def last(self) -> Beat | None:
        """The newest outcome, None before the first. One that is overdue counts as late, whatever came before it."""
        if self._last is None:
            return None
        age_s = self._clock() - self._last[0]
        if self._thread is not None and age_s > self.interval_s + 2 * self.deadline_s:
            return Beat(failed="late", reason=f"the canary itself has not come back for {age_s:.0f} s")
        return self._last[1]

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"canary {self.server}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; the request that is under way ends by itself, at the latest at its deadline."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            next_s = self._clock() + self.interval_s
            self.ask()
            self._stop.wait(max(0.0, next_s - self._clock()))

    def _ask(self, until_s: float) -> Beat:
        try:
            if self._model is None:
                answer = self._exchange("GET", "/v1/models", until_s)
                if answer.status != 200:
                    return refusal(answer)
                self._model = str(json.loads(answer.text)["data"][0]["id"])
            return self._ask_what_is_served(until_s)
        except http_exchange.NoAnswer as error:
            return Beat(failed="late" if error.slow else "down", reason=str(error))
        except (ValueError, LookupError, TypeError, RecursionError):
            return Beat(failed="bad", reason="the answer is not one of an OpenAI-compatible server")

    def _ask_what_is_served(self, until_s: float) -> Beat:
        """The first way of asking that the server has; it is kept for the next time."""
        for way in (self._way,) if self._way else WAYS:
            started_s = self._clock()
            answer = self._exchange("POST", way.path, until_s, {"model": self._model, **way.asks})
            if _is_not_served(answer):
                continue
            if answer.status != 200:
                return refusal(answer)
            way.result(json.loads(answer.text))
            self._way = way
            return Beat(latency_s=self._clock() - started_s)
        self._way = None
        paths = ", ".join(way.path for way in WAYS)
        return Beat(failed="unserved", reason=f"it serves nothing that a canary can ask for ({paths})")

    def _exchange(self, method: str, path: str, until_s: float, document: object = None) -> http_exchange.Answer:
        left_s = max(0.001, until_s - self._clock())
        try:
            return http_exchange.exchange(
                method, self.server + path, deadline_s=left_s, headers=self._headers, document=document
            )
        except http_exchange.NoAnswer as error:
            # Told with the whole deadline: what was left of it says nothing to a reader.
            raise (
                http_exchange.NoAnswer(f"no token within {self.deadline_s:g} s", slow=True) if error.slow else error
            ) from None


class Canaries:
    """Several canaries as one collector for prometheus_client.

    `listed` names the servers that are to be asked besides `servers`, and is asked again every `follow_s` seconds while
    the canaries run: one that is new gets a canary, one that is gone loses its own. While it raises SettingsError, the
    servers that it named before are kept; `tell` is given its words, once.
    """

    def __init__(
        self,
        servers: Iterable[str],
        *,
        listed: Callable[[], Iterable[str]] = tuple,
        follow_s: float = FOLLOW_S,
        tell: Callable[[str], None] = lambda _: None,
        model: str | None = None,
        api_key_env: str | None = None,
        interval_s: float = INTERVAL_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        def canary(server: str) -> Canary:
            return Canary(server, model=model, api_key_env=api_key_env, interval_s=interval_s, deadline_s=deadline_s)

        self._canary, self._listed, self._follow_s, self._tell = canary, listed, follow_s, tell
        self._always = tuple(map(http_exchange.address, servers))
        self._stop = threading.Event()
        self.canaries: tuple[Canary, ...] = tuple(map(canary, self._wanted()))

    def _wanted(self) -> list[str]:
        return list(dict.fromkeys([*self._always, *map(http_exchange.address, self._listed())]))

    def start(self) -> None:
        for canary in self.canaries:
            canary.start()
        threading.Thread(target=self._follow, name="canaries", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        for canary in self.canaries:
            canary.stop()

    def _follow(self) -> None:
        told = ""
        while not self._stop.wait(self._follow_s):
            try:
                wanted = self._wanted()
            except SettingsError as error:
                if str(error) != told:
                    self._tell(f"{error} Canaries go on as before.")
                told = str(error)
                continue
            told = ""
            known = {canary.server: canary for canary in self.canaries}
            new = [self._canary(server) for server in wanted if server not in known]
            # Replaced as a whole: a scrape may be reading the old ones.
            self.canaries = (*(known[server] for server in wanted if server in known), *new)
            for canary in new:
                canary.start()
            for server in known.keys() - set(wanted):
                known[server].stop()

    def collect(self) -> Iterator[Metric]:
        """`nbridge_canary_up`, `_latency_seconds` and `_failures_total` of each server that was asked by now.

        There is no latency of a server whose last canary failed.
        """
        up = GaugeMetricFamily("nbridge_canary_up", "1 when the server's last canary got its token.", labels=["server"])
        latency = GaugeMetricFamily(
            "nbridge_canary_latency_seconds",
            "From the last canary's request to its answer; absent when it failed.",
            labels=["server"],
        )
        failures = CounterMetricFamily("nbridge_canary_failures", "Canaries that got no token.", labels=["server"])
        for canary in self.canaries:
            if (beat := canary.last()) and beat.failed != "unserved":
                up.add_metric([canary.server], float(beat.up))
                failures.add_metric([canary.server], canary.failures)
                if beat.latency_s is not None:
                    latency.add_metric([canary.server], beat.latency_s)
        yield from (up, latency, failures)


def _is_not_served(answer: http_exchange.Answer) -> bool:
    """Whether an answer says that the server has no such route, or that its model is of another kind."""
    if answer.status == 404:
        # A route that is there says so of a model that is not.
        return not ('"error"' in answer.text and "model" in answer.text.lower())
    return answer.status in (405, 501) or (answer.status == 400 and "does not support" in answer.text)


def refusal(answer: http_exchange.Answer) -> Beat:
    """The outcome that an answer other than 200 means."""
    words = ""
    try:
        words = str(json.loads(answer.text)["error"]["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        words = "an HTML page" if answer.is_html else ""
    reason = f"HTTP {answer.status}" + (f": {words[:200]}" if words else "")
    return Beat(failed="error" if answer.status >= 500 else "refused", reason=reason)
