"""What is known of a model's tensors before it is loaded: from its architecture, or from the headers of its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from pathlib import Path
from typing import Any

from checkpoints.catalog import Model, models
from checkpoints.errors import CheckpointError
from checkpoints.tensors import architecture, headers, schemes
from planning.errors import BadInput, UnknownName, unknown

DTYPES = ("auto", "bfloat16", "float16", "float32")
FP8, BITSANDBYTES = "fp8", "bitsandbytes"
# Methods that the engine applies while it loads 16-bit weights.
ENGINE_METHODS = (FP8, BITSANDBYTES)
_FLOATS = ("F32", "F16", "BF16")
# bitsandbytes' NF4: one 32-bit scale for 64 weights.
_NF4_BLOCK = 64
_EXPERT = ".experts."
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
VOCABULARY = ("embed_tokens", "lm_head", "wte")


@dataclass(frozen=True)
class Shape:
    """A model's tensors as an engine holds them. `source` is "catalogue", "configuration" or "files".

    `tensors`: name → type and shape once loaded. `stored_bytes`: what the checkpoint takes, None when it was not seen
    and cannot be computed. `full`: name → shape before quantization; None when that is not known.
    """

    name: str
    config: Mapping[str, Any]
    scheme: str
    source: str
    tensors: Mapping[str, schemes.Stored]
    stored_bytes: int
    full: Mapping[str, tuple[int, ...]] | None

    @cached_property
    def weights_bytes(self) -> int:
        """The bytes of all tensors once loaded on one device, scales and zero points included."""
        return sum(tensor.stored_bytes for tensor in self.tensors.values())

    @cached_property
    def portions(self) -> Mapping[tuple[int | None, str, str], int]:
        """(layer or None, module, leaf) → bytes: "model.layers.3.mlp.up_proj.weight" is in (3, "up_proj", "weight")."""
        found: dict[tuple[int | None, str, str], int] = {}
        for name, tensor in self.tensors.items():
            module, _, leaf = name.rpartition(".")
            layer = _LAYER.search(name)
            place = (int(layer[1]) if layer else None, module.rpartition(".")[2], leaf)
            found[place] = found.get(place, 0) + tensor.stored_bytes
        return found

    @property
    def text(self) -> Mapping[str, Any]:
        """The configuration of the language model (of a multimodal model: that part)."""
        return self.config.get("text_config") or self.config

    @property
    def layers(self) -> int:
        return int(self.text["num_hidden_layers"])

    @property
    def context_tokens(self) -> int | None:
        """The longest sequence that the model is made for; None when its configuration does not say."""
        found = self.text.get("max_position_embeddings")
        return found if isinstance(found, int) else None

    @property
    def kv_bytes_per_token(self) -> int | None:
        """The cache of one token at 16 bit, over the whole model; None when it cannot be computed."""
        return architecture.kv_bytes_per_token(self.config)

    @cached_property
    def parameters(self) -> int | None:
        """All parameters; None when they are stored in a form that does not say."""
        return None if self.full is None else sum(prod(shape) for shape in self.full.values())

    @cached_property
    def active_parameters(self) -> int | None:
        """The parameters that one token uses: all, or of a mixture of experts those of the chosen experts."""
        if self.full is None:
            return None
        return round(sum(prod(shape) * self._used(name) for name, shape in self.full.items()))

    @cached_property
    def multiplied_parameters(self) -> int | None:
        """The active parameters that every prompt token is multiplied with: no embeddings and no output head."""
        if self.full is None:
            return None
        inner = {name: shape for name, shape in self.full.items() if not is_vocabulary(name) and len(shape) == 2}
        return round(sum(prod(shape) * self._used(name) for name, shape in inner.items()))

    @property
    def experts(self) -> tuple[int, int] | None:
        """(experts, experts that one token uses) of a mixture of experts; None for a dense model."""
        count = self.text.get("num_local_experts") or self.text.get("n_routed_experts") or self.text.get("num_experts")
        used = self.text.get("num_experts_per_tok")
        return (int(count), int(used)) if count and used else None

    @cached_property
    def expert_bytes(self) -> int:
        """The bytes of all experts that tokens choose among; 0 for a dense model."""
        if self.experts is None:
            return 0
        return sum(tensor.stored_bytes for name, tensor in self.tensors.items() if _EXPERT in name)

    @cached_property
    def embedding_bytes(self) -> int:
        """The bytes of the table of which a step reads only single rows; 0 when it is also the output head."""
        if not any(name.startswith("lm_head") for name in self.tensors):
            return 0
        return sum(
            tensor.stored_bytes
            for name, tensor in self.tensors.items()
            if is_vocabulary(name) and not name.startswith("lm_head")
        )

    def expert_share(self, tokens: float = 1.0) -> float:
        """Return the share of the experts that a step of so many tokens reads; 1 for a dense model.

        Each token is taken to choose its k of E experts at random, so that 1 − (1 − k/E)^tokens of them are read.
        """
        if self.experts is None:
            return 1.0
        count, used = self.experts
        return float(1 - (1 - used / count) ** tokens)

    def _used(self, name: str) -> float:
        return self.expert_share() if _EXPERT in name else 1.0


def read(model: str, quantization: str = "none", dtype: str = "auto") -> Shape:
    """Return the shape of a catalogued architecture, a model directory, or a safetensors file.

    Nothing is downloaded and no weight is read. `quantization`: none, int8, int4, w8a8-int8, w4a16, awq, gptq, fp8 or
    bitsandbytes. Raises UnknownName, or BadInput for a directory or quantization that cannot be used.
    """
    try:
        return _read(model, quantization, dtype)
    except CheckpointError as error:
        raise BadInput(str(error)) from error


def _read(model: str, quantization: str, dtype: str) -> Shape:
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    scheme = schemes.resolve(quantization)
    if scheme not in (schemes.NONE, *schemes.WRITTEN, *ENGINE_METHODS):
        known = (*schemes.WRITTEN, *ENGINE_METHODS)
        raise BadInput(
            f"The size of weights in quantization {quantization!r} is not known; known are none, {', '.join(known)}."
        )
    if known_model := models().get(model.lower()):
        return _catalogued(known_model.name, scheme, dtype)
    path = Path(model).expanduser()
    if path.is_dir() or path.suffix == ".safetensors":
        return _from_files(path, model, scheme, dtype)
    if "/" in model:
        raise UnknownName(
            f"There is no directory {model!r}, and a repository on the hub is not looked up. Download it with "
            f"`nbridge fetch {model} --out DIRECTORY` and name the directory, or name a known architecture: "
            f"{', '.join(models())}."
        )
    raise unknown("model", model, models(), "A directory with a config.json works too.")


def is_vocabulary(name: str) -> bool:
    """Say whether a tensor is the embedding table or the output head."""
    return name.rpartition(".")[0].rpartition(".")[2] in VOCABULARY


@cache
def _catalogued(name: str, scheme: str, dtype: str) -> Shape:
    model: Model = models()[name]
    return _made(name, model.config, model.stored(), scheme, dtype, "catalogue")


def _from_files(path: Path, name: str, scheme: str, dtype: str) -> Shape:
    if not path.exists():
        raise UnknownName(f"There is no file {path}.")
    directory = path if path.is_dir() else path.parent
    config = headers.read_json(directory / "config.json")
    if "num_hidden_layers" not in (config.get("text_config") or config):
        raise BadInput(
            f"{directory / 'config.json'} does not say num_hidden_layers, so nothing can be computed from it."
        )
    found = headers.read_tensors(path) if path.is_dir() else headers.read_header(path)
    own = schemes.scheme_of(config)
    if schemes.NONE not in (own, scheme):
        raise BadInput(
            f"{path} is already quantized ({own}), so quantization {scheme!r} cannot be applied to it. Leave "
            "--quantization out, or name the unquantized model."
        )
    if not found:
        # Without weights, as `nbridge serve` makes them for catalogued architectures: by the configuration.
        plain = {key: schemes.Stored("BF16", shape) for key, shape in architecture.tensor_shapes(config).items()}
        if own not in (schemes.NONE, *schemes.WRITTEN):
            raise BadInput(f"{path} has no weights, and the size of weights in its format ({own}) is not known.")
        return _made(name, config, plain, own if scheme == schemes.NONE else scheme, dtype, "configuration")
    stored = {key: tensor.stored for key, tensor in found.items()}
    if own == schemes.NONE:
        return _made(name, config, stored, scheme, dtype, "files")
    full = architecture.tensor_shapes(config) if config.get("model_type") in architecture.KNOWN_TYPES else None
    total_bytes = sum(tensor.stored_bytes for tensor in stored.values())
    return Shape(name, config, own, "files", stored, total_bytes, full)


def _made(
    name: str,
    config: Mapping[str, Any],
    plain: Mapping[str, schemes.Stored],
    scheme: str,
    dtype: str,
    source: str,
) -> Shape:
    full = {key: tensor.shape for key, tensor in plain.items()}
    if scheme in schemes.WRITTEN:
        tensors = {k: part for key, tensor in plain.items() for k, part in schemes.stored(key, tensor, scheme).items()}
        return Shape(name, config, scheme, source, tensors, sum(t.stored_bytes for t in tensors.values()), full)
    loaded = {key: _loaded(tensor, dtype) for key, tensor in plain.items()}
    shape = Shape(name, config, scheme, source, loaded, sum(t.stored_bytes for t in plain.values()), full)
    if scheme == schemes.NONE:
        return shape
    converted = {k: part for key, tensor in loaded.items() for k, part in _converted(key, tensor, scheme).items()}
    return replace(shape, tensors=converted)


def _loaded(tensor: schemes.Stored, dtype: str) -> schemes.Stored:
    # "auto" loads 32-bit checkpoints at 16 bit, as vLLM does.
    if tensor.dtype not in _FLOATS:
        return tensor
    return tensor._replace(dtype="F32" if dtype == "float32" else "BF16")


def _converted(name: str, tensor: schemes.Stored, scheme: str) -> dict[str, schemes.Stored]:
    if not schemes.is_quantized(name, tensor.shape):
        return {name: tensor}
    if scheme == FP8:
        return {name: schemes.Stored("F8_E4M3", tensor.shape), f"{name}_scale": schemes.Stored("F32", (1,))}
    outputs, inputs = tensor.shape
    blocks = -(-outputs * inputs // _NF4_BLOCK)
    return {name: schemes.Stored("U8", (outputs, inputs // 2)), f"{name}_absmax": schemes.Stored("F32", (blocks,))}
