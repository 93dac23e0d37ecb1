"""Reads the header of a GGUF file: its tensors' sizes, and its configuration in the words of a config.json."""

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import BadCheckpoint, MissingPackage
from checkpoints.tensors.entries import MOST_LAYERS

# llama.cpp's key after the architecture's name → the word of a config.json.
_WORDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "expert_feed_forward_length": "moe_intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.key_length_swa": "swa_head_dim",
    "attention.value_length_swa": "swa_v_head_dim",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "rope.dimension_count": "rotary_dim",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "vocab_size": "vocab_size",
    "ssm.state_size": "ssm_state_size",
    "ssm.conv_kernel": "conv_kernel",
    "full_attention_interval": "full_attention_interval",
}
# A header that claims more than this is none: Gemma 4 has 1.3 million, a quarter of a million tokens and their merges.
_MOST_ENTRIES = 1 << 23
_LONGEST_TEXT_BYTES = 16 << 20
_MOST_DIMENSIONS = 8
_SWAPPED = ">Q" if sys.byteorder == "little" else "<Q"
_TYPES = {"gemma3": "gemma3_text", "gpt-oss": "gpt_oss", "command-r": "cohere", "llama4": "llama4_text"}
# Of these llama.cpp knows by itself which layers have a window (Llama 4: of 8,192 tokens).
_WINDOWS_KNOWN = ("gemma2", "gemma3", "gpt-oss", "cohere2", "phi3")
_LLAMA4_CHUNK = 8192


@dataclass(frozen=True)
class Packed:
    """One tensor of a GGUF file: its type by llama.cpp's name, the shape of its weights, and its bytes in the file."""

    kind: str
    shape: tuple[int, ...]
    stored_bytes: int


def read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Packed]]:
    """Return (configuration, name → tensor) of a GGUF file; shapes are [output features, input features].

    Raises BadCheckpoint when it is not one or was cut short, MissingPackage without the `gguf` package.
    """
    try:
        import gguf  # noqa: F401 (said here where it is missing)
    except ImportError as error:
        raise MissingPackage(
            f"{path} is read with the package gguf, which is not installed: `pip install gguf`."
        ) from error
    try:
        reader = _reader(path)
        tensors = {
            one.name: Packed(
                one.tensor_type.name, tuple(int(n) for n in reversed(one.shape.tolist())), int(one.n_bytes)
            )
            for one in reader.tensors
        }
        values = {name: field.contents() for name, field in reader.fields.items() if name not in reader.passed_over}
        tokens = reader.passed_over.get("tokenizer.ggml.tokens")
    except (ValueError, IndexError, KeyError, OSError, TypeError, OverflowError) as error:
        raise BadCheckpoint(
            f"{path} is not a whole GGUF file ({' '.join(str(error).split())[:200]}). It was probably cut short while "
            "being downloaded, or is of a newer kind than the installed gguf reads; fetch it again, or renew gguf."
        ) from error
    return _config(values, tokens), tensors


