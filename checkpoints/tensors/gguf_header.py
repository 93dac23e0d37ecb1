"""Reads the header of a GGUF file: its tensors' sizes, and its configuration in the words of a config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import BadCheckpoint, MissingPackage

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
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "rope.dimension_count": "rotary_dim",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "vocab_size": "vocab_size",
    "ssm.state_size": "ssm_state_size",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "intermediate_size",
}
_TYPES = {"gemma2": "gemma2", "gemma3": "gemma3_text", "gpt-oss": "gpt_oss", "qwen2": "qwen2", "command-r": "cohere"}


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
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingPackage(
            f"{path} is read with the package gguf, which is not installed: `pip install gguf`."
        ) from error
    try:
        reader = GGUFReader(path)
        tensors = {
            one.name: Packed(
                one.tensor_type.name, tuple(int(n) for n in reversed(one.shape.tolist())), int(one.n_bytes)
            )
            for one in reader.tensors
        }
        fields = {name: reader.get_field(name) for name in reader.fields}
        values = {
            name: field.contents() for name, field in fields.items() if field and not name.startswith("tokenizer.")
        }
        vocabulary = reader.get_field("tokenizer.ggml.tokens")
        tokens = len(vocabulary.data) if vocabulary else None
    except (ValueError, IndexError, KeyError, OSError, TypeError, OverflowError) as error:
        raise BadCheckpoint(
            f"{path} is not a whole GGUF file ({' '.join(str(error).split())[:200]}). It was probably cut short while "
            "being downloaded; fetch it again."
        ) from error
    return _config(values, tokens), tensors


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
    return config
