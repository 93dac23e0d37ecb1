"""What deployment files need of a run, each figure with the sentence that says where it comes from. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.scaling.demand import Day
from deploy.scaling.replica import Replica, replica
from deploy.scaling.thresholds import Scaling, scaling
from inputs.quantities import GIB, byte_size, seconds, trimmed
from monitoring.alerting.derivation import measured_loads

PRE_STOP_S = 15
END_S = 45  # the engine's end after the drain, and margin
DRAIN_LEAST_S = 30
STALL_LEAST_S = 12.0
DOWNLOAD_S = 600
MEMORY_MARGIN = 1.25
# Of an engine's settings those that change what it carries and what it needs.
SETTINGS = (
    "model",
    "quantization",
    "dtype",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "tensor_parallel_size",
    "cpu_kv_cache_gib",
)


@dataclass(frozen=True)
class Figures:
    """Everything derived. `words`: figure → its derivation; `open`: what the run does not say, in full sentences."""

    replica: Replica
    scaling: Scaling
    engine: Mapping[str, str]  # variables of `nbridge serve` that make it the engine that was measured
    drain_s: int
    grace_s: int
    start_failures: int
    stall_s: int
    memory_request_gib: int | None
    memory_limit_gib: int | None
    words: Mapping[str, str]
    open: tuple[str, ...]


def figures(
    document: Mapping[str, Any],
    *,
    engine: str | None,
    ttft_limit_s: float,
    day: Day | None,
    start_s: float | None = None,
    provision_s: float = 0.0,
) -> Figures:
    """The figures of one engine of a run. Raises SettingsError where nothing useful can be derived."""
    one = replica(document, engine=engine, ttft_limit_s=ttft_limit_s, start_s=start_s)
    found = scaling(one, day=day, provision_s=provision_s)
    _, loads = measured_loads(document, one.engine)
    words, unknown = dict(found.words), []
    longest_s = max(metrics["e2e_s"]["max"] for load in loads for metrics in load.distributions)
    drain_s = max(DRAIN_LEAST_S, math.ceil(2 * longest_s / 10) * 10)
    words["drain"] = (
        f"twice the longest answer measured ({seconds(longest_s)}), at least {DRAIN_LEAST_S} s. Users who ask for "
        "longer answers than the run did need more."
    )
    grace_s = PRE_STOP_S + drain_s + END_S
    words["grace"] = f"{PRE_STOP_S} s before SIGTERM, {drain_s} s of draining, {END_S} s for the end of the engine."
    failures = math.ceil((3 * one.start_s + DOWNLOAD_S) / 5)
    words["start_probe"] = (
        f"three times the slowest start ({seconds(one.start_s)}), and {DOWNLOAD_S} s for a first download, "
        "which is not measured."
    )
    step_s = max(max(metrics["ttft_s"]["max"], _gap_s(metrics)) for load in loads for metrics in load.distributions)
    stall_s = math.ceil(max(STALL_LEAST_S, 3 * step_s))
    words["stall"] = (
        f"three times the longest silence measured ({seconds(step_s)} to a token), at least {STALL_LEAST_S:g} s."
    )
    request = limit = None
    if one.memory_bytes is None:
        unknown.append("Memory: the run has no peak of the server's memory; the base's figures stay.")
    else:
        request = math.ceil(one.memory_bytes * MEMORY_MARGIN / GIB)
        limit = math.ceil(one.memory_bytes * MEMORY_MARGIN**2 / GIB)
        words["memory"] = (
            f"{byte_size(one.memory_bytes)} at the measured peak, times {MEMORY_MARGIN:g}; the limit that much above."
        )
    if day is None:
        unknown.append("Replicas: nothing is known of the demand; --peak-rps or --demand says it. The base's stay.")
    unknown.append("KV cache: no run says how full it may get before requests lose their place; 70 % is a convention.")
    if not one.has_gpu:
        unknown.append("GPUs: the run had none, so none of this holds for servers on GPUs.")
    measured = next(cell["engine"] for cell in document["cells"] if cell["engine"].get("name") == one.engine)
    return Figures(
        replica=one,
        scaling=found,
        engine={
            f"NBRIDGE_SERVE_{key.upper()}": str(measured[key])
            for key in SETTINGS
            if measured.get(key) not in (None, "none", "auto")
        },
        drain_s=drain_s,
        grace_s=grace_s,
        start_failures=failures,
        stall_s=stall_s,
        memory_request_gib=request,
        memory_limit_gib=limit,
        words=words,
        open=tuple(unknown),
    )


def _gap_s(metrics: Mapping[str, Any]) -> float:
    gaps = metrics.get("itl_s") or metrics.get("chunk_gap_s") or {}
    return float(gaps.get("max", 0.0))


def summary(found: Figures) -> list[str]:
    """The derivations as lines, for a file's head or a terminal."""
    shown = {
        "capacity": f"capacity {trimmed(found.replica.capacity_rps)} requests/s",
        "lag": f"lag {seconds(found.scaling.lag_s)}",
        "rate_rps": f"requests/s a replica {trimmed(found.scaling.rate_rps)}",
        "in_work": f"in work a replica {trimmed(found.scaling.in_work)}",
        "waiting": f"waiting a replica {found.scaling.waiting}",
        "least": f"fewest replicas {found.scaling.least}",
        "most": f"most replicas {found.scaling.most}",
        "drain": f"drain {found.drain_s} s",
        "start_probe": f"start-up probe {found.start_failures} × 5 s",
        "stall": f"stall {found.stall_s} s",
        "memory": f"memory {found.memory_request_gib} to {found.memory_limit_gib} GiB",
    }
    lines = [f"{name}: {found.words[key]}" for key, name in shown.items() if key in found.words]
    return lines + [f"not derived: {one}" for one in found.open]
