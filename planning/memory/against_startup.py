"""The memory estimate of a run's engines against what vLLM said about itself when it started. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalog_entries import Gpu, Spread, point
from planning.catalogs import GIB
from planning.memory import kv
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting
from planning.memory.vram import Estimate, estimate

# An exact figure may differ by what an engine pads (a vocabulary to a multiple of 64) and by vLLM's two decimals.
EXACT_WITHIN = 0.01


@dataclass(frozen=True)
class Check:
    """One figure as estimated and as vLLM reported it.

    `exact`: it was held against vLLM's own. `inside`: within the estimate's range; one without a range within 1 %.
    """

    name: str
    estimated: Spread
    reported: float
    unit: str
    exact: bool

    @property
    def inside(self) -> bool:
        slack = EXACT_WITHIN * self.reported if self.estimated.is_point else 0.0
        return self.estimated.low - slack <= self.reported <= self.estimated.high + slack

    @property
    def ratio(self) -> float:
        """Estimated ÷ reported."""
        return self.estimated.mode / self.reported


def setting_of(engine: Mapping[str, Any]) -> Setting:
    """Return the memory setting of an engine as run.json describes it."""
    given: dict[str, Any] = {
        "tensor_parallel": engine.get("tensor_parallel_size"),
        "pipeline_parallel": engine.get("pipeline_parallel_size"),
        "gpu_memory_utilization": engine.get("gpu_memory_utilization"),
        "kv_cache_dtype": engine.get("kv_cache_dtype"),
        "max_num_seqs": engine.get("max_num_seqs"),
        "max_num_batched_tokens": engine.get("max_num_batched_tokens"),
        "block_tokens": engine.get("block_size"),
        "graphs": False if engine.get("enforce_eager") else None,
    }
    return Setting(**{name: value for name, value in given.items() if value is not None})


def estimate_of(shape: Shape, engine: Mapping[str, Any], gpu: Gpu) -> Estimate:
    """Return the estimate for an engine of a run on a GPU, at the engine's own longest sequence."""
    longest = engine.get("max_model_len") or shape.context_tokens
    return estimate(shape, gpu, setting_of(engine), context_tokens=longest)


def against_startup(
    shape: Shape, engine: Mapping[str, Any], startup: Mapping[str, Any], made: Estimate | None = None
) -> list[Check]:
    """Return every figure that was both estimated and reported.

    `made` is the estimate for the GPU that the engine ran on; None on a machine without one, where vLLM reports the
    cache per token alone.
    """
    found = []
    weights = made.weights if made else point(shape.weights_bytes)
    # Only vLLM's own measure counts (it gives one on a GPU); the run's `weights_bytes` comes from the same arithmetic.
    reported = startup.get("engine_weights_bytes")
    exact = made.exact_weights if made else shape.held
    found.append(_check("weights", weights, reported, "bytes", exact=exact))
    tokens, cache_bytes = startup.get("kv_cache_tokens"), startup.get("kv_cache_bytes")
    per_token = made.kv_bytes_per_token if made else _cpu_kv_bytes(shape, engine)
    if tokens and cache_bytes and per_token:
        exact = made.exact_cache if made else shape.cache_held(8 * _cpu_value_bytes(engine))
        found.append(_check("KV cache per token", point(per_token), cache_bytes / tokens, "bytes", exact=exact))
    if made is not None:
        found += _on_gpu(made, startup)
    return [check for check in found if check is not None]


def _on_gpu(made: Estimate, startup: Mapping[str, Any]) -> list[Check | None]:
    terms = {term.name: term.bytes for term in made.terms}
    # vLLM counts the graphs that it will capture into its activation peak.
    peak, graphs = terms["activation peak"], terms["CUDA graphs"]
    together = Spread(low=peak.low, mode=peak.mode + graphs.mode, high=peak.high + graphs.high)
    room = {end: max(0.0, value) for end, value in made.kv_room.items()}
    low, mode, high = (made.kv_tokens(end) for end in ("low", "mode", "high"))
    tokens = None if low is None or mode is None or high is None else Spread(low=low, mode=mode, high=high)
    return [
        _check("GPU memory", made.total, startup.get("gpu_memory_total_bytes"), "bytes"),
        _check("budget", made.budget, startup.get("gpu_memory_requested_bytes"), "bytes"),
        _check("activation peak, graphs counted", together, startup.get("activation_peak_bytes"), "bytes"),
        _check("CUDA graphs", graphs, startup.get("cuda_graph_bytes"), "bytes"),
        _check("KV cache", Spread(**room), startup.get("kv_cache_bytes"), "bytes"),
        _check("KV cache tokens", tokens, startup.get("kv_cache_tokens"), "tokens") if tokens else None,
    ]


def _check(name: str, estimated: Spread, reported: Any, unit: str, *, exact: bool = False) -> Check | None:
    return Check(name, estimated, float(reported), unit, exact) if reported else None


def _cpu_kv_bytes(shape: Shape, engine: Mapping[str, Any]) -> float | None:
    if shape.caches is None or shape.unknown_layers:
        return None
    return kv.token_bytes(
        shape.caches,
        tensor_parallel=int(engine.get("tensor_parallel_size") or 1),
        bytes_per_value=_cpu_value_bytes(engine),
    )


def _cpu_value_bytes(engine: Mapping[str, Any]) -> int:
    return 4 if engine.get("dtype") in ("float32", "float") else 2


def in_words(check: Check) -> tuple[str, str]:
    """Return the estimate and the reported figure as a person reads them."""

    def say(value: float) -> str:
        if check.unit != "bytes":
            return f"{value:,.0f}"
        return (
            f"{value:,.0f} B"
            if value < 1e6
            else f"{value / GIB:,.2f} GiB"
            if value >= GIB
            else f"{value / 1e6:,.1f} MB"
        )

    mode, low, high = say(check.estimated.mode), say(check.estimated.low), say(check.estimated.high)
    return (mode if check.estimated.is_point else f"{mode} ({low} to {high})"), say(check.reported)
