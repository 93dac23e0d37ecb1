"""A demo model as a GGUF file, for the servers that read nothing else."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Hugging Face's name of a Llama's tensor → llama.cpp's.
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(directory: Path, target: Path) -> None:
    """Write a Llama's directory as one GGUF file of the same weights, in 32 bit."""
    import gguf
    from safetensors.torch import load_file

    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(target, "llama")
    _describe(writer, config)
    _vocabulary(writer, directory)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for name, tensor in load_file(directory / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem in _WHOLE:
            ours = _WHOLE[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            ours = f"blk.{layer}.{_NAMES[part]}"
            if part.endswith(("q_proj", "k_proj")):
                tensor = _neighbours(tensor, heads if part.endswith("q_proj") else kv_heads)  # noqa: PLW2901
        writer.add_tensor(f"{ours}.weight", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _neighbours(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Rows in the order of llama.cpp, which turns neighbouring pairs where Hugging Face turns the halves of a head."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).contiguous()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _vocabulary(writer: Any, directory: Path) -> None:
    from gguf import TokenType

    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    described = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    special = {entry["id"] for entry in document["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in document["model"]["merges"]])
    for name in ("bos", "eos", "pad"):
        getattr(writer, f"add_{name}_token_id")(document["model"]["vocab"][described[f"{name}_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(described["chat_template"])
