"""The key-value cache: what one token and one sequence of it occupy on one GPU. Exact; blocks as vLLM allots them."""

from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.tensors import architecture

BLOCK_TOKENS = 16
Config = Mapping[str, Any]


def layer_bytes_per_token(config: Config, *, tensor_parallel: int = 1, bytes_per_value: float = 2) -> float | None:
    """Return the bytes that one token takes in one layer's cache on one of the tensor-parallel GPUs.

    Grouped-query attention divides its key-value heads among the GPUs until each holds one, and then repeats them.
    Latent attention (MLA) has one shared vector, which every GPU holds. None when the architecture is not known.
    """
    text = config.get("text_config") or config
    whole = architecture.kv_bytes_per_token(config, bytes_per_value=1)
    if whole is None:
        return None
    heads = 1 if text.get("kv_lora_rank") else int(text.get("num_key_value_heads") or text["num_attention_heads"])
    held = -(-heads // tensor_parallel)
    return whole / int(text["num_hidden_layers"]) * held / heads * bytes_per_value


def windows(config: Config) -> list[int | None]:
    """Return for each layer the number of tokens that its attention looks back; None where it sees all of them."""
    text = config.get("text_config") or config
    layers, window = int(text["num_hidden_layers"]), text.get("sliding_window")
    if not isinstance(window, int) or window <= 0 or text.get("use_sliding_window") is False:
        return [None] * layers
    kinds = text.get("layer_types")
    if kinds:
        return [window if "sliding" in kind else None for kind in kinds[:layers]]
    first = text.get("max_window_layers") if text.get("use_sliding_window") else 0
    return [window if layer >= int(first or 0) else None for layer in range(layers)]


def sequence_bytes(
    layer_bytes: float, layer_windows: Sequence[int | None], tokens: int, *, block_tokens: int = BLOCK_TOKENS
) -> float:
    """Return the bytes of one sequence's cache in these layers: whole blocks, capped where a window slides.

    While a long prompt is read, vLLM holds up to one batch beyond the window; that is part of the activation peak's
    uncertainty and not counted here.
    """
    held = (tokens if window is None else min(tokens, window) for window in layer_windows)
    return sum(-(-count // block_tokens) * block_tokens for count in held) * layer_bytes
