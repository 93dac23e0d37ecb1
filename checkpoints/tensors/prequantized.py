"""How a published checkpoint stores its weights, by what its configuration says of its quantization. Pure.

`quantization_config` in config.json (FP8, MXFP4, AWQ, GPTQ, bitsandbytes, compressed-tensors, modelopt), or NVIDIA's
`hf_quant_config.json` beside it. From a file's header the other way round: how many weights a packed tensor holds.
Sizes computed from this are estimates: which layers a producer left alone is told by patterns that fit its own names.
"""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

from checkpoints.tensors import schemes
from checkpoints.tensors.schemes import Stored

Config = Mapping[str, Any]
QUANT_FILE = "hf_quant_config.json"
MXFP4 = "mxfp4"
_LAYER_ON = re.compile(r"(?:^|\.)(layers\.\d+\..*)$")
# Leaves that go with a quantized weight and hold no weight of their own.
_BESIDE = re.compile(
    r"(scale|scales|scale_inv|scale_2|absmax|quant_map|quant_state\S*|qzeros|zeros|zero_point|g_idx|weight_shape|"
    r"nested_absmax|input_amax|amax|e_score_correction_bias)$|_scales?$|_scale_inv$|_blocks_shape$"
)

_SINGLE_EXPERT = re.compile(r"experts\W+\d")


@dataclass(frozen=True)
class Format:
    """How quantized weights lie in the files.

    `bits` of a weight; `group`: inputs that share a scale (None: one scale for a row, or for the tensor), of
    `scale_bytes`; `block`: rows and columns that share one; `zeros`: a zero point per group; `experts_only`: only the
    experts are quantized. `expert_bits` where they differ. `ignored`: patterns of modules that stay as they were.
    """

    name: str
    bits: float
    group: int | None = None
    scale_bytes: float = 0.0
    block: tuple[int, int] | None = None
    zeros: bool = False
    experts_only: bool = False
    expert_bits: float | None = None
    ignored: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Its name with what makes a difference to the bytes: blocks or groups with a scale, experts of other bits."""
        scales = "in blocks of {} × {}".format(*self.block) if self.block else f"in groups of {self.group}"
        experts = f"experts of {self.expert_bits:g} bits" if self.expert_bits else ""
        return ", ".join(part for part in (self.name, scales if self.block or self.group else "", experts) if part)

    @property
    def names_experts(self) -> bool:
        """Whether it leaves single experts as they are: then those of a layer are not all alike."""
        return any(_SINGLE_EXPERT.search(pattern) for pattern in self.ignored)

    def covers(self, name: str, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor is stored in this format: a linear layer's weight that is not left alone."""
        expert = is_expert(name) and len(shape) == 3
        if not (expert or schemes.is_quantized(name, shape)) or (self.experts_only and not is_expert(name)):
            return False
        return not self._ignores(name.removesuffix(".weight"))

    @cached_property
    def _patterns(self) -> tuple[frozenset[str], tuple[str, ...]]:
        plain = frozenset(_in_layer(pattern) for pattern in self.ignored if not _is_wild(pattern))
        return plain, tuple(pattern for pattern in self.ignored if _is_wild(pattern))

    def _ignores(self, module: str) -> bool:
        if not self.ignored:
            return False
        plain, wild = self._patterns
        words = _in_layer(module).split(".")
        spans = (
            ".".join(words[first:last]) for first in range(len(words)) for last in range(first + 1, len(words) + 1)
        )
        return any(span in plain for span in spans) or any(_fits(module, pattern) for pattern in wild)

    def stored(self, name: str, tensor: Stored) -> dict[str, Stored]:
        """Return what lies in the files in place of one tensor: the packed weights, and what they are scaled by."""
        if not self.covers(name, tensor.shape):
            return {name: tensor}
        bits = self.expert_bits if self.expert_bits and is_expert(name) else self.bits
        values = prod(tensor.shape)
        parts = {name: Stored("U8", (*tensor.shape[:-1], ceil(tensor.shape[-1] * bits / 8)))}
        if self.expert_bits and is_expert(name):
            scale = values / 32  # MXFP4: one byte for 32 weights
        elif self.block:
            *outer, rows, columns = tensor.shape
            scale = prod(outer) * ceil(rows / self.block[0]) * ceil(columns / self.block[1]) * 4
        elif self.group:
            scale = values / self.group * (self.scale_bytes + (bits / 8 if self.zeros else 0))
        else:
            scale = values / tensor.shape[-1] * self.scale_bytes
        if scale:
            parts[f"{name}_scale"] = Stored("U8", (ceil(scale),))
        return parts


def is_expert(name: str) -> bool:
    """Say whether a tensor belongs to the experts that tokens choose among."""
    return ".experts." in name


