"""What is counted and logged of requests: one JSON line each, or one for a person. A prompt's text is in neither."""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

from prometheus_client import Counter, Gauge, Histogram

from serve.errors import SettingsError

Form = Literal["json", "text", "none"]
FORMAT_VARIABLE = "NBRIDGE_LOG_FORMAT"
PROMPTS_VARIABLE = "NBRIDGE_LOG_PROMPTS"

REQUESTS = Counter(
    "nbridge_hidden_states_requests", "Requests for hidden states that ended, by outcome.", ["pooling", "outcome"]
)
# All there from the start, at zero, so that a rate sees the first one of each.
for _pooling in ("last", "mean", "all"):
    for _outcome in ("ok", "cancelled", "refused", "error"):
        REQUESTS.labels(_pooling, _outcome)
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
requests_logger = logging.getLogger("nbridge.requests")


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
        _write(logger, "hidden_states", line)


def request_line(line: Mapping[str, Any], event: str) -> None:
    """Write one line of the journal; what is None is left out."""
    _write(requests_logger, event, line)


def _write(to: logging.Logger, event: str, line: Mapping[str, Any]) -> None:
    if not to.isEnabledFor(logging.INFO):
        return
    known = {key: value for key, value in line.items() if value is not None}
    stamped = {"event": event, "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"), **known}
    to.info(json.dumps(stamped))  # all ASCII: nothing in a request can begin a new line


class TextLines(logging.Formatter):
    """The JSON lines as words: when, what, which request, and every other field as name=value.

    The first word marks the line as the journal's, in which clients are quoted (see serve.engine.failure).
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = json.loads(record.getMessage())
        names = ("timestamp", "event", "request_id", "route")
        head = ("nbridge", *(_word(line.pop(name, "-")) for name in names))
        return " ".join([*head, *(f"{name}={_word(value)}" for name, value in line.items())])


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if re.fullmatch(r"[\x21\x23-\x3c\x3e-\x7e]+", text) else json.dumps(text)


def log_terms(environ: Mapping[str, str] | None = None) -> tuple[Form, bool]:
    """The format of the lines, and whether prompts are in them, as the environment says. Raises SettingsError."""
    values = os.environ if environ is None else environ
    form, prompts = values.get(FORMAT_VARIABLE, "json"), values.get(PROMPTS_VARIABLE, "0")
    if form not in get_args(Form):
        raise SettingsError(f"environment variable {FORMAT_VARIABLE} = {form!r}: expected json, text or none.")
    if prompts not in ("0", "1"):
        raise SettingsError(f"environment variable {PROMPTS_VARIABLE} = {prompts!r}: expected 0 or 1.")
    return cast(Form, form), prompts == "1"


def set_up_logging(form: Form = "json") -> None:
    """Let the lines come out on stderr as they are, unless the program already says where logs go, or "none"."""
    for one in (logger, requests_logger):
        one.setLevel(logging.WARNING if form == "none" else logging.INFO)
        if not one.handlers and not logging.getLogger().handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(TextLines() if form == "text" else logging.Formatter("%(message)s"))
            one.addHandler(handler)
            one.propagate = False
