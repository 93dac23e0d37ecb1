"""Thresholds from a measured run: what this server does when it is well, and where more load stops paying. Pure.

The **knee** is the load with the most power, throughput / mean E2E latency (Kleinrock, 1979): below it more load brings
more throughput than it costs latency, above it the reverse. The **baseline** is the lowest load measured.

- A latency threshold is the 95th percentile at the knee times a margin, rounded up to a bound of the histogram.
- The waiting limit is what the best throughput works off in the tolerated queue time (Little's law).
- The load limit is the number of requests in flight at the knee.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inputs.quantities import trimmed
from monitoring.alerting.thresholds import Latency, Thresholds
from monitoring.errors import SettingsError

MARGIN = 1.5
MEASURED: tuple[tuple[Latency, str], ...] = (("ttft", "ttft_s"), ("itl", "itl_s"), ("e2e", "e2e_s"))


@dataclass(frozen=True)
class Load:
    """One measured load, averaged over its repeats; a latency's p95 is the highest of its repeats."""

    name: str
    requests: int
    throughput_rps: float
    e2e_mean_s: float
    in_flight: float
    distributions: tuple[Mapping[str, Any], ...]

    @property
    def power(self) -> float:
        """Throughput over latency, in requests per second squared."""
        return self.throughput_rps / self.e2e_mean_s

    def p95_s(self, metric: str) -> tuple[float, str] | None:
        """The 95th percentile and how it was found: measured, or the maximum where too few requests were."""
        found = [metrics[metric] for metrics in self.distributions if metrics.get(metric)]
        if not found:
            return None
        if all("p95" in one for one in found):
            return max(one["p95"] for one in found), "p95"
        return max(one["max"] for one in found), f"maximum, for want of a p95 from {self.requests} requests,"


def derive(document: Mapping[str, Any], settings: Thresholds, *, engine: str | None = None) -> dict[str, Any]:
    """Settings, nested as in the settings file, from a run's run.json; `derived` says how each one was found.

    `engine` names the run's engine where it measured several. Raises SettingsError when the run cannot tell: unknown or
    ambiguous engine, several kinds of requests, fewer than two valid loads.
    """
    run = str(document.get("run_id", "run"))
    engine, loads = measured_loads(document, engine)
    if len(loads) < 2:
        raise SettingsError(
            f"Run {run} measured {len(loads)} valid load of engine {engine}; a knee needs at least two, better four."
        )
    knee, baseline = max(loads, key=lambda load: load.power), loads[0]
    source = f"From run {run}, engine {engine}"
    reached = "" if knee is not loads[-1] else " (the highest load measured: the true knee may lie beyond)"
    at_knee = f"at the knee {knee.name}{reached}"
    values: dict[str, Any] = {"slo": {}, "derived": {}}
    for name, metric in MEASURED:
        if (found := knee.p95_s(metric)) is None:
            continue
        p95_s, how = found
        threshold_s = _bound_above(MARGIN * p95_s, settings.buckets.bounds(name))
        values["slo"][name] = {"threshold_s": threshold_s}
        beside = baseline.p95_s(metric)
        compared = f"; {beside[0]:.3g} s at the baseline {baseline.name}" if beside and baseline is not knee else ""
        values["derived"][f"slo.{name}.threshold_s"] = (
            f"{source}: {how} {p95_s:.3g} s {at_knee}{compared}; times {MARGIN:g}, rounded up to the histogram's bound "
            f"{threshold_s:g} s."
        )
    best_rps = max(load.throughput_rps for load in loads)
    queue_s = settings.slo.queue.threshold_s
    waiting = max(1, math.floor(best_rps * queue_s))
    values["engine"] = {"waiting_max": waiting}
    values["derived"]["engine.waiting_max"] = (
        f"{source}: at the best throughput of {trimmed(best_rps)} requests/s, {waiting} waiting requests take the "
        f"tolerated queue time of {queue_s:g} s."
    )
    values["load"] = {"in_flight_max": round(knee.in_flight, 1)}
    values["derived"]["load.in_flight_max"] = (
        f"{source}: most throughput per latency with {trimmed(knee.in_flight)} requests in flight {at_knee}: "
        + ", ".join(
            f"{load.name} {trimmed(load.throughput_rps)} requests/s in {trimmed(load.e2e_mean_s)} s" for load in loads
        )
        + "."
    )
    return values


def measured_loads(document: Mapping[str, Any], engine: str | None) -> tuple[str, list[Load]]:
    """The engine's name and its valid loads, lightest first. Raises SettingsError when the run cannot tell."""
    run = str(document.get("run_id", "run"))
    measured = [cell for cell in document["cells"] if not cell.get("point")]  # a search goes beyond what is kept
    cells = [cell for cell in measured if cell.get("outcome") == "ok" and cell.get("metrics")]
    engines = sorted({str(cell["engine"].get("name")) for cell in cells})
    if not engines:
        raise SettingsError(f"Run {run} has no valid cell, so no threshold can be taken from it.")
    if engine is None and len(engines) > 1:
        raise SettingsError(f"Run {run} measured several engines: name one with --run-engine: {', '.join(engines)}.")
    if engine is not None and engine not in engines:
        raise SettingsError(f"Run {run} has no valid cell of engine {engine!r}; it has: {', '.join(engines)}.")
    name = engine or engines[0]
    mine = [cell for cell in cells if cell["engine"].get("name") == name]
    kinds = {_kind(cell["load"]) for cell in mine}
    if len(kinds) > 1:
        raise SettingsError(
            f"Run {run} sent engine {name} different kinds of requests ({'; '.join(sorted(kinds))}); thresholds need "
            "one kind under several loads."
        )
    by_load: dict[str, list[Mapping[str, Any]]] = {}
    for cell in mine:
        by_load.setdefault(str(cell["load"]["name"]), []).append(cell["metrics"])
    loads = [load for label, repeats in by_load.items() if (load := _load(label, repeats))]
    return name, sorted(loads, key=lambda load: load.in_flight)


def _load(name: str, repeats: Sequence[Mapping[str, Any]]) -> Load | None:
    told = [metrics for metrics in repeats if metrics.get("e2e_s") and metrics.get("request_throughput_rps")]
    if not told:
        return None
    throughput_rps = statistics.fmean(metrics["request_throughput_rps"] for metrics in told)
    e2e_mean_s = statistics.fmean(metrics["e2e_s"]["mean"] for metrics in told)
    counted = [m["mean_in_flight"] for m in told if m.get("mean_in_flight") is not None]
    # Little's law stands in where the run does not say how many were in flight.
    in_flight = statistics.fmean(counted) if counted else throughput_rps * e2e_mean_s
    requests = sum(int(metrics["requests"]["ok"]) for metrics in told)
    return Load(name, requests, throughput_rps, e2e_mean_s, in_flight, tuple(told))


def _kind(load: Mapping[str, Any]) -> str:
    lengths = [(load.get(key) or {}).get("mean") for key in ("prompt_tokens", "output_tokens")]
    told = [f"{mean:g}" if mean is not None else "?" for mean in lengths]
    return f"{load.get('kind')} {load.get('scenario')} {'+'.join(told)} tokens"


def _bound_above(seconds: float, bounds: Sequence[float]) -> float:
    """The lowest bound that is not below `seconds`; the highest one when none is."""
    return min((bound for bound in bounds if bound >= seconds * (1 - 1e-9)), default=max(bounds))
