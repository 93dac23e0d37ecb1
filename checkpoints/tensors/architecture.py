"""The tensors of a model from its configuration alone. Pure.

Tensor names are the ones of the published checkpoints (two-dimensional weights are [output features, input features]).
Layers for multi-token prediction are left out: an engine loads them only to speculate.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from checkpoints.errors import BadCheckpoint
from checkpoints.tensors import entries, layers

Config = Mapping[str, Any]
Shape = tuple[int, ...]
# model_type → whose tensors it has. Types that are only another name for a known one stand here too.
_LIKE = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "mimo": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "mixtral": "mixtral",
    "minimax_m2": "minimax",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "kimi_k2": "deepseek",
    "glm4_moe": "glm",
    "gpt_oss": "gpt_oss",
    "llama4_text": "llama4",
    "falcon": "falcon",
}
KNOWN_TYPES = tuple(_LIKE)
# What transformers fills in for a model type where the published file says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"tie_word_embeddings": True, "head_dim": 256},
    "gemma3_text": {
        "tie_word_embeddings": True,
        "head_dim": 256,
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "glm4_moe": {"head_dim": 128},
    "falcon": {"tie_word_embeddings": True},
}


def is_known(config: Config) -> bool:
    """Say whether the tensors of this configuration's model type are known here."""
    return config.get("model_type") in _LIKE


def tensor_shapes(config: Config) -> dict[str, Shape]:
    """Return name → shape of every tensor that a checkpoint of this architecture stores, in layer order.

    Raises BadCheckpoint when the model type is not one whose tensors are known here, or a size is missing.
    """
    model_type = config.get("model_type")
    if model_type not in _LIKE:
        raise BadCheckpoint(
            f"The tensors of model_type {model_type!r} are not known here; sizes are computed from the "
            f"configuration for {', '.join(KNOWN_TYPES)}. A directory with weights of any type is read instead."
        )
    try:
        return _tensor_shapes({**_DEFAULTS.get(str(model_type), {}), **config}, _LIKE[str(model_type)])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadCheckpoint(
            f"config.json of model_type {model_type!r} has no usable {error}: a size is missing, or is no whole number."
        ) from error


def parameters(config: Config) -> int:
    """Return the number of parameters: the elements of all stored tensors. Raises as `tensor_shapes`."""
    return sum(prod(shape) for shape in tensor_shapes(config).values())


def kv_bytes_per_token(config: Config, *, bytes_per_value: int = 2) -> int | None:
    """Return the bytes that one token occupies in the key-value cache of the whole model while no window slides.

    None when the configuration does not say, or when a layer's kind is not known. Layers with a fixed state per
    sequence count nothing. Raises BadCheckpoint when a number of the configuration is none.
    """
    found = layers.layers(config)
    if found is None or layers.unknown_kinds(found):
        return None
    return round(sum(cache.token_bytes(bytes_per_value=bytes_per_value) for layer in found for cache in layer))


def _tensor_shapes(config: Config, family: str) -> dict[str, Shape]:
    if family == "falcon":
        return _falcon(config)
    hidden, vocab = int(config["hidden_size"]), int(config["vocab_size"])
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (vocab, hidden)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if family.startswith("gemma"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for layer in range(int(config["num_hidden_layers"])):
        prefix = f"model.layers.{layer}."
        attention = _latent_attention(config) if config.get("kv_lora_rank") else _attention(config, family)
        inner = attention | _feed_forward(config, family, layer)
        shapes |= {prefix + name: shape for name, shape in inner.items()}
        shapes |= {f"{prefix}{norm}.weight": (hidden,) for norm in norms}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def _attention(config: Config, family: str) -> dict[str, Shape]:
    hidden, head_dim = int(config["hidden_size"]), _head_dim(config)
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    query, key = heads * head_dim, kv_heads * head_dim
    if family == "phi3":
        return {"self_attn.qkv_proj.weight": (query + 2 * key, hidden), "self_attn.o_proj.weight": (hidden, query)}
    shapes: dict[str, Shape] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
    }
    if family == "qwen2" or config.get("attention_bias"):
        shapes |= {f"self_attn.{name}_proj.bias": (width,) for name, width in (("q", query), ("k", key), ("v", key))}
    if config.get("attention_bias") and family not in ("qwen2", "glm"):
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if family == "gpt_oss":
        shapes["self_attn.sinks"] = (heads,)
    if family in ("qwen3", "gemma3") or (family == "glm" and config.get("use_qk_norm")):
        shapes |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    if family == "minimax" and config.get("use_qk_norm", True):
        shapes |= {"self_attn.q_norm.weight": (query,), "self_attn.k_norm.weight": (key,)}
    return shapes


def _latent_attention(config: Config) -> dict[str, Shape]:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_rank, rope = int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"])
    nope, value = int(config["qk_nope_head_dim"]), int(config["v_head_dim"])
    query = heads * (nope + rope)
    q_rank = config.get("q_lora_rank")
    shapes: dict[str, Shape] = {"self_attn.q_proj.weight": (query, hidden)}
    if q_rank:
        shapes = {
            "self_attn.q_a_proj.weight": (q_rank, hidden),
            "self_attn.q_a_layernorm.weight": (q_rank,),
            "self_attn.q_b_proj.weight": (query, q_rank),
        }
    return shapes | {
        "self_attn.kv_a_proj_with_mqa.weight": (kv_rank + rope, hidden),
        "self_attn.kv_a_layernorm.weight": (kv_rank,),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), kv_rank),
        "self_attn.o_proj.weight": (hidden, heads * value),
    }


