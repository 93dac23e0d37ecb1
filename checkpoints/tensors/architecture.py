"""The size of a model from its configuration alone: tensors, parameters, key-value cache.

Pure arithmetic over the dictionary that config.json holds. Tensor names are the ones of the published checkpoints
(two-dimensional weights are [output features, input features]).
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from checkpoints.errors import BadCheckpoint

Config = Mapping[str, Any]
Shape = tuple[int, ...]
_DENSE_TYPES = ("llama", "mistral", "qwen2")
KNOWN_TYPES = (*_DENSE_TYPES, "mixtral", "deepseek_v2")


def tensor_shapes(config: Config) -> dict[str, Shape]:
    """Return name → shape of every tensor that a checkpoint of this architecture stores, in layer order.

    Raises BadCheckpoint when the model type is not one whose tensors are known here.
    """
    model_type = config.get("model_type")
    if model_type not in KNOWN_TYPES:
        raise BadCheckpoint(
            f"The tensors of model_type {model_type!r} are not known here; sizes are computed from the "
            f"configuration for {', '.join(KNOWN_TYPES)}. A directory with weights of any type is read instead."
        )
    hidden, vocab = int(config["hidden_size"]), int(config["vocab_size"])
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(int(config["num_hidden_layers"])):
        prefix = f"model.layers.{layer}."
        attention = _latent_attention(config) if _is_latent(config) else _attention(config)
        inner = attention | _feed_forward(config, layer)
        shapes |= {prefix + name: shape for name, shape in inner.items()}
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def parameters(config: Config) -> int:
    """Return the number of parameters: the elements of all stored tensors. Raises as `tensor_shapes`."""
    return sum(prod(shape) for shape in tensor_shapes(config).values())


def kv_bytes_per_token(config: Config, *, bytes_per_value: int = 2) -> int | None:
    """Return the bytes that one token occupies in the key-value cache of the whole model.

    Grouped-query attention keeps a key and a value per key-value head and layer; latent attention (MLA) keeps
    one compressed vector and one rotary key per layer. None when the configuration does not say, or when some
    layers keep no per-token cache (state-space and linear attention).
    """
    config = config.get("text_config") or config
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or _has_layers_without_cache(config):
        return None
    if _is_latent(config):
        rope = config.get("qk_rope_head_dim")
        return layers * (int(config["kv_lora_rank"]) + rope) * bytes_per_value if isinstance(rope, int) else None
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int):
        return None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return 2 * layers * kv_heads * _head_dim(config) * bytes_per_value


def _is_latent(config: Config) -> bool:
    return bool(config.get("kv_lora_rank"))


def _has_layers_without_cache(config: Config) -> bool:
    kinds = config.get("layer_types") or ()
    return any("attention" not in kind or "linear" in kind for kind in kinds) or "ssm_cfg" in config


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def _attention(config: Config) -> dict[str, Shape]:
    hidden, head_dim = int(config["hidden_size"]), _head_dim(config)
    heads = int(config["num_attention_heads"])
    query, key = heads * head_dim, int(config.get("num_key_value_heads") or heads) * head_dim
    shapes: dict[str, Shape] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
    }
    if config["model_type"] == "qwen2" or config.get("attention_bias"):
        shapes["self_attn.q_proj.bias"] = (query,)
        shapes["self_attn.k_proj.bias"] = (key,)
        shapes["self_attn.v_proj.bias"] = (key,)
    if config.get("attention_bias"):
        shapes["self_attn.o_proj.bias"] = (hidden,)
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


def _feed_forward(config: Config, layer: int) -> dict[str, Shape]:
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    if config["model_type"] == "mixtral":
        count = int(config["num_local_experts"])
        shapes: dict[str, Shape] = {"block_sparse_moe.gate.weight": (count, hidden)}
        for expert in range(count):
            prefix = f"block_sparse_moe.experts.{expert}."
            shapes[prefix + "w1.weight"] = (inner, hidden)
            shapes[prefix + "w2.weight"] = (hidden, inner)
            shapes[prefix + "w3.weight"] = (inner, hidden)
        return shapes
    experts = config.get("n_routed_experts")
    dense_first = int(config.get("first_k_dense_replace", 0))
    if not experts or layer < dense_first or layer % int(config.get("moe_layer_freq", 1)):
        return _gated("mlp.", hidden, inner)
    inner = int(config["moe_intermediate_size"])
    shapes = {"mlp.gate.weight": (experts, hidden)}
    for expert in range(experts):
        shapes |= _gated(f"mlp.experts.{expert}.", hidden, inner)
    if shared := config.get("n_shared_experts"):
        shapes |= _gated("mlp.shared_experts.", hidden, inner * shared)
    return shapes


def _gated(prefix: str, hidden: int, inner: int) -> dict[str, Shape]:
    return {
        prefix + "gate_proj.weight": (inner, hidden),
        prefix + "up_proj.weight": (inner, hidden),
        prefix + "down_proj.weight": (hidden, inner),
    }
