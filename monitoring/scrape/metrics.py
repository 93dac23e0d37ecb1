"""A server's `/metrics` page: fetched with a deadline, parsed, and asked for sums."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from prometheus_client.parser import text_string_to_metric_families

from monitoring.errors import MonitoringError
from monitoring.scrape import http_exchange

# What vLLM called its series up to 0.9 → what it has called them since; suffixes (_total, _bucket …) are the same.
RENAMED = {
    "vllm:gpu_cache_usage_perc": "vllm:kv_cache_usage_perc",
    "vllm:time_per_output_token_seconds": "vllm:inter_token_latency_seconds",
    "vllm:gpu_prefix_cache_queries": "vllm:prefix_cache_queries",
    "vllm:gpu_prefix_cache_hits": "vllm:prefix_cache_hits",
}
_OLD_NAME = re.compile(rf"({'|'.join(RENAMED)})(_total|_bucket|_sum|_count|_created)?$")


@dataclass(frozen=True)
class Sample:
    """One line of a Prometheus page."""

    name: str
    labels: dict[str, str]
    value: float


class MetricsError(MonitoringError):
    """The page could not be fetched or is not Prometheus text."""


def fetch(base_url: str, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None) -> str:
    """The text of `<base_url>/metrics`, all of it within `timeout_s`. Raises MetricsError with address and reason."""
    url = f"{base_url.rstrip('/')}/metrics"
    try:
        answer = http_exchange.exchange("GET", url, deadline_s=timeout_s, headers=headers)
        check(answer)
    except (http_exchange.NoAnswer, MetricsError) as error:
        raise MetricsError(f"{url}: {error}") from None
    return answer.text


def check(answer: http_exchange.Answer) -> None:
    """Raise MetricsError when an answer cannot be a metrics page."""
    if answer.status != 200:
        raise MetricsError(f"HTTP {answer.status}")
    if answer.is_html:
        raise MetricsError("an HTML page instead of metrics; is it the server's own address?")
    if not answer.text.strip():
        raise MetricsError("an empty page")


def parse(page: str) -> list[Sample]:
    """All samples of a Prometheus text page, under the names that vLLM has for them today.

    Raises MetricsError when the page is something else (HTML, JSON …).
    """
    try:
        samples = [
            Sample(sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]
    except (ValueError, LookupError, ArithmeticError, TypeError) as error:
        raise MetricsError(f"not a Prometheus page ({str(error)[:120]})") from None
    names = {sample.name for sample in samples}
    # Some versions show both: then the new one speaks.
    return [replace(one, name=new) if (new := current_name(one.name)) not in names else one for one in samples]


def current_name(name: str) -> str:
    """What vLLM calls a series today that it called `name` up to 0.9; any other name as it is."""
    return _OLD_NAME.sub(lambda old: RENAMED[old[1]] + (old[2] or ""), name)


def total(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """The sum over all series called `name` that carry `labels` (several engines add up); None when there is none."""
    values = [s.value for s in samples if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())]
    return sum(values) if values else None
