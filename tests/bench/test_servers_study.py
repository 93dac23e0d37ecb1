"""The study of servers of different make: a model's GGUF copy, and the table of what was measured."""

import json
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors.torch import save_file

from bench.studies.servers import gguf_copy
from bench.studies.servers.__main__ import page
from checkpoints.tensors import gguf_header

LLAMA = {
    **{"model_type": "llama", "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 4},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 16},
    **{"rope_theta": 10000.0, "rms_norm_eps": 1e-5},
}
SHAPES = {
    "model.embed_tokens": (4, 8),
    "model.layers.0.self_attn.q_proj": (8, 8),
    "model.layers.0.self_attn.k_proj": (4, 8),
    "model.layers.0.self_attn.v_proj": (4, 8),
    "model.layers.0.self_attn.o_proj": (8, 8),
    "model.layers.0.mlp.gate_proj": (32, 8),
    "model.layers.0.mlp.up_proj": (32, 8),
    "model.layers.0.mlp.down_proj": (8, 32),
    "model.layers.0.input_layernorm": (8,),
    "model.layers.0.post_attention_layernorm": (8,),
    "model.norm": (8,),
    "lm_head": (4, 8),
}


def made(directory: Path) -> dict[str, torch.Tensor]:
    """A Llama's directory with weights in which row i of a matrix is all i."""
    weights = {
        f"{name}.weight": torch.arange(shape[0], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        for name, shape in SHAPES.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    tokens = {"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3}
    added = [{"id": number, "content": token} for token, number in tokens.items() if number < 3]
    tokenizer = {"model": {"type": "BPE", "vocab": tokens, "merges": []}, "added_tokens": added}
    described = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": "{{ messages }}"}
    for name, document in (("config", LLAMA), ("tokenizer", tokenizer), ("tokenizer_config", described)):
        (directory / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    return weights


def test_a_gguf_copy_has_the_same_model_in_it(tmp_path: Path) -> None:
    weights = made(tmp_path)
    gguf_copy.write(tmp_path, tmp_path / "copy.gguf")
    config, tensors = gguf_header.read(tmp_path / "copy.gguf")
    for word in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert config[word] == LLAMA[word]
    assert sum(torch.Size(one.shape).numel() for one in tensors.values()) == sum(t.numel() for t in weights.values())


def test_heads_are_turned_by_neighbouring_pairs_as_llama_cpp_does(tmp_path: Path) -> None:
    made(tmp_path)
    gguf_copy.write(tmp_path, tmp_path / "copy.gguf")
    found = {tensor.name: tensor.data[..., 0].tolist() for tensor in GGUFReader(tmp_path / "copy.gguf").tensors}
    # Of a head of four rows the first half pairs with the second: 0 with 2, 1 with 3.
    assert found["blk.0.attn_q.weight"] == [0, 2, 1, 3, 4, 6, 5, 7]
    assert found["blk.0.attn_k.weight"] == [0, 2, 1, 3]
    assert found["blk.0.attn_v.weight"] == [0, 1, 2, 3]


def test_the_table_says_what_is_absent_and_never_0() -> None:
    counted = {
        **{"concurrency": 1, "requests": {"ok": 3, "total": 4}, "output_tokens": 1200, "server_output_tokens": 1199},
        **{"ttft_s": {"p50": 0.0123}, "tpot_s": {"p50": 1.5}, "output_throughput_tok_s": 81.26},
        **{"outcome": "invalid", "reason": "A reason."},
    }
    silent = {
        **{"concurrency": 4, "requests": {"ok": 2, "total": 2}, "output_tokens": None, "server_output_tokens": None},
        **{"ttft_s": None, "tpot_s": None, "output_throughput_tok_s": None, "outcome": "ok", "reason": None},
    }
    line = {"title": "LiteLLM", "version": "1.2", "before": "vllm", "cells": [counted, silent]}
    assert page([line]).splitlines()[2:] == [
        "| LiteLLM 1.2, before vLLM | 1 | 3 of 4 | 1,200 (1,199) | 12.3 ms | 1.50 s | 81.3 | invalid: A reason. |",
        "| LiteLLM 1.2, before vLLM | 4 | 2 of 2 | absent | absent | absent | absent | ok |",
    ]
