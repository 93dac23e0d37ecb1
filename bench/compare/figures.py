"""Which figures of a cell a comparison is about, which direction is better, and how they are written. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inputs.quantities import MISSING, number, seconds


@dataclass(frozen=True)
class Figure:
    """A figure by its place in a cell's `metrics`; `unit` is what `metrics` holds, seconds included."""

    name: str
    label: str
    unit: str
    higher_is_better: bool

    def of(self, metrics: Mapping[str, Any]) -> float | None:
        """The figure's value in a cell's metrics; None when it is absent there."""
        found: Any = metrics
        for part in self.name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    def written(self, value: float | None) -> str:
        """The value as a person reads it, as in reports and in the app."""
        if value is None:
            return MISSING
        return seconds(value) if self.unit == "s" else f"{number(value)} {self.unit}"


FIGURES = (
    Figure("output_throughput_tok_s", "output throughput", "tok/s", higher_is_better=True),
    Figure("ttft_s.p50", "TTFT p50", "s", higher_is_better=False),
    Figure("ttft_s.p95", "TTFT p95", "s", higher_is_better=False),
    Figure("tpot_s.p50", "TPOT p50", "s", higher_is_better=False),
    Figure("e2e_s.p50", "E2E p50", "s", higher_is_better=False),
    Figure("e2e_s.p95", "E2E p95", "s", higher_is_better=False),
    Figure("goodput_rps", "goodput", "requests/s", higher_is_better=True),
)
# Answers without output tokens (hidden states) have this in place of the output throughput.
REQUESTS = Figure("request_throughput_rps", "requests", "requests/s", higher_is_better=True)
ALL = (*FIGURES, REQUESTS)
