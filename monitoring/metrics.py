"""A server's `/metrics` page: fetched with a deadline, parsed, and asked for sums."""

from collections.abc import Iterable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Sample:
    """One line of a Prometheus page."""

    name: str
    labels: dict[str, str]
    value: float


class MetricsError(Exception):
    """The page could not be fetched or is not Prometheus text."""

    exit_code = 4


def fetch(base_url: str, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None) -> str:
    """The text of `<base_url>/metrics`. Raises MetricsError with the reason."""
    url = f"{base_url.rstrip('/')}/metrics"
    try:
        response = httpx.get(url, timeout=timeout_s, headers=headers, trust_env=False)
    except httpx.HTTPError as error:
        raise MetricsError(f"{url}: no answer ({type(error).__name__}: {error})") from error
    if response.status_code != httpx.codes.OK:
        raise MetricsError(f"{url}: HTTP {response.status_code}")
    return response.text


def parse(page: str) -> list[Sample]:
    """All samples of a Prometheus text page. Raises MetricsError when the page is something else (HTML, JSON …)."""
    try:
        return [
            Sample(sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]
    except (ValueError, KeyError, IndexError) as error:
        raise MetricsError(f"not a Prometheus page ({error})") from error


def total(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """The sum over all series called `name` that carry `labels` (several engines add up); None when there is none."""
    values = [s.value for s in samples if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())]
    return sum(values) if values else None