def format_of(config: Config, beside: Config | None = None) -> Format | None:  # noqa: PLR0911 (one for a method)
    """Return the format that a configuration says its weights are in; None when they are not quantized, or when how
    many bits a weight has is not known for the method. `beside` is what hf_quant_config.json holds.
    """
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        nested = next((v for k, v in config.items() if k.endswith("_config") and isinstance(v, Mapping)), {})
        found = nested.get("quantization_config") if isinstance(nested.get("quantization_config"), Mapping) else None
    if found is None:
        found = (beside or {}).get("quantization")
    if not isinstance(found, Mapping):
        return None
    ignored = _ignored(found)
    method = str(found.get("quant_method") or found.get("quant_algo") or "").lower()
    algorithm = str(found.get("quant_algo") or (found.get("quantization") or {}).get("quant_algo") or "").lower()
    expert_bits = 4.0 if config.get("expert_dtype") == "fp4" else None
    match algorithm or method:
        case "fp8" | "fbgemm_fp8":
            size = found.get("weight_block_size")
            block = (int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None
            scale = 0.0 if block else 4.0 if method == "fbgemm_fp8" else 0.0
            return Format("fp8", 8, None, scale, block, expert_bits=expert_bits, ignored=ignored)
        case "mxfp4":
            return Format(MXFP4, 4, 32, 1, experts_only=True, ignored=ignored)
        case "nvfp4" | "w4a16_nvfp4":
            return Format("nvfp4", 4, int(found.get("group_size") or 16), 1, ignored=ignored)
        case "awq" | "gptq" | "auto-round" | "intel/auto-round":
            bits, group = float(found.get("bits") or 4), found.get("group_size")
            width = int(group) if isinstance(group, int) and group > 0 else None
            return Format(algorithm or method, bits, width, 2, zeros=True, ignored=ignored)
        case "bitsandbytes":
            if found.get("load_in_8bit"):
                return Format("bitsandbytes", 8, None, 4, ignored=ignored)
            return Format("bitsandbytes", 4, 64, 1, ignored=ignored)
        case "compressed-tensors":
            return _compressed_tensors(found, ignored)
    return None


def cache_bits(config: Config, beside: Config | None = None) -> tuple[int | None, bool]:
    """Return (bits of a cached value that NVIDIA's file beside the configuration asks for, or None; whether the
    configuration itself has scales for an 8-bit cache, which vLLM may take or not).
    """
    algorithm = ((beside or {}).get("quantization") or {}).get("kv_cache_quant_algo")
    scheme = (config.get("quantization_config") or {}).get("kv_cache_scheme")
    offered = isinstance(scheme, Mapping) and scheme.get("num_bits") == 8
    return (8 if str(algorithm).upper() == "FP8" else None), offered


def full_shape(name: str, tensor: Stored, form: Format | None) -> tuple[int, ...] | None:
    """Return the shape of the weights that a stored tensor holds; None when it only goes with others (scales)."""
    leaf = name.rpartition(".")[2]
    if _BESIDE.search(leaf):
        return None
    shape = tensor.shape
    bits = 4.0 if form is None else (form.expert_bits or form.bits) if is_expert(name) else form.bits
    if leaf == "qweight" and tensor.dtype == "I32":
        # AWQ packs outputs, GPTQ inputs; the count is the same.
        return (*shape[:-1], round(shape[-1] * 32 / bits))
    if leaf == "weight_packed" or tensor.dtype == "I32":
        return (*shape[:-1], round(shape[-1] * (32 if tensor.dtype == "I32" else 8) / bits))
    if tensor.dtype in ("U8", "I8") and leaf.endswith("_blocks"):
        return (*shape[:-2], shape[-2] * shape[-1] * 2)
    if tensor.dtype in ("U8", "I8") and len(shape) >= 2 and bits == 4:
        return (*shape[:-1], shape[-1] * 2)
    return shape


def _compressed_tensors(found: Config, ignored: tuple[str, ...]) -> Format | None:
    groups = list((found.get("config_groups") or {}).values())
    weights = (groups[0].get("weights") or {}) if groups and isinstance(groups[0], Mapping) else {}
    bits = weights.get("num_bits")
    if not isinstance(bits, int):
        return None
    group, size = weights.get("group_size"), weights.get("block_structure")
    floats = weights.get("type") == "float"
    scale = 1.0 if floats and bits == 4 else 4.0 if floats and weights.get("strategy") == "tensor" else 2.0
    block = (int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None
    width = int(group) if isinstance(group, int) and group > 0 else None
    return Format("compressed-tensors", float(bits), width, scale, block, ignored=ignored)


def _ignored(found: Config) -> tuple[str, ...]:
    for name in ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules"):
        stated = found.get(name)
        if isinstance(stated, list):
            return tuple(str(one) for one in stated)
    return ()


def _is_wild(pattern: str) -> bool:
    return pattern.startswith("re:") or "*" in pattern


def _in_layer(module: str) -> str:
    # The same layer may have another prefix in the producer's names.
    found = _LAYER_ON.search(module)
    return found[1] if found else module


def _fits(module: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    return fnmatch.fnmatchcase(module, pattern) or fnmatch.fnmatchcase(_in_layer(module), _in_layer(pattern))