def _feed_forward(config: Config, family: str, layer: int) -> dict[str, Shape]:
    hidden = int(config["hidden_size"])
    match family:
        case "mixtral" | "minimax":
            return _mixtral_experts(config, hidden)
        case "gpt_oss":
            return _gpt_oss_experts(config, hidden)
        case "llama4":
            return _llama4_experts(config, hidden, layer)
        case "phi3":
            inner = int(config["intermediate_size"])
            return {"mlp.gate_up_proj.weight": (2 * inner, hidden), "mlp.down_proj.weight": (hidden, inner)}
    experts = config.get("n_routed_experts") or config.get("num_experts")
    if not experts or _is_dense(config, layer):
        return _gated("mlp.", hidden, int(config["intermediate_size"]))
    inner = int(config["moe_intermediate_size"])
    shapes: dict[str, Shape] = {"mlp.gate.weight": (int(experts), hidden)}
    for expert in range(int(experts)):
        shapes |= _gated(f"mlp.experts.{expert}.", hidden, inner)
    if shared := config.get("n_shared_experts"):
        shapes |= _gated("mlp.shared_experts.", hidden, inner * shared)
    return shapes


def _is_dense(config: Config, layer: int) -> bool:
    if layer < int(config.get("first_k_dense_replace") or 0) or layer in (config.get("mlp_only_layers") or ()):
        return True
    frequency, step = config.get("moe_layer_freq") or 1, int(config.get("decoder_sparse_step") or 1)
    return layer % int(frequency) != 0 or (layer + 1) % step != 0


def _mixtral_experts(config: Config, hidden: int) -> dict[str, Shape]:
    count, inner = int(config["num_local_experts"]), int(config["intermediate_size"])
    shapes: dict[str, Shape] = {"block_sparse_moe.gate.weight": (count, hidden)}
    for expert in range(count):
        prefix = f"block_sparse_moe.experts.{expert}."
        shapes[prefix + "w1.weight"] = (inner, hidden)
        shapes[prefix + "w2.weight"] = (hidden, inner)
        shapes[prefix + "w3.weight"] = (inner, hidden)
    return shapes


def _gpt_oss_experts(config: Config, hidden: int) -> dict[str, Shape]:
    count, inner = int(config["num_local_experts"]), int(config["intermediate_size"])
    return {
        "mlp.router.weight": (count, hidden),
        "mlp.router.bias": (count,),
        "mlp.experts.gate_up_proj": (count, 2 * inner, hidden),
        "mlp.experts.gate_up_proj_bias": (count, 2 * inner),
        "mlp.experts.down_proj": (count, hidden, inner),
        "mlp.experts.down_proj_bias": (count, hidden),
    }


def _llama4_experts(config: Config, hidden: int, layer: int) -> dict[str, Shape]:
    if (layer + 1) % int(config.get("interleave_moe_layer_step") or 1):
        return _gated("feed_forward.", hidden, int(config["intermediate_size_mlp"]))
    count, inner = int(config["num_local_experts"]), int(config["intermediate_size"])
    return {
        "feed_forward.router.weight": (count, hidden),
        "feed_forward.experts.gate_up_proj": (count, hidden, 2 * inner),
        "feed_forward.experts.down_proj": (count, inner, hidden),
        **_gated("feed_forward.shared_expert.", hidden, inner),
    }


def _gated(prefix: str, hidden: int, inner: int) -> dict[str, Shape]:
    return {
        prefix + "gate_proj.weight": (inner, hidden),
        prefix + "up_proj.weight": (inner, hidden),
        prefix + "down_proj.weight": (hidden, inner),
    }


def _falcon(config: Config) -> dict[str, Shape]:
    hidden, vocab = int(config["hidden_size"]), int(config["vocab_size"])
    found = entries.heads_of(config)
    if found is None:
        raise KeyError("num_attention_heads")
    heads, kv_heads = found
    inner = int(config.get("ffn_hidden_size") or 4 * hidden)
    linear: dict[str, tuple[int, int]] = {
        "self_attention.query_key_value": ((heads + 2 * kv_heads) * (hidden // heads), hidden),
        "self_attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }
    two = config.get("new_decoder_architecture") and config.get("num_ln_in_parallel_attn") != 1
    norms = ["ln_attn", "ln_mlp"] if two else ["input_layernorm"]
    if not config.get("parallel_attn", True):
        norms.append("post_attention_layernorm")
    shapes: dict[str, Shape] = {"transformer.word_embeddings.weight": (vocab, hidden)}
    for layer in range(int(entries.layer_count(config) or 0)):
        prefix = f"transformer.h.{layer}."
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config.get("bias"):
                shapes[f"{prefix}{name}.bias"] = (shape[0],)
        shapes |= {f"{prefix}{norm}.{leaf}": (hidden,) for norm in norms for leaf in ("weight", "bias")}
    shapes |= {"transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes
