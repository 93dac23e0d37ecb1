"""What is counted and logged of hidden-state requests. A prompt's text is in neither."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "nbridge_hidden_states_requests", "Requests for hidden states that ended, by outcome.", ["pooling", "outcome"]
)
PROMPT_TOKENS = Counter("nbridge_hidden_states_prompt_tokens", "Prompt tokens whose hidden states were answered.")
LATENCY_S = Histogram(
    "nbridge_hidden_states_request_latency_seconds",
    "From the arrival of a request for hidden states to its answer, answered ones only.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
IN_FLIGHT = Gauge(
    "nbridge_hidden_states_in_flight", "Requests for hidden states now in work.", multiprocess_mode="livesum"
)

logger = logging.getLogger("nbridge.hidden_states")


@dataclass
class RequestRecord:
    """One request as it is logged; filled while the request is in work. Lengths are in tokens, as the engine counts."""

    request_id: str
    route: str
    model: str | None = None
    pooling: str = "last"
    layers: Sequence[int | str] = ()
    prompt_tokens: list[int] = field(default_factory=list)

    def log(self, *, seconds: float, status: int, param: str | None = None) -> None:
        """Write one JSON line, and count the request."""
        outcome = "ok" if status == 200 else "cancelled" if status == 499 else "refused" if status < 500 else "error"
        REQUESTS.labels(self.pooling, outcome).inc()
        if status == 200:
            PROMPT_TOKENS.inc(sum(self.prompt_tokens))
            LATENCY_S.observe(seconds)
        count = len(self.prompt_tokens)
        line = {
            "event": "hidden_states",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "route": self.route,
            "model": self.model,
            "prompt_count": count,
            "mean_prompt_tokens": round(sum(self.prompt_tokens) / count, 1) if count else None,
            "layers": list(self.layers),
            "pooling": self.pooling,
            "seconds": round(seconds, 6),
            "success": status == 200,
            "status": status,
            "param": param,
        }
        logger.info(json.dumps({key: value for key, value in line.items() if value is not None}))


def set_up_logging() -> None:
    """Let the lines come out on stderr as they are, unless the program already says where logs go."""
    logger.setLevel(logging.INFO)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
