"""What is known of a model's tensors before it is loaded, and what each of its layers keeps of a token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from checkpoints.tensors import architecture, entries, layers, prequantized, schemes
from checkpoints.tensors.layers import Layer
from checkpoints.tensors.prequantized import is_expert
from planning.memory import held
from planning.memory.placement import Place, is_head, is_tower, is_vocabulary, place_of

FP8, BITSANDBYTES = "fp8", "bitsandbytes"
# Methods that the engine applies while it loads 16-bit weights.
ENGINE_METHODS = (FP8, BITSANDBYTES)
_FLOATS = ("F32", "F16", "BF16")
_WHILE_LOADING = " while loading"
# bitsandbytes' NF4: one 32-bit scale for 64 weights.
_NF4_BLOCK = 64
# vLLM makes the vocabulary's tables a whole number of rows of this.
_VOCABULARY_ROWS = 64


class Weights(NamedTuple):
    """The shape of a tensor's weights before quantization, and how many alike it stands for."""

    shape: tuple[int, ...]
    times: int = 1

    @property
    def parameters(self) -> int:
        return prod(self.shape) * self.times


@dataclass(frozen=True)
class Shape:
    """A model's tensors as an engine holds them. `source`: "catalogue", "configuration", "transformers", "files",
    "hub" or "gguf".

    `tensors`: name → type and shape once loaded; one expert of a layer stands for all that are alike. `stored_bytes`:
    what the checkpoint takes, None when it was not seen and cannot be computed. `full`: name → weights before
    quantization, as `tensors`; None when that is not known. `notes`: what a
    reader of the figures must know of them, as sentences. `guessed`: whether sizes may be another model's.
    `cache_bits`: of a cached value, where the checkpoint asks for it. `form`: how exactly the weights lie in memory, by
    the words of the record (`planning.memory.held`): the scheme, and its blocks, or that the engine converts them.
    """

    name: str
    config: Mapping[str, Any]
    scheme: str
    source: str
    tensors: Mapping[str, schemes.Stored]
    stored_bytes: int | None
    full: Mapping[str, Weights] | None
    notes: tuple[str, ...] = ()
    guessed: bool = False
    cache_bits: int | None = None
    form: str = schemes.NONE

    @cached_property
    def weights_bytes(self) -> int:
        """The bytes of all tensors once loaded on one device, scales and zero points included."""
        return sum(tensor.stored_bytes for tensor in self.tensors.values())

    @cached_property
    def portions(self) -> Mapping[Place, int]:
        """Place → bytes of the tensors there: which layer or end they are in, and how they are divided."""
        found: dict[Place, int] = {}
        for name, tensor in self.tensors.items():
            place = place_of(name, tensor.shape)
            found[place] = found.get(place, 0) + tensor.stored_bytes
        return found

    @cached_property
    def caches(self) -> tuple[Layer, ...] | None:
        """What each layer keeps of a token; None when the configuration does not say how many layers there are."""
        return layers.layers(self.config)

    @property
    def held(self) -> bool:
        """Whether vLLM's own weights of this kind of model, in this form, were recorded and are these."""
        known = (self.text.get("model_type"), self.form) in held.weights()
        return known and self.source != "gguf" and not self.guessed

    def cache_held(self, bits: float = 16) -> bool:
        """Say whether vLLM's own cache of this kind of model, with values of so many bits, was recorded and is this."""
        known = (self.text.get("model_type"), bits) in held.caches()
        return known and self.source != "gguf" and not self.unknown_layers

    @property
    def converted(self) -> bool:
        """Whether these weights are yet to be made of the model's own: by the engine while it loads, or as a copy."""
        copied = self.scheme in schemes.WRITTEN and schemes.scheme_of(self.config) == schemes.NONE
        return copied or self.form.endswith(_WHILE_LOADING)

    @cached_property
    def unknown_layers(self) -> Mapping[str, int]:
        """Name → number of layers whose cache is not known."""
        return {} if self.caches is None else layers.unknown_kinds(self.caches)

    @cached_property
    def text(self) -> Mapping[str, Any]:
        """The configuration of the language model (of a multimodal model: that part)."""
        return entries.text_of(self.config)

    @property
    def layers(self) -> int:
        return entries.layer_count(self.config) or 1

    @property
    def context_tokens(self) -> int | None:
        """The longest sequence that the model is made for; None when its configuration does not say."""
        names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
        return next((value for name in names if isinstance(value := self.text.get(name), int)), None)

    @cached_property
    def kv_bytes_per_token(self) -> int | None:
        """The cache of one token at 16 bit, over the whole model; None when it cannot be computed."""
        return architecture.kv_bytes_per_token(self.config)

    @cached_property
    def parameters(self) -> int | None:
        """All parameters; None when they are stored in a form that does not say."""
        return None if self.full is None else sum(weights.parameters for weights in self.full.values())

    @cached_property
    def tower_parameters(self) -> int:
        """The parameters of parts for pictures and sound; 0 when there are none, or they are not known."""
        return sum(weights.parameters for name, weights in (self.full or {}).items() if is_tower(name))

    @cached_property
    def vocabulary_parameters(self) -> int:
        """The parameters of the embedding table and of the output head where it is another; 0 when not known."""
        found = {name: weights for name, weights in (self.full or {}).items() if not is_tower(name)}
        return sum(weights.parameters for name, weights in found.items() if is_vocabulary(name))

    @cached_property
    def active_parameters(self) -> int | None:
        """The parameters that one token uses: all, or of a mixture of experts those of the chosen experts."""
        if self.full is None:
            return None
        return round(sum(weights.parameters * self._used(name) for name, weights in self.full.items()))

    @cached_property
    def multiplied_parameters(self) -> int | None:
        """The active parameters that every prompt token is multiplied with: no embeddings and no output head."""
        if self.full is None:
            return None
        inner = {
            name: weights
            for name, weights in self.full.items()
            if (len(weights.shape) == 2 or (len(weights.shape) == 3 and is_expert(name)))
            and not is_vocabulary(name)
            and not is_tower(name)
        }
        return round(sum(weights.parameters * self._used(name) for name, weights in inner.items()))

    @cached_property
    def experts(self) -> tuple[int, int] | None:
        """(experts, experts that one token uses) of a mixture of experts; None for a dense model."""
        counts = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
        chosen = ("num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_topk", "moe_top_k", "moe_k")
        count, used = (next((v for name in names if (v := self.text.get(name))), None) for names in (counts, chosen))
        return (int(count), int(used)) if isinstance(count, int) and isinstance(used, int) else None

    @cached_property
    def expert_bytes(self) -> int:
        """The bytes of all experts that tokens choose among; 0 for a dense model."""
        if self.experts is None:
            return 0
        return sum(tensor.stored_bytes for name, tensor in self.tensors.items() if is_expert(name))

    @cached_property
    def embedding_bytes(self) -> int:
        """The bytes of the table of which a step reads only single rows; 0 when it is also the output head."""
        tables = {name: tensor for name, tensor in self.tensors.items() if is_vocabulary(name) and not is_tower(name)}
        if not any(is_head(name) for name in tables):
            return 0
        return sum(tensor.stored_bytes for name, tensor in tables.items() if not is_head(name))

    def expert_share(self, tokens: float = 1.0) -> float:
        """Return the share of the experts that a step of so many tokens reads; 1 for a dense model.

        Each token is taken to choose its k of E experts at random, so that 1 − (1 − k/E)^tokens of them are read.
        """
        if self.experts is None:
            return 1.0
        count, used = self.experts
        return float(1 - (1 - used / count) ** tokens)

    def _used(self, name: str) -> float:
        return self.expert_share() if is_expert(name) else 1.0


