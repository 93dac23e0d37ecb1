"""Quantization schemes as data: their names, what they store for a weight, the configuration that says so.

Seven schemes are written here, each round-to-nearest over weights only (no calibration data):

- `w8a8-int8`: compressed-tensors, one symmetric int8 scale per output channel, activations int8 per token at run time
- `w8a8-fp8`: the same with 8-bit floats (E4M3) for both
- `w4a8`: compressed-tensors, symmetric int4 in groups, stored in a byte each, activations int8 per token at run time
- `w4a16`: compressed-tensors, symmetric int4 in groups along the input
- `w8a16`: the same with int8
- `awq`: AWQ's GEMM format, asymmetric int4 in groups
- `gptq`: GPTQ's format, symmetric int4 in groups, no activation reordering

`w4a16-g32` has groups of 32 instead of 128. `w4a16-rounded` is no format: weights are rounded as the scheme rounds them
and stored at 16 bit again, so that the scheme's predictions can be had where no kernel computes it.

Pure: nothing here reads a file or computes on weights.
"""

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

from checkpoints.errors import BadScheme

NONE = "none"
W8A8_INT8, W4A16, AWQ, GPTQ = "w8a8-int8", "w4a16", "awq", "gptq"
W8A8_FP8, W4A8, W8A16 = "w8a8-fp8", "w4a8", "w8a16"
WRITTEN = (W8A8_INT8, W4A16, AWQ, GPTQ, W8A8_FP8, W4A8, W8A16)
UNGROUPED = (W8A8_INT8, W8A8_FP8)  # one scale per output channel
WEIGHTS_ONLY = (W4A16, AWQ, GPTQ, W8A16)  # activations stay at 16 bit
DEFAULT_GROUP_SIZE = 128
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
SOURCE_DTYPES = ("BF16", "F16", "F32")
DTYPES = {  # words for no quantization that name a number format
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16", "half"), "float16"),
    **dict.fromkeys(("fp32", "float32"), "float32"),
}
_UNQUANTIZED = ("", "none", "auto", *DTYPES)
_ALIASES = {"int8": W8A8_INT8, "w8a8": W8A8_INT8, "int4": W4A16}
_VARIANT = re.compile(r"(?P<word>.+?)(?:-g(?P<group>\d+))?(?P<rounded>-rounded)?")
_TWO_BIT = re.compile(r"(u?int2|w2a(8|16)|2-?bits?|int2[-_].*)")
# Routers choose experts from a handful of logits: rounding them changes which expert runs, and saves nothing.
_ROUTERS = ("gate", "router", "shared_expert_gate")
_LEFT_ALONE = re.compile(r"embed|norm|lm_head|^wte$|^wpe$|^score$")


class Stored(NamedTuple):
    """How a tensor lies in a checkpoint: safetensors dtype and shape; and how many alike it stands for."""

    dtype: str
    shape: tuple[int, ...]
    times: int = 1

    @property
    def stored_bytes(self) -> int:
        """The bytes of all that it stands for."""
        return DTYPE_BYTES[self.dtype] * prod(self.shape) * self.times


class Wanted(NamedTuple):
    """What a user's word asks for: a scheme ("none", one of the above, an engine method's name) and its variant."""

    scheme: str
    group_size: int = DEFAULT_GROUP_SIZE
    rounded: bool = False

    @property
    def name(self) -> str:
        """The scheme with what is not usual about it: `w4a16-g32-rounded`."""
        group = f"-g{self.group_size}" if self.group_size != DEFAULT_GROUP_SIZE else ""
        return f"{self.scheme}{group}{'-rounded' if self.rounded else ''}"


def wanted(quantization: str) -> Wanted:
    """Return the scheme and variant that a user's word means.

    Raises BadScheme as `resolve`, and for a variant that the scheme does not have.
    """
    found = _VARIANT.fullmatch(quantization.strip().lower())
    scheme = resolve(found["word"] if found else quantization)
    if not found or scheme not in WRITTEN:
        return Wanted(resolve(quantization))
    if found["group"] and scheme in UNGROUPED:
        raise BadScheme(f"quantization {quantization!r}: {scheme} has one scale per output channel and no groups.")
    if found["rounded"] and scheme not in WEIGHTS_ONLY:
        raise BadScheme(
            f"quantization {quantization!r}: {scheme} also rounds activations, which rounded weights do not show. Of "
            f"{', '.join(WEIGHTS_ONLY)} there are rounded copies."
        )
    return Wanted(scheme, int(found["group"] or DEFAULT_GROUP_SIZE), bool(found["rounded"]))


