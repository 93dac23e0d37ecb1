"""Where a tensor of a model is held, and how vLLM divides it among tensor-parallel GPUs: told by its name. Pure."""

import re
from typing import NamedTuple

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blk|blocks)\.(\d+)\.")
_TOWER = re.compile(r"(^|\.)(visual|vision|audio|image|mm_|multi_modal|embed_vision|embed_audio)")
_PREDICTS_MORE = re.compile(r"(^|\.)(mtp|nextn)\w*\.")
HEADS = ("lm_head", "output", "embed_out", "head")
VOCABULARY = (
    *HEADS,
    *("embed_tokens", "wte", "word_embeddings", "embeddings", "embedding", "tok_embeddings", "token_embd"),
    *("embed_in", "embed"),
)
# How vLLM divides a tensor among tensor-parallel GPUs: along outputs or inputs, by key-value heads, or not at all.
_BY_OUTPUT = {
    *("q_proj", "gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "g_proj", "c_fc", "fc1", "linear_fc1", "fc_in"),
    *("q_b_proj", "kv_b_proj", "wq_b", "wo_a", "dense_h_to_4h", "qkv", "conv1d", "x_proj", "dt_proj", "in_proj"),
    *("in_proj_qkvz", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "in_proj_ba"),
    *("attn_q", "attn_q_b", "attn_k_b", "attn_v_b", "ffn_gate", "ffn_up"),
}
_BY_INPUT = {
    *("o_proj", "down_proj", "w2", "wo_b", "dense", "dense_4h_to_h", "c_proj", "fc2", "linear_fc2", "fc_out"),
    *("out_proj", "proj", "attn_output", "ffn_down"),
}
_BY_KV_HEAD = {"k_proj", "v_proj", "attn_k", "attn_v"}
_FUSED_QKV = {"qkv_proj", "query_key_value", "Wqkv", "c_attn", "attn_qkv"}
_BY_HEAD = {"sinks", "attention_sink_bias", "attn_sink", "A_log", "D", "dt_bias"}  # leaves of their own
_GGUF_EXPERTS = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps"}
# Leaves that hold one value per output, or none per input: whole on each GPU of a layer divided along its inputs.
_NOT_BY_INPUT = ("bias", "weight_shape", "g_idx")
WAYS = WHOLE, DIVIDED, BY_KV, FUSED = "whole", "divided", "by key-value head", "fused query, key and value"
LAYER, TABLE, HEAD, TOWER, END = "layer", "embeddings", "head", "tower", "end"


class Place(NamedTuple):
    """Where a tensor is held (its layer, or what it is outside of the layers), and how it is divided."""

    layer: int | None
    part: str
    way: str


def layer_of(name: str) -> int | None:
    """Return the layer of the language model that a tensor is in; None for one outside of its layers."""
    found = None if is_tower(name) else _LAYER.search(name)
    return int(found[1]) if found else None


def is_tower(name: str) -> bool:
    """Say whether a tensor belongs to a part for pictures or sound."""
    return _TOWER.search(name) is not None


def is_vocabulary(name: str) -> bool:
    """Say whether a tensor is the embedding table or the output head."""
    return layer_of(name) is None and _module(name) in VOCABULARY


def is_head(name: str) -> bool:
    """Say whether a tensor is the output head."""
    return layer_of(name) is None and _module(name) in HEADS


def predicts_more(name: str, layer_count: int) -> bool:
    """Say whether a tensor is of a layer for multi-token prediction, which an engine loads only to speculate."""
    layer = layer_of(name)
    return _PREDICTS_MORE.search(name) is not None or (layer is not None and layer >= layer_count)


def place_of(name: str, tensor_shape: tuple[int, ...]) -> Place:
    """Return where a tensor of this name and shape is held, and how it is divided."""
    layer = layer_of(name)
    if is_vocabulary(name):
        return Place(None, HEAD if is_head(name) else TABLE, DIVIDED)
    part = LAYER if layer is not None else TOWER if is_tower(name) else END
    return Place(layer, part, _way(name, tensor_shape))


def _module(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _way(name: str, tensor_shape: tuple[int, ...]) -> str:
    words = name.split(".")
    leaf = words[-1]
    if words[-2:-1] == ["linear"]:
        return WHOLE  # Gemma 4's towers, which vLLM runs by transformers' own class
    module = words[-2] if len(words) > 1 else ""
    if "experts" in words or module in _GGUF_EXPERTS:
        # Experts are divided whatever their layers are called; but not what is added after the last of them.
        return WHOLE if re.search(r"(down_proj|w2)[._]?bias$", name) else DIVIDED
    if leaf in _BY_HEAD:
        return DIVIDED
    if "indexer" in words or leaf in ("g_idx", "weight_shape"):
        return WHOLE
    if module in _BY_INPUT:
        # Along the inputs: what holds one value per output is whole on each GPU.
        one_per_output = leaf in _NOT_BY_INPUT or (leaf.endswith("scale") and tensor_shape[-1:] == (1,))
        return WHOLE if one_per_output or len(tensor_shape) > 2 else DIVIDED
    return (
        DIVIDED
        if module in _BY_OUTPUT
        else BY_KV
        if module in _BY_KV_HEAD
        else FUSED
        if module in _FUSED_QKV
        else WHOLE
    )