def grouped(tensors: Mapping[str, schemes.Stored]) -> dict[str, schemes.Stored]:
    """Return the tensors with one expert of a layer for all that are alike: a large mixture has 70,000 tensors."""
    first: dict[tuple[str, str, str, tuple[int, ...]], str] = {}
    found: dict[str, schemes.Stored] = {}
    for name, tensor in tensors.items():
        prefix, _, inner = name.partition(".experts.")
        number, _, leaf = inner.partition(".")
        if not number.isdecimal():
            found[name] = tensor
            continue
        kept = first.setdefault((prefix, leaf, tensor.dtype, tensor.shape), name)
        found[kept] = tensor if kept == name else found[kept]._replace(times=found[kept].times + 1)
    return found


def each(
    tensors: Mapping[str, schemes.Stored], change: Callable[[str, schemes.Stored], Mapping[str, schemes.Stored]]
) -> dict[str, schemes.Stored]:
    """Return what a change makes of every tensor, as many times as there are of it."""
    return {
        key: part._replace(times=tensor.times)
        for name, tensor in tensors.items()
        for key, part in change(name, tensor).items()
    }


def made(
    name: str,
    config: Mapping[str, Any],
    plain: Mapping[str, schemes.Stored],
    scheme: str,
    dtype: str,
    source: str,
    notes: tuple[str, ...] = (),
) -> Shape:
    """Return the shape of a model whose tensors are not quantized yet, once loaded in a quantization and type."""
    full = weights_of(plain)
    stored_bytes = sum(tensor.stored_bytes for tensor in plain.values())
    if scheme in schemes.WRITTEN:
        schemes.check_experts({key: tensor.shape for key, tensor in plain.items()})
        tensors = each(plain, lambda key, tensor: schemes.stored(key, tensor, scheme))
        stored_bytes = sum(tensor.stored_bytes for tensor in tensors.values())
        return Shape(name, config, scheme, source, padded(tensors), stored_bytes, full, notes, form=scheme)
    loaded = {key: _loaded(tensor, dtype) for key, tensor in plain.items()}
    form = "float32" if dtype == "float32" else schemes.NONE
    shape = Shape(name, config, scheme, source, padded(loaded), stored_bytes, full, notes, form=form)
    if scheme == schemes.NONE:
        return shape
    converted = each(shape.tensors, lambda key, tensor: _converted(key, tensor, scheme))
    return replace(shape, tensors=converted, form=scheme + _WHILE_LOADING)


