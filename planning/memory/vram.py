"""Does a model fit on GPUs, and how much context for how many requests is left. Pure.

A GPU's budget is its memory × gpu_memory_utilization. Of it go weights (exact), the activation peak, memory outside
of torch and CUDA graphs (estimates with a range); the rest holds the key-value cache (exact per token). The estimates
are the weak part: after a start, vLLM's own figures replace them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planning.catalogs import GIB, Catalog, Gpu, Spread, point
from planning.errors import BadInput
from planning.memory import kv, overheads
from planning.memory.shapes import BITSANDBYTES, Shape
from planning.memory.sharding import Setting, Stage, refusal, stages

DEFAULT_CONTEXT_TOKENS = 8192
NODE_COUNTS = (1, 2, 3, 4, 6, 8)
FITS, TIGHT, NO, UNKNOWN = "fits", "tight", "no", "unknown"


@dataclass(frozen=True)
class Term:
    """One part of a GPU's memory: its bytes, whether they are exact, and why so many."""

    name: str
    bytes: Spread
    exact: bool
    why: str


@dataclass(frozen=True)
class Estimate:
    """The memory of one GPU: the one that has the least room for the key-value cache.

    `stage` is its stage of the pipeline; `kv_layer_bytes` one token's cache in one layer there, None when the
    architecture's cache is not known. `context_tokens` and `concurrency` are what was asked for.
    """

    shape: Shape
    gpu: Gpu
    setting: Setting
    context_tokens: int
    concurrency: int
    stage: Stage
    activation: Spread
    non_torch: Spread
    graphs: Spread
    kv_layer_bytes: float | None

    @property
    def total(self) -> Spread:
        return self.gpu.usable_gib.times(GIB)

    @property
    def budget(self) -> Spread:
        return self.total.times(self.setting.gpu_memory_utilization)

    @property
    def weights_bytes(self) -> float:
        return self.stage.weights_bytes

    @property
    def terms(self) -> tuple[Term, ...]:
        """What goes off the budget before the key-value cache, in the order to stack it."""
        size = "as computed from the architecture" if self.shape.source != "files" else "as the files' headers say"
        sequences, tokens = self.setting.batch(self.gpu)
        return (
            Term("weights", point(self.weights_bytes), self.shape.scheme != BITSANDBYTES, size),
            Term(
                "activation peak",
                self.activation,
                False,
                f"a step of {tokens:,} tokens, logits of {sequences:,} sequences",
            ),
            Term("outside torch", self.non_torch, False, "driver and library contexts, communication buffers"),
            Term("CUDA graphs", self.graphs, False, "off" if self.graphs.high == 0 else "captured decode steps"),
        )

    @cached_property
    def kv_room(self) -> dict[str, float]:
        """Bytes left for the key-value cache; `low` if every estimate is at its worst. Negative: it does not fit."""
        spent = self.activation, self.non_torch, self.graphs
        return {
            "low": self.budget.low - self.weights_bytes - sum(term.high for term in spent),
            "mode": self.budget.mode - self.weights_bytes - sum(term.mode for term in spent),
            "high": self.budget.high - self.weights_bytes - sum(term.low for term in spent),
        }

    @property
    def kv_bytes_per_token(self) -> float | None:
        """One token's cache on this GPU while no window slides; None when the architecture's cache is not known."""
        return None if self.kv_layer_bytes is None else self.kv_layer_bytes * len(self.stage.layers)

    def kv_tokens(self, end: str = "mode") -> int | None:
        """Return the tokens that the cache holds, in whole blocks, at an end of `kv_room`."""
        per_token = self.kv_bytes_per_token
        if per_token is None:
            return None
        block = self.setting.block_tokens
        return int(max(0.0, self.kv_room[end]) // (per_token * block)) * block

    def sequence_bytes(self, context_tokens: int) -> float | None:
        """Return the cache of one sequence of so many tokens on this GPU."""
        if self.kv_layer_bytes is None:
            return None
        of_stage = kv.windows(self.shape.config)[self.stage.first_layer : self.stage.last_layer + 1]
        return kv.sequence_bytes(self.kv_layer_bytes, of_stage, context_tokens, block_tokens=self.setting.block_tokens)

    def max_concurrency(self, context_tokens: int, end: str = "mode") -> int | None:
        """Return how many sequences of so many tokens the cache holds at once; 0 when not even one."""
        one = self.sequence_bytes(context_tokens)
        return None if one is None else int(max(0.0, self.kv_room[end]) // one)

    def max_context(self, concurrency: int, end: str = "mode") -> int | None:
        """Return the longest context that so many sequences may have at once, at most the model's own."""
        if self.kv_layer_bytes is None:
            return None
        low, high = 0, self.shape.context_tokens or 1 << 24
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if (self.max_concurrency(middle, end) or 0) >= concurrency else (low, middle - 1)
        return low

    @property
    def verdict(self) -> str:
        """ "fits", "tight" (not if every estimate is at its worst), "no", or "unknown" (no formula for the cache)."""
        need = (self.sequence_bytes(self.context_tokens) or 0.0) * self.concurrency
        if self.kv_room["mode"] <= 0 or need > self.kv_room["mode"]:
            return NO
        if self.kv_layer_bytes is None:
            return UNKNOWN
        return TIGHT if need > self.kv_room["low"] or self.kv_room["low"] <= 0 else FITS

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it: any verdict but "no"."""
        return self.verdict != NO

    @property
    def reason(self) -> str:
        """Why it fits or does not, as one paragraph."""
        return _reason(self)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as plain data; spreads as {low, mode, high}, what is not known as null."""
        return {
            "model": self.shape.name,
            "quantization": self.shape.scheme,
            "source": self.shape.source,
            "parameters": self.shape.parameters,
            "active_parameters": self.shape.active_parameters,
            "stored_weights_bytes": self.shape.stored_bytes,
            "loaded_weights_bytes": self.shape.weights_bytes,
            "gpu": self.gpu.name,
            "gpus": self.setting.gpus,
            "tensor_parallel": self.setting.tensor_parallel,
            "pipeline_parallel": self.setting.pipeline_parallel,
            "gpu_memory_utilization": self.setting.gpu_memory_utilization,
            "kv_cache_dtype": self.setting.kv_cache_dtype,
            "context_tokens": self.context_tokens,
            "concurrency": self.concurrency,
            "verdict": self.verdict,
            "reason": self.reason,
            "per_gpu": {
                "total_bytes": self.total.model_dump(),
                "budget_bytes": self.budget.model_dump(),
                **{
                    f"{term.name.replace(' ', '_').lower()}_bytes": {**term.bytes.model_dump(), "exact": term.exact}
                    for term in self.terms
                },
                "kv_room_bytes": self.kv_room,
                "kv_bytes_per_token": self.kv_bytes_per_token,
            },
            "kv_tokens": {end: self.kv_tokens(end) for end in ("low", "mode", "high")},
            "max_context_tokens": self.max_context(self.concurrency),
            "max_concurrency": self.max_concurrency(self.context_tokens),
        }


@dataclass(frozen=True)
class GpuSet:
    """The smallest number of one kind of GPU on which a model fits, and what it costs (None: no price is known)."""

    gpu: Gpu
    gpus: int
    estimate: Estimate
    usd_per_hour: Spread | None
    buy_usd: Spread | None


def estimate(
    shape: Shape,
    gpu: Gpu,
    setting: Setting | None = None,
    *,
    context_tokens: int | None = None,
    concurrency: int = 1,
) -> Estimate:
    """Return the memory of the fullest GPU. `context_tokens` None: 8,192, or what the model is made for if less.

    Raises BadInput when vLLM would refuse to divide the model so, or when the context is longer than the model's.
    """
    setting = setting or Setting()
    longest = shape.context_tokens
    if context_tokens is None:
        context_tokens = min(DEFAULT_CONTEXT_TOKENS, longest or DEFAULT_CONTEXT_TOKENS)
    if context_tokens < 1 or concurrency < 1:
        raise BadInput(f"context {context_tokens} and concurrency {concurrency} must both be at least 1.")
    if longest is not None and context_tokens > longest:
        raise BadInput(
            f"A context of {context_tokens:,} tokens is more than the {longest:,} that {shape.name} is made for."
        )
    layer_bytes = kv.layer_bytes_per_token(
        shape.config, tensor_parallel=setting.tensor_parallel, bytes_per_value=setting.kv_bytes_per_value
    )
    made = [
        Estimate(
            shape=shape,
            gpu=gpu,
            setting=setting,
            context_tokens=context_tokens,
            concurrency=concurrency,
            stage=stage,
            activation=overheads.activation_peak(shape, gpu, setting),
            non_torch=overheads.outside_torch(setting),
            graphs=overheads.graphs(setting),
            kv_layer_bytes=layer_bytes,
        )
        for stage in stages(shape, setting)
    ]
    return min(made, key=lambda one: one.kv_room["mode"] / len(one.stage.layers))


def smallest_sets(
    shape: Shape,
    catalog: Catalog,
    setting: Setting | None = None,
    *,
    context_tokens: int | None = None,
    concurrency: int = 1,
) -> list[GpuSet]:
    """Return for each kind of GPU the smallest number on which the model fits, the cheapest per hour first.

    Within a machine the GPUs work tensor-parallel (1, 2, 4, 8), machines of them pipeline-parallel. Kinds without an
    hourly price come last; kinds that do not fit in 8 machines are left out.
    """
    setting = setting or Setting()
    found = []
    for gpu in catalog.gpus.values():
        for tensor, pipeline in _layouts(gpu):
            tried = _with(setting, tensor, pipeline)
            if refusal(shape, tried):
                continue
            made = estimate(shape, gpu, tried, context_tokens=context_tokens, concurrency=concurrency)
            if made.fits:
                rent, buy = gpu.rent_usd_per_hour, gpu.buy_usd
                count = tried.gpus
                found.append(GpuSet(gpu, count, made, rent and rent.times(count), buy and buy.times(count)))
                break
    return sorted(found, key=lambda one: (one.usd_per_hour.mode if one.usd_per_hour else float("inf"), one.gpus))


def _layouts(gpu: Gpu) -> list[tuple[int, int]]:
    inside = [(count, 1) for count in (1, 2, 4, 8) if count <= gpu.per_node]
    widest = inside[-1][0]
    return inside + [(widest, nodes) for nodes in NODE_COUNTS[1:]]


def _with(setting: Setting, tensor: int, pipeline: int) -> Setting:
    return Setting(**{**_fields(setting), "tensor_parallel": tensor, "pipeline_parallel": pipeline})


def _fields(setting: Setting) -> Mapping[str, Any]:
    return dict(vars(setting))


def gib(size_bytes: float) -> str:
    """A size as a person reads it: GiB with the digits that matter."""
    value = size_bytes / GIB
    return f"{value:,.0f} GiB" if abs(value) >= 100 else f"{value:,.1f} GiB" if abs(value) >= 1 else f"{value:,.2f} GiB"


def _reason(made: Estimate) -> str:
    count = made.setting.gpus
    where = f"{'each of ' + str(count) + ' × ' if count > 1 else 'one '}{made.gpu.label}"
    budget = f"{gib(made.budget.mode)} ({made.setting.gpu_memory_utilization:.0%} of {gib(made.total.mode)})"
    overhead = sum(term.bytes.mode for term in made.terms[1:])
    if made.weights_bytes > made.budget.mode:
        return f"The weights alone, {gib(made.weights_bytes)} on {where}, are more than the budget of {budget}."
    if made.kv_room["mode"] <= 0:
        return (
            f"Weights of {gib(made.weights_bytes)} and about {gib(overhead)} of activations and overheads leave "
            f"nothing for the key-value cache in a budget of {budget} on {where}."
        )
    room = gib(made.kv_room["mode"])
    one = made.sequence_bytes(made.context_tokens)
    if one is None:
        return (
            f"The weights fit and {room} are left for the cache on {where}; how much of it a token needs is not known "
            f"for this architecture ({made.shape.text.get('model_type', 'no model_type')})."
        )
    asked = f"{made.concurrency} × {made.context_tokens:,} tokens"
    need = gib(one * made.concurrency)
    worst = gib(made.kv_room["low"]) if made.kv_room["low"] > 0 else "nothing"
    if made.verdict == NO:
        return (
            f"{asked} need {need} of key-value cache and about {room} are left on {where}: enough for "
            f"{' or '.join(_alternatives(made)) or 'less than one block'}."
        )
    if made.verdict == TIGHT:
        return (
            f"{asked} need {need} of key-value cache; about {room} are left on {where}, but {worst} "
            "if every estimate is at its worst: start it once and read vLLM's own figures."
        )
    return (
        f"{asked} need {need} of key-value cache and about {room} are left on {where} "
        f"(at least {worst} if every estimate is at its worst)."
    )


def _alternatives(made: Estimate) -> list[str]:
    fewer, shorter = made.max_concurrency(made.context_tokens), made.max_context(made.concurrency)
    said = [f"{fewer} × {made.context_tokens:,} tokens"] if fewer else []
    return said + ([f"{made.concurrency} × {shorter:,} tokens"] if shorter else [])
