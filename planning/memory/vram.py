"""Does a model fit on GPUs, and how much context for how many requests is left. Pure.

A GPU's budget is its memory × gpu_memory_utilization. Of it go weights, the activation peak, memory outside of torch
and CUDA graphs (estimates with a range); the rest holds the key-value cache. Weights and cache are called exact only
where they were held against vLLM: by tests for the kind of model, or by asking the installed vLLM. The estimates are
the weak part: after a start, vLLM's own figures replace them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from checkpoints.tensors.layers import Layer, unknown_kinds
from planning.catalog_entries import Gpu, Spread, point
from planning.catalogs import GIB
from planning.errors import BadInput
from planning.memory import kv, overheads
from planning.memory.asking import EngineModel
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting, Stage, stages

DEFAULT_CONTEXT_TOKENS = 8192
FITS, TIGHT, NO, UNKNOWN = "fits", "tight", "no", "unknown"
_WEIGHTS_FROM = {
    "catalogue": "as computed from the architecture",
    "configuration": "as computed from the architecture",
    "transformers": "as transformers makes them of the configuration",
    "files": "as the files' headers say",
    "hub": "as the headers on the hub say",
    "gguf": "as the file's header says",
}


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

    `stage` is its stage of the pipeline; `caches` what its layers keep, None when the configuration does not say.
    `weights` is a range where the engine's kernels pad them. `engine` is what the installed vLLM said, None when it was
    not asked; `weights_asked`: whether the weights are its figure too. `context_tokens`, `concurrency`: as asked for.
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
    weights: Spread
    caches: tuple[Layer, ...] | None
    engine: EngineModel | None = None
    weights_asked: bool = False

    @property
    def total(self) -> Spread:
        return self.gpu.usable_gib.times(GIB)

    @property
    def budget(self) -> Spread:
        return self.total.times(self.setting.gpu_memory_utilization)

    @property
    def weights_bytes(self) -> float:
        return self.weights.mode

    @property
    def exact_weights(self) -> bool:
        """Whether the weights were held against vLLM's own."""
        return self.weights.is_point and (self.weights_asked or self.shape.held)

    @property
    def exact_cache(self) -> bool:
        """Whether the cache of a token was held against vLLM's own."""
        return self.engine is not None or self.shape.cache_held(8 * self._division[1])

    @property
    def unknown_layers(self) -> Mapping[str, int]:
        """Name → number of this stage's layers whose cache is not known."""
        return unknown_kinds(self.caches or ())

    @property
    def terms(self) -> tuple[Term, ...]:
        """What goes off the budget before the key-value cache, in the order to stack it."""
        size = _WEIGHTS_FROM[self.shape.source]
        if self.engine is not None and self.weights_asked:
            size = f"as vLLM {self.engine.version} makes them (asked on a machine's {self.engine.device})"
        elif not self.weights.is_point:
            size = f"{size}, padded as the kernels of this format do"
        sequences, tokens = self.setting.batch(self.gpu)
        return (
            Term("weights", self.weights, self.exact_weights, size),
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
            "low": self.budget.low - self.weights.high - sum(term.high for term in spent),
            "mode": self.budget.mode - self.weights.mode - sum(term.mode for term in spent),
            "high": self.budget.high - self.weights.low - sum(term.low for term in spent),
        }

    @property
    def kv_bytes_per_token(self) -> float | None:
        """One more token's cache on this GPU while no window slides; None when the configuration does not say.

        Layers whose kind is not known are left out, and named in `unknown_layers`.
        """
        if self.caches is None:
            return None
        tensor, per_value = self._division
        return kv.token_bytes(self.caches, tensor_parallel=tensor, bytes_per_value=per_value)

    @property
    def _division(self) -> tuple[int, float]:
        # What vLLM itself said is of one GPU, in the cache's own type.
        if self.engine is not None:
            return 1, 1
        own = self.shape.cache_bits if self.setting.kv_cache_dtype == "auto" else None
        return self.setting.tensor_parallel, own / 8 if own else self.setting.kv_bytes_per_value

    def kv_tokens(self, end: str = "mode") -> int | None:
        """Return the tokens that the cache holds, in whole blocks, at an end of `kv_room`."""
        per_token = self.kv_bytes_per_token
        if not per_token:
            return None
        block = self.setting.block_tokens
        return int(max(0.0, self.kv_room[end]) // (per_token * block)) * block

    def sequence_bytes(self, context_tokens: int) -> float | None:
        """Return the cache of one sequence of so many tokens on this GPU."""
        if self.caches is None:
            return None
        tensor, per_value = self._division
        return kv.sequence_bytes(
            self.caches,
            context_tokens,
            tensor_parallel=tensor,
            bytes_per_value=per_value,
            block_tokens=self.setting.block_tokens,
        )

    def max_concurrency(self, context_tokens: int, end: str = "mode") -> int | None:
        """Return how many sequences of so many tokens the cache holds at once; 0 when not even one."""
        one = self.sequence_bytes(context_tokens)
        return None if not one else int(max(0.0, self.kv_room[end]) // one)

    def max_context(self, concurrency: int, end: str = "mode") -> int | None:
        """Return the longest context that so many sequences may have at once, at most the model's own."""
        if not self.sequence_bytes(1):
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
        if self.caches is None or self.unknown_layers:
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
            "notes": list(self.shape.notes),
            "asked_vllm": self.engine and self.engine.version,
            "parameters": self.shape.parameters,
            "tower_parameters": self.shape.tower_parameters,
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
                "kv_exact": self.exact_cache,
                "kv_bytes_per_sequence": self.sequence_bytes(self.context_tokens),
            },
            "layers": [{"kind": kind, "layers": count} for kind, count in kv.kinds(self.caches or ()).items()],
            "unknown_layers": dict(self.unknown_layers),
            "kv_tokens": {end: self.kv_tokens(end) for end in ("low", "mode", "high")},
            "max_context_tokens": self.max_context(self.concurrency),
            "max_concurrency": self.max_concurrency(self.context_tokens),
        }


