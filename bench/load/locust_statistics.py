"""Records in Locust's own statistics, as its tables and its web page show them."""

from __future__ import annotations

import re
from typing import Any


class RequestFailed(Exception):
    """A recorded failure, as Locust's tables show it."""


def fire(environment: Any, kind: str, name: str, seconds: float, *, failure: str | None = None) -> None:
    """One request in Locust's own statistics (which hold milliseconds); nobody counted its bytes."""
    environment.events.request.fire(
        request_type=kind,
        name=name,
        response_time=seconds * 1000,
        response_length=0,
        exception=None if failure is None else RequestFailed(failure),
        context={},
    )


def part(environment: Any, kind: str, name: str, seconds: float) -> None:
    """One part of a request, in a row of its own: Locust's totals are of requests, and this one has been counted."""
    environment.runner.stats.get(name, kind).log(seconds * 1000, 0)


def publish(environment: Any, record: dict[str, Any]) -> None:
    """A record in Locust's own statistics: the request end to end, and time to first token and per token beside it."""
    sent, first, last = (record[key] for key in ("sent", "first_token", "last_token"))
    failure = None if record["outcome"] == "ok" else f"{record['outcome']} ({record['error_kind']}): {record['error']}"
    if failure is not None:
        failure = re.sub(r"\d+", "#", failure)[:160]  # Locust keeps every text that it has not seen yet
    spent_s = record["ended"] - sent if sent is not None and record["ended"] is not None else 0.0
    fire(environment, "E2E", record["scenario"], spent_s, failure=failure)
    if first is not None and sent is not None:
        part(environment, "TTFT", record["scenario"], first - sent)
        if (after := record["tokens_after_first"]) is not None and after > 0:
            part(environment, "TPOT", record["scenario"], (last - first) / after)