def resolve(quantization: str) -> str:
    """Return the scheme that a user's word means: "none", one of those above, or an engine method's name.

    Raises BadScheme for two-bit weights.
    """
    word = quantization.strip().lower()
    if _TWO_BIT.fullmatch(word):
        raise BadScheme(
            f"quantization {quantization!r} is refused: at two bits a model loses 8-15 % of its quality, and the "
            "memory it saves beyond four bits is not worth that. Use int4 (w4a16, awq or gptq) or int8 instead."
        )
    if word in _UNQUANTIZED:
        return NONE
    word = _ALIASES.get(word, word)
    return word if word in WRITTEN else quantization.strip()


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Say whether a scheme replaces this tensor: the two-dimensional weight of a linear layer.

    Embeddings, the output head, norms and the routers of expert layers stay as they are.
    """
    module, _, leaf = name.rpartition(".")
    last = module.rpartition(".")[2]
    return leaf == "weight" and len(shape) == 2 and last not in _ROUTERS and not _LEFT_ALONE.search(last)


def ignored_modules(tensors: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the linear modules that a scheme leaves alone, as the engine must be told: the head and the routers."""
    routers = [
        name.removesuffix(".weight")
        for name, shape in tensors.items()
        if len(shape) == 2 and name.endswith(".weight") and name.split(".")[-2] in _ROUTERS
    ]
    return ["lm_head", *sorted(routers)]


