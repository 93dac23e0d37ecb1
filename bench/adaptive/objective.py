"""What engines are compared by: one figure of a cell, and whether more or less of it is better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.run.stats.distributions import MIN_SAMPLES


@dataclass(frozen=True)
class Objective:
    """`metric`: the figure's dotted name in a cell's metrics; `words`: as a reader says it, with its unit."""

    name: str
    metric: str
    words: str
    unit: str
    highest: bool

    def value(self, cell: Mapping[str, Any]) -> float | None:
        """The figure of a cell that is ok; None where it is not known."""
        found: Any = cell.get("metrics") if cell.get("outcome") == "ok" else None
        for part in self.metric.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    @property
    def needs(self) -> int:
        """Of how many answers the figure is told at least."""
        return MIN_SAMPLES.get(self.metric.rpartition(".")[2], 1)


OBJECTIVES = {
    one.name: one
    for one in (
        Objective("throughput", "output_throughput_tok_s", "output throughput", "tok/s", highest=True),
        Objective("goodput", "goodput_rps", "throughput at the SLO", "requests/s", highest=True),
        Objective("requests", "request_throughput_rps", "request throughput", "requests/s", highest=True),
        Objective("ttft_p50", "ttft_s.p50", "median TTFT", "s", highest=False),
        Objective("ttft_p95", "ttft_s.p95", "TTFT p95", "s", highest=False),
        Objective("tpot_p50", "tpot_s.p50", "median TPOT", "s", highest=False),
        Objective("e2e_p50", "e2e_s.p50", "median E2E latency", "s", highest=False),
        Objective("e2e_p95", "e2e_s.p95", "E2E latency p95", "s", highest=False),
        Objective("energy", "energy.joules_per_output_token", "GPU energy per output token", "J", highest=False),
    )
}