def estimate(
    shape: Shape,
    gpu: Gpu,
    setting: Setting | None = None,
    *,
    context_tokens: int | None = None,
    concurrency: int = 1,
    engine: EngineModel | None = None,
) -> Estimate:
    """Return the memory of the fullest GPU. `context_tokens` None: 8,192, or what the model is made for if less.

    `engine`: what the installed vLLM said of the model, taken instead of our arithmetic where it was asked for as many
    tensor-parallel GPUs.
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
    engine = engine if engine is None or engine.tensor_parallel == setting.tensor_parallel else None
    found = shape.caches if engine is None else engine.caches(shape.layers)
    divided, padding = stages(shape, setting), overheads.padding(shape, setting.tensor_parallel)
    asked = engine is not None and not engine.weights_differ(shape, sum(stage.weights_bytes for stage in divided))
    if engine is not None and asked:
        divided, padding = engine.stages(shape.layers, setting.pipeline_parallel), point(1)
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
            weights=padding.times(stage.weights_bytes),
            caches=None if found is None else found[stage.first_layer : stage.last_layer + 1],
            engine=engine,
            weights_asked=asked,
        )
        for stage in divided
    ]
    return min(made, key=lambda one: one.kv_room["mode"] / len(one.stage.layers))


def gib(size_bytes: float) -> str:
    """A size as a person reads it: GiB with the digits that matter."""
    value = size_bytes / GIB
    return f"{value:,.0f} GiB" if abs(value) >= 100 else f"{value:,.1f} GiB" if abs(value) >= 1 else f"{value:,.2f} GiB"


def _reason(made: Estimate) -> str:  # noqa: PLR0911 (one for a verdict)
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
    if made.verdict == UNKNOWN:
        kinds_said = ", ".join(f"{count} of kind {name}" for name, count in made.unknown_layers.items())
        known = f"the other {len(made.caches or ()) - sum(made.unknown_layers.values())} layers need " if one else ""
        return (
            f"The weights fit and {room} are left for the cache on {where}. How much of it some layers need is not "
            f"known here ({kinds_said}); {known}{gib(one * made.concurrency)} for {asked}."
        )
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
