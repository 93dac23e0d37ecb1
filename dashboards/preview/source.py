"""A Prometheus server's answers, as series of points. What it does not know is absent."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from dashboards.errors import SourceError
from monitoring.scrape.http_exchange import certificates


@dataclass(frozen=True)
class Series:
    """The labels of one series and its points: (Unix time in seconds, value); NaN is no point."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """A Prometheus server by its base URL. Every call raises SourceError with Prometheus' own words."""

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=timeout_s, trust_env=False, verify=certificates())

    def over_time(self, expr: str, *, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """The value of `expr` at each step between two instants."""
        form = {"query": expr, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        return [_series(one["metric"], one["values"]) for one in self._ask("query_range", form)["result"]]

    def at(self, expr: str, at_s: float) -> list[Series]:
        """The value of `expr` at one instant."""
        result = self._ask("query", {"query": expr, "time": f"{at_s:.3f}"})
        if result["resultType"] == "scalar":
            return [_series({}, [result["result"]])]
        return [_series(one["metric"], [one["value"]]) for one in result["result"]]

    def label_values(self, label: str, selector: str, *, start_s: float, end_s: float) -> list[str]:
        """The values that a label of the selected series had between two instants."""
        form = {"match[]": selector, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
        return sorted(str(value) for value in self._ask(f"label/{label}/values", form))

    def _ask(self, path: str, form: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{path}"
        try:
            answer = self._client.get(url, params=form)
            document = answer.json()
        except httpx.HTTPError as error:
            raise SourceError(
                f"{self.url}: no answer ({type(error).__name__}: {error}). Is it the address of a Prometheus?"
            ) from error
        except ValueError as error:
            raise SourceError(f"{url}: HTTP {answer.status_code} and no JSON, so no Prometheus.") from error
        if document.get("status") != "success":
            raise SourceError(f"{form.get('query', path)}: {document.get('error', 'refused')}")
        return document["data"]


def _series(labels: dict[str, str], values: list[list[Any]]) -> Series:
    points = ((float(at_s), float(value)) for at_s, value in values)
    return Series(labels, tuple((at_s, value) for at_s, value in points if not math.isnan(value)))


def clock(at_s: float, form: str = "%H:%M:%S") -> str:
    """A Unix time in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime(form)
