"""The golden server's metrics page, under vLLM's names and with vLLM's meanings, so that it can be reconciled."""

from __future__ import annotations

from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bench.golden.turns import Turns

_SECONDS = tuple(step * 10**power for power in (-3, -2, -1, 0, 1) for step in (1.0, 2.0, 5.0))
_TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Metrics:
    """What has been counted since the start. A request's clock starts when its last byte has been read."""

    def __init__(self, model: str, turns: Turns) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model, "engine": "0"}
        for name, read in (("running", lambda: turns.running), ("waiting", lambda: len(turns.waiting))):
            gauge = Gauge(
                f"vllm:num_requests_{name}", f"Requests {name} now.", list(self._labels), registry=self.registry
            )
            gauge.labels(**self._labels).set_function(read)
        self.generation_tokens = self._counter("generation_tokens", "Output tokens sent.")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests whose first token was sent.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked for in the prefix cache.")
        self.prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens said to be found there.")
        self._success = Counter(
            "vllm:request_success", "Requests that ended.", [*self._labels, "finished_reason"], registry=self.registry
        )
        self.ttft = self._histogram("time_to_first_token_seconds", "Received to first token.")
        self.queue = self._histogram("request_queue_time_seconds", "Received to the request's turn.")
        self.prefill = self._histogram("request_prefill_time_seconds", "The request's turn to its first token.")
        self.decode = self._histogram("request_decode_time_seconds", "First to last token.")
        self.e2e = self._histogram("e2e_request_latency_seconds", "Received to last token.")
        self.itl = self._histogram("inter_token_latency_seconds", "Between two events of one answer.")
        self.prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.generation = self._histogram("request_generation_tokens", "Output tokens of a request.", _TOKENS)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"vllm:{name}", what, list(self._labels), registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        found = Histogram(f"vllm:{name}", what, list(self._labels), registry=self.registry, buckets=buckets)
        return found.labels(**self._labels)

    def page(self) -> str:
        return generate_latest(self.registry).decode()

    def first_token(self, received_s: float, began_s: float, sent_s: float, prompt_tokens: int, cached: int) -> None:
        """A request's first event has been sent."""
        self.ttft.observe(sent_s - received_s)
        self.queue.observe(began_s - received_s)
        self.prefill.observe(sent_s - began_s)
        self.prompt_tokens.inc(prompt_tokens)
        self.prefix_queries.inc(prompt_tokens)
        self.prefix_hits.inc(min(cached, prompt_tokens))

    def ended(self, received_s: float, events: list[tuple[float, int]], prompt_tokens: int, why: str) -> None:
        """A request has ended: `why` is its finish reason, or abort."""
        self._success.labels(**self._labels, finished_reason=why).inc()
        if why == "abort" or not events:
            return
        (first_s, _), (last_s, _) = events[0], events[-1]
        self.decode.observe(last_s - first_s)
        self.e2e.observe(last_s - received_s)
        for (before_s, _), (at_s, _) in pairwise(events):
            self.itl.observe(at_s - before_s)
        self.prompt.observe(prompt_tokens)
        self.generation.observe(sum(tokens for _, tokens in events))