def padded(tensors: Mapping[str, schemes.Stored]) -> dict[str, schemes.Stored]:
    """Return the tensors with the vocabulary's tables at the rows that vLLM gives them."""
    return {
        name: tensor._replace(shape=(-(-tensor.shape[0] // _VOCABULARY_ROWS) * _VOCABULARY_ROWS, *tensor.shape[1:]))
        if len(tensor.shape) == 2 and is_vocabulary(name)
        else tensor
        for name, tensor in tensors.items()
    }


def _loaded(tensor: schemes.Stored, dtype: str) -> schemes.Stored:
    # "auto" loads 32-bit checkpoints at 16 bit, as vLLM does.
    if tensor.dtype not in _FLOATS:
        return tensor
    return tensor._replace(dtype="F32" if dtype == "float32" else "BF16")


def _converted(name: str, tensor: schemes.Stored, scheme: str) -> dict[str, schemes.Stored]:
    expert = len(tensor.shape) == 3 and is_expert(name)
    if not (schemes.is_quantized(name, tensor.shape) or expert) or is_tower(name):
        return {name: tensor}
    if scheme == FP8:
        scales = tensor.shape[0] if expert else 1
        return {name: schemes.Stored("F8_E4M3", tensor.shape), f"{name}_scale": schemes.Stored("F32", (scales,))}
    *outer, inputs = tensor.shape
    blocks = -(-prod(tensor.shape) // _NF4_BLOCK)
    return {
        name: schemes.Stored("U8", (*outer, inputs // 2)),
        f"{name}_absmax": schemes.Stored("F32", (blocks,)),
    }


def weights_of(tensors: Mapping[str, schemes.Stored]) -> dict[str, Weights]:
    """Return name → weights of tensors that are not quantized."""
    return {name: Weights(tensor.shape, tensor.times) for name, tensor in tensors.items()}


def full_of(tensors: Mapping[str, schemes.Stored], form: prequantized.Format | None) -> dict[str, Weights]:
    """Return name → the weights that the tensors of a quantized checkpoint hold."""
    found = {name: prequantized.full_shape(name, tensor, form) for name, tensor in tensors.items()}
    return {name: Weights(shape, tensors[name].times) for name, shape in found.items() if shape is not None}
