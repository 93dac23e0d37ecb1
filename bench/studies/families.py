"""Small random models in the shape of the decoder families that both vLLM and transformers have.

Three or four blocks, 64 dimensions, every weight random (biases and norms too, which a fresh model has at zero and
one, and which would hide a mistake). Small numbers of the field "layers" and the like are chosen so that each kind of
block of a family is there: sliding and full attention, recurrent and attention layers, dense and mixture of experts.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 1024
CONTEXT = 256
_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_PLAIN = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    **_TOKENS,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 1}
_HEADS = _GROUPED | {"head_dim": 32}
_OLD = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
_GPT = _OLD | {"n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": CONTEXT}
_SLIDING = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
_SCALES = {"residual_multiplier": 0.3, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "logits_scaling": 2.0}
_LATENT = {
    "q_lora_rank": None, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32, "v_head_dim": 32,
    "num_key_value_heads": 2,
}  # fmt: skip
_DELTA = {
    "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
_CONV = {"layer_types": ["conv", "full_attention", "conv"], "conv_dim": 64}
_QWEN_EXPERTS = _EXPERTS | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


@dataclass(frozen=True)
class Family:
    """How one family's small model is made: transformers' class of its configuration, and what it is given.

    `architecture` replaces the name that transformers writes where vLLM (and the published checkpoints) have another.
    """

    config: str
    values: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None


# fmt: off
FAMILIES: dict[str, Family] = {
    "afmoe": Family(
        "AfmoeConfig", _HEADS | _EXPERTS | _SLIDING | {"moe_intermediate_size": 32, "num_shared_experts": 1}
    ),
    "apertus": Family("ApertusConfig", _GROUPED),
    "arcee": Family("ArceeConfig", _HEADS),
    "axk1": Family("AXK1Config", _PLAIN | _ROUTED | _LATENT | {"q_lora_rank": 32, "first_k_dense_replace": 1}),
    "bamba": Family(
        "BambaConfig",
        _GROUPED
        | {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1},
    ),
    "bloom": Family("BloomConfig", _OLD | {"hidden_size": 64, "n_layer": 3, "n_head": 2}),
    "cohere": Family("CohereConfig", _GROUPED),
    # A window as wide as the context: vLLM's reaches one token farther than transformers'.
    "cohere2": Family("Cohere2Config", _HEADS | _SLIDING | {"sliding_window": CONTEXT}),
    "cohere2_moe": Family("Cohere2MoeConfig", _HEADS | _EXPERTS | _SLIDING),
    "dbrx": Family(
        "DbrxConfig",
        _OLD
        | {
            "d_model": 64, "n_heads": 2, "n_layers": 3, "max_seq_len": CONTEXT,
            "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
        },
    ),
    "deepseek_v2": Family("DeepseekV2Config", _PLAIN | _ROUTED | _LATENT | {"first_k_dense_replace": 1}),
    "deepseek_v3": Family(
        "DeepseekV3Config", _PLAIN | _ROUTED | _LATENT | {"q_lora_rank": 32, "first_k_dense_replace": 1}
    ),
    "ernie4_5": Family("Ernie4_5Config", _HEADS),
    "ernie4_5_moe": Family(
        "Ernie4_5_MoeConfig",
        _GROUPED | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1},
    ),
    "exaone4": Family("Exaone4Config", _HEADS | _SLIDING),
    "exaone_moe": Family(
        "ExaoneMoeConfig", _HEADS | _EXPERTS | _SLIDING | {"moe_intermediate_size": 32, "first_k_dense_replace": 1}
    ),
    "falcon": Family("FalconConfig", _OLD | {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}),
    "falcon_new": Family(
        "FalconConfig",
        _OLD
        | {
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "num_kv_heads": 1,
            "new_decoder_architecture": True,
        },
    ),
    "falcon_h1": Family(
        "FalconH1Config",
        _HEADS | {"mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1},
    ),
    "falcon_mamba": Family(
        "FalconMambaConfig", _OLD | {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 16, "pad_token_id": 2}
    ),
    "gemma": Family("GemmaConfig", _HEADS),
    "gemma2": Family("Gemma2Config", _HEADS | _SLIDING | {"query_pre_attn_scalar": 32}),
    "gemma3": Family("Gemma3TextConfig", _HEADS | _SLIDING | {"query_pre_attn_scalar": 32}),
    "gemma3n": Family(
        "Gemma3nTextConfig",
        _HEADS
        | _SLIDING
        | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0,
           "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0, 0.0], "intermediate_size": [96, 96, 96]},
    ),
    "gemma4": Family(
        "Gemma4TextConfig",
        _HEADS | _SLIDING | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16},
    ),
    "glm": Family("GlmConfig", _HEADS),
    "glm4": Family("Glm4Config", _HEADS),
    "glm4_moe": Family(
        "Glm4MoeConfig", _HEADS | _ROUTED | {"first_k_dense_replace": 1, "n_shared_experts": 1, "use_qk_norm": True}
    ),
    "glm4_moe_lite": Family("Glm4MoeLiteConfig", _PLAIN | _ROUTED | _LATENT | {"q_lora_rank": 32}),
    "gpt2": Family("GPT2Config", _GPT),
    "gpt_bigcode": Family("GPTBigCodeConfig", _GPT),
    "gpt_neox": Family("GPTNeoXConfig", _PLAIN),
    "gpt_neox_sequential": Family("GPTNeoXConfig", _PLAIN | {"use_parallel_residual": False}),
    "gpt_oss": Family("GptOssConfig", _HEADS | _LOCAL_EXPERTS | _SLIDING),
    "gptj": Family("GPTJConfig", _GPT | {"rotary_dim": 16}),
    "granite": Family("GraniteConfig", _GROUPED | _SCALES),
    "granitemoe": Family("GraniteMoeConfig", _GROUPED | _LOCAL_EXPERTS | _SCALES),
    "granitemoehybrid": Family(
        "GraniteMoeHybridConfig",
        _GROUPED
        | _SCALES
        | {
            "num_local_experts": 0, "shared_intermediate_size": 96, "position_embedding_type": "rope",
            "layer_types": ["attention"] * 3,
        },
    ),
    "granitemoehybrid_mamba": Family(
        "GraniteMoeHybridConfig",
        _GROUPED
        | _SCALES
        | _LOCAL_EXPERTS
        | {
            "shared_intermediate_size": 96, "layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 4,
            "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1,
        },
    ),
    "granitemoeshared": Family(
        "GraniteMoeSharedConfig", _GROUPED | _LOCAL_EXPERTS | _SCALES | {"shared_intermediate_size": 96}
    ),
    "helium": Family("HeliumConfig", _HEADS),
    "hrm_text": Family("HrmTextConfig", _PLAIN | {"head_dim": 32, "num_layers_per_stack": 2}),
    "hy_v3": Family("HYV3Config", _HEADS | _EXPERTS | {"moe_intermediate_size": 32}),
    "hyperclovax": Family("HyperCLOVAXConfig", _HEADS | _SCALES),
    "jamba": Family(
        "JambaConfig",
        _GROUPED
        | {
            "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
            "mamba_d_state": 16, "mamba_dt_rank": 8, "use_mamba_kernels": False,
        },
    ),
    "lfm2": Family(
        "Lfm2Config", _GROUPED | {**_CONV, "block_auto_adjust_ff_dim": False}
    ),
    "lfm2_moe": Family(
        "Lfm2MoeConfig",
        _GROUPED
        | _EXPERTS
        | {**_CONV, "moe_intermediate_size": 32, "num_dense_layers": 1},
    ),
    "llama": Family("LlamaConfig", _GROUPED),
    "llama4": Family(
        "Llama4TextConfig", _HEADS | _LOCAL_EXPERTS | {"intermediate_size_mlp": 96, "attention_chunk_size": 64}
    ),
    "mamba": Family(
        "MambaConfig", _OLD | {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 16, "pad_token_id": 2}
    ),
    "mamba2": Family(
        "Mamba2Config",
        _OLD
        | {
            "hidden_size": 64, "num_hidden_layers": 3, "state_size": 16, "num_heads": 4, "head_dim": 32, "n_groups": 1,
            "pad_token_id": 2,
        },
    ),
    "mimo_v2_flash": Family("MiMoV2FlashConfig", _HEADS | _ROUTED | {"v_head_dim": 32, "sliding_window": 32}),
    "minicpm3": Family(
        "MiniCPM3Config",
        _PLAIN
        | _LATENT
        | {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "dim_model_base": 32},
    ),
    "minimax_m2": Family("MiniMaxM2Config", _HEADS | _LOCAL_EXPERTS),
    "ministral3": Family("Ministral3Config", _HEADS),
    "mistral": Family("MistralConfig", _HEADS | {"sliding_window": 32}),
    "mixtral": Family("MixtralConfig", _GROUPED | _LOCAL_EXPERTS),
    "nemotron": Family("NemotronConfig", _GROUPED),
    "nemotron_h": Family(
        "NemotronHConfig",
        _HEADS
        | _ROUTED
        | {
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"], "mamba_num_heads": 4,
            "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "moe_shared_expert_intermediate_size": 32,
            "use_mamba_kernels": False, "num_hidden_layers": 4,
        },
    ),
    "olmo": Family("OlmoConfig", _GROUPED),
    "olmo2": Family("Olmo2Config", _GROUPED),
    "olmo3": Family("Olmo3Config", _GROUPED | _SLIDING),
    "olmo_hybrid": Family("OlmoHybridConfig", _GROUPED | _DELTA),
    "olmoe": Family("OlmoeConfig", _GROUPED | _EXPERTS),
    "opt": Family(
        "OPTConfig",
        _OLD
        | {
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 96,
            "max_position_embeddings": CONTEXT, "word_embed_proj_dim": 64, "pad_token_id": 2,
        },
    ),
    "opt_post_norm": Family(
        "OPTConfig",
        _OLD
        | {
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 96,
            "max_position_embeddings": CONTEXT, "word_embed_proj_dim": 32, "pad_token_id": 2,
            "do_layer_norm_before": False,
        },
    ),
    "persimmon": Family("PersimmonConfig", _PLAIN),
    "phi": Family("PhiConfig", _GROUPED),
    "phi3": Family("Phi3Config", _GROUPED),
    "phimoe": Family(
        "PhimoeConfig", _GROUPED | _LOCAL_EXPERTS | {"attention_bias": True, "lm_head_bias": True}, "PhiMoEForCausalLM"
    ),
    "qwen2": Family("Qwen2Config", _GROUPED),
    "qwen2_moe": Family("Qwen2MoeConfig", _GROUPED | _QWEN_EXPERTS),
    "qwen3": Family("Qwen3Config", _HEADS),
    "qwen3_moe": Family("Qwen3MoeConfig", _HEADS | _EXPERTS | {"moe_intermediate_size": 32}),
    "qwen3_next": Family("Qwen3NextConfig", _HEADS | _QWEN_EXPERTS | _DELTA),
    "qwen3_5": Family("Qwen3_5TextConfig", _HEADS | _DELTA, "Qwen3_5ForCausalLM"),
    "qwen3_5_moe": Family("Qwen3_5MoeTextConfig", _HEADS | _QWEN_EXPERTS | _DELTA, "Qwen3_5MoeForCausalLM"),
    "seed_oss": Family("SeedOssConfig", _HEADS),
    "smollm3": Family("SmolLM3Config", _GROUPED),
    "stablelm": Family("StableLmConfig", _GROUPED),
    "starcoder2": Family("Starcoder2Config", _GROUPED),
    "zamba2": Family(
        "Zamba2Config",
        _PLAIN
        | {
            "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 16,
            "n_mamba_heads": 4, "mamba_headdim": 32, "mamba_ngroups": 1, "attention_head_dim": 64,
            "attention_hidden_size": 128, "use_mamba_kernels": False, "num_key_value_heads": 2,
        },
    ),
}
# fmt: on


def save_random_model(family: str, folder: Path, *, seed: int = 7) -> str:
    """Write the family's small random model as safetensors; returns the folder's path."""
    import torch
    import transformers

    made = FAMILIES[family]
    config = getattr(transformers, made.config)(**made.values)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    if made.architecture:
        path = folder / "config.json"
        document = json.loads(path.read_text()) | {"architectures": [made.architecture]}
        path.write_text(json.dumps(document, indent=2))
    return str(folder)