def _reader(path: Path) -> Any:
    """Return a reader of a file's header that believes none of its counts: gguf's own walks on past a file's end.

    Lists of texts and long lists (a vocabulary of a quarter of a million tokens) are passed over: gguf's own takes
    them apart one by one, for a minute. `passed_over`: name → how many entries such a list has.
    """
    import numpy
    from gguf import GGUFReader, GGUFValueType

    class Bounded(GGUFReader):  # type: ignore[misc]
        entries = 0

        @property
        def passed_over(self) -> dict[str, int]:
            lists = {name: field for name, field in self.fields.items() if field.types[:1] == [GGUFValueType.ARRAY]}
            return {name: int(field.parts[-1][0]) for name, field in lists.items() if not field.data}

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            self._within(int(offset) + numpy.dtype(dtype).itemsize * int(count))
            if dtype is numpy.uint64 and int(count) > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {int(count):,} dimensions")
            return super()._get(offset, dtype, count, override_order)

        def _within(self, end: int) -> None:
            if end > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data):,}, in the middle of what its header names")

        def _get_str(self, offset: int) -> Any:
            _check_text(int(self._get(offset, numpy.uint64)[0]))
            return super()._get_str(offset)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            head = [self._get(orig_offs, numpy.uint32), self._get(orig_offs + 4, numpy.uint64)]
            kind, count = GGUFValueType(int(head[0][0])), int(head[1][0])
            self.entries += count
            if kind == GGUFValueType.ARRAY:
                raise ValueError("a list of lists in its header")
            if self.entries > _MOST_ENTRIES:
                raise ValueError(f"lists of {self.entries:,} entries in its header")
            if kind != GGUFValueType.STRING and count <= MOST_LAYERS:
                return super()._get_field_parts(orig_offs, raw_type)
            size = self._texts_bytes(orig_offs + 12, count) if kind == GGUFValueType.STRING else None
            if size is None:
                size = numpy.dtype(self.gguf_scalar_to_np[kind]).itemsize * count
                self._within(orig_offs + 12 + size)
            return 12 + size, head, [], [GGUFValueType.ARRAY, kind]

        def _texts_bytes(self, offset: int, count: int) -> int:
            """The bytes of so many texts, each behind its length."""
            length_at = struct.Struct("=Q" if self.byte_order == "I" else _SWAPPED).unpack_from
            data, at = memoryview(self.data), offset
            for _ in range(count):
                self._within(at + 8)
                length = length_at(data, at)[0]
                _check_text(length)
                at += 8 + length
            self._within(at)
            return at - offset

    return Bounded(path)


def _check_text(length: int) -> None:
    if length > _LONGEST_TEXT_BYTES:
        raise ValueError(f"a text of {length:,} bytes in its header")


def _config(values: Mapping[str, Any], tokens: int | None) -> dict[str, Any]:
    architecture = str(values.get("general.architecture", ""))
    config: dict[str, Any] = {"model_type": _TYPES.get(architecture, architecture)}
    for key, word in _WORDS.items():
        if (value := values.get(f"{architecture}.{key}")) is not None:
            config[word] = value
    if "kv_lora_rank" in config:
        config["qk_rope_head_dim"] = config.get("rotary_dim")
        config.pop("v_head_dim", None)
    if tokens and "vocab_size" not in config:
        config["vocab_size"] = tokens
    kinds = _kinds(architecture, config, values)
    return {**config, **_linear(architecture, values), **({"layer_types": kinds} if kinds else {})}


def _kinds(architecture: str, config: dict[str, Any], values: Mapping[str, Any]) -> list[str] | None:
    """The kind of each layer, where the file says it by lists: heads of 0 have no attention, `true` has a window."""
    heads = config.get("num_attention_heads")
    if isinstance(heads, list):
        config["num_attention_heads"] = max(heads, default=0)
    count = config.get("num_hidden_layers")
    if not isinstance(count, int) or count > MOST_LAYERS:
        return None
    if isinstance(kept := config.get("num_key_value_heads"), list) and len(kept) == count and not all(kept):
        other = "mamba" if f"{architecture}.ssm.inner_size" in values else "mlp"
        return ["full_attention" if one else other for one in kept]
    if not config.get("sliding_window"):
        return None
    windows = values.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(windows, list) and len(windows) == count:
        return ["sliding_attention" if one else "full_attention" for one in windows]
    if isinstance(windows, int) and windows > 0:
        config["sliding_window_pattern"] = windows
        return None
    return None if architecture in _WINDOWS_KNOWN else [f"{architecture} with a window, in layers not named"] * count


def _linear(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says of gated delta layers (Qwen3-Next, Qwen3.5), and of Llama 4's chunks."""
    if architecture == "llama4":
        return {"attention_chunk_size": _LLAMA4_CHUNK}
    if f"{architecture}.full_attention_interval" not in values:
        return {}
    names = ("group_count", "time_step_rank", "state_size", "inner_size", "conv_kernel")
    keys, heads, width, inner, kernel = (values.get(f"{architecture}.ssm.{name}") for name in names)
    return {
        "linear_num_key_heads": keys,
        "linear_num_value_heads": heads,
        "linear_key_head_dim": width,
        "linear_value_head_dim": inner // heads if isinstance(inner, int) and heads else None,
        "linear_conv_kernel_dim": kernel,
        "mamba_ssm_dtype": "float32",
    }