def check_experts(tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadScheme when experts are fused in three dimensions, which the formats written here have no place for."""
    name = next((name for name, shape in tensors.items() if len(shape) == 3 and ".experts." in name), None)
    if name is not None:
        raise BadScheme(
            f"The experts are fused in three dimensions ({name}, shape {list(tensors[name])}), a layout that the "
            "formats written here have no place for. Use a checkpoint with one tensor per expert, or one that is "
            "published quantized."
        )


def check_fits(name: str, shape: tuple[int, ...], scheme: str, group_size: int) -> None:
    """Raise BadScheme when a weight of this shape cannot be stored in the scheme."""
    if scheme in UNGROUPED:
        return
    outputs, inputs = shape
    if group_size <= 0 or group_size % 8 or inputs % group_size:
        fitting = [size for size in (32, 64, 128) if inputs % size == 0]
        advice = f"a group size of {', '.join(map(str, fitting))} would" if fitting else "no usual group size would"
        raise BadScheme(
            f"{scheme} with group_size={group_size} does not fit {name}: its {inputs} input features are not a "
            f"whole number of groups (a multiple of 8). For this tensor {advice} work; w8a8-int8 needs no groups."
        )
    if scheme in (AWQ, GPTQ) and outputs % 8:
        raise BadScheme(
            f"{scheme} packs eight output features into one word, and {name} has {outputs} of them. "
            "Use w4a16 or w8a8-int8, which pack along the input."
        )


def stored(name: str, tensor: Stored, scheme: str, group_size: int = DEFAULT_GROUP_SIZE) -> dict[str, Stored]:
    """Return name → dtype and shape of what the scheme stores in place of one tensor.

    A tensor that the scheme leaves alone is returned unchanged. Raises as `check_fits`.
    """
    if scheme not in WRITTEN or not is_quantized(name, tensor.shape):
        return {name: tensor}
    check_fits(name, tensor.shape, scheme, group_size)
    outputs, inputs = tensor.shape
    base = name.removesuffix("weight")
    scale_dtype = "F16" if tensor.dtype == "F16" else "BF16"
    if scheme in UNGROUPED:
        codes = Stored("I8" if scheme == W8A8_INT8 else "F8_E4M3", tensor.shape)
        return {name: codes, f"{base}weight_scale": Stored(scale_dtype, (outputs, 1))}
    groups = inputs // group_size
    if scheme == W4A8:
        return {name: Stored("I8", tensor.shape), f"{base}weight_scale": Stored(scale_dtype, (outputs, groups))}
    if scheme in (W4A16, W8A16):
        return {
            f"{base}weight_packed": Stored("I32", (outputs, inputs // (8 if scheme == W4A16 else 4))),
            f"{base}weight_scale": Stored(scale_dtype, (outputs, groups)),
            f"{base}weight_shape": Stored("I64", (2,)),
        }
    result = {
        f"{base}qweight": Stored("I32", (inputs, outputs // 8) if scheme == AWQ else (inputs // 8, outputs)),
        f"{base}qzeros": Stored("I32", (groups, outputs // 8)),
        f"{base}scales": Stored("F16", (groups, outputs)),
    }
    if scheme == GPTQ:
        result[f"{base}g_idx"] = Stored("I32", (inputs,))
    return result


def weights_bytes(tensors: Mapping[str, Stored], scheme: str = NONE, group_size: int = DEFAULT_GROUP_SIZE) -> int:
    """Return the bytes of all tensors once stored in the scheme, scales and zero points included."""
    return sum(
        part.stored_bytes
        for name, tensor in tensors.items()
        for part in stored(name, tensor, scheme, group_size).values()
    )


def quantization_config(scheme: str, group_size: int, ignored: Iterable[str]) -> dict[str, Any]:
    """Return the `quantization_config` entry of config.json for one of the schemes."""
    ignored = list(ignored)
    if scheme == AWQ:
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": ignored,
        }
    if scheme == GPTQ:
        routers = sorted({name.rpartition(".")[2] for name in ignored} - {"lm_head"})
        return {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": group_size,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "checkpoint_format": "gptq",
            "dynamic": {rf"-:.*\.{router}$": {} for router in routers},
        }
    if scheme in UNGROUPED:
        kind, layout = ("int", "int-quantized") if scheme == W8A8_INT8 else ("float", "float-quantized")
        weights, activations = _numbers(8, "channel", kind), _numbers(8, "token", kind, dynamic=True)
        return _compressed_tensors(layout, weights, activations, ignored)
    if scheme == W4A8:
        weights, activations = _numbers(4, "group", group_size=group_size), _numbers(8, "token", dynamic=True)
        return _compressed_tensors("int-quantized", weights, activations, ignored)
    if scheme in (W4A16, W8A16):
        weights = _numbers(4 if scheme == W4A16 else 8, "group", group_size=group_size)
        return _compressed_tensors("pack-quantized", weights, None, ignored)
    raise BadScheme(f"{scheme!r} is not a scheme that is written here; those are {', '.join(WRITTEN)}.")


def scheme_of(config: Mapping[str, Any]) -> str:
    """Return the scheme that config.json says its weights are in: one of ours, a method's name, or "none"."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return NONE
    method = str(found.get("quant_method", "quantized"))
    if method == "compressed-tensors":
        groups = list((found.get("config_groups") or {}).values())
        weights = (groups[0].get("weights") or {}) if groups else {}
        layout, bits = str(found.get("format")), weights.get("num_bits")
        strategies = (str(weights.get("strategy")), "any")
        return next((_COMPRESSED[key] for one in strategies if (key := (layout, bits, one)) in _COMPRESSED), method)
    return method


_COMPRESSED: dict[
    tuple[str, Any, str], str
] = {  # format, bits and strategy of a compressed-tensors checkpoint's weights
    ("int-quantized", 8, "any"): W8A8_INT8,
    ("int-quantized", 4, "group"): W4A8,
    ("float-quantized", 8, "channel"): W8A8_FP8,
    ("pack-quantized", 4, "any"): W4A16,
    ("pack-quantized", 8, "group"): W8A16,
}


def _numbers(
    bits: int, strategy: str, kind: str = "int", *, group_size: int | None = None, dynamic: bool = False
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": True,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": dynamic,
        "observer": None if dynamic else "minmax",
        "observer_kwargs": {},
        "actorder": None,
        "block_structure": None,
    }


def _compressed_tensors(
    layout: str, weights: dict[str, Any], activations: dict[str, Any] | None, ignored: list[str]
) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
