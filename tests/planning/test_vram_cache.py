"""The bytes of the key-value cache: by hand, and held against kvfit and vLLM."""

from dataclasses import replace

import pytest

from checkpoints.catalog import models
from checkpoints.tensors import layers
from planning.memory import kv

VLLM_IMPORTED = pytest.mark.xdist_group("vllm imported")  # into this process, which takes ten seconds

ARCHITECTURES = [name for name, model in models().items() if model.kind == "weightless"]


# Per token and layer: Llama 3.1 8B has 8 key-value heads of 128, so 2 · 8 · 128 · 2 = 4,096 bytes.
@pytest.mark.parametrize(
    ("name", "tensor_parallel", "layer_bytes"),
    [
        ("llama-3.1-8b", 1, 4096),
        ("llama-3.1-8b", 4, 1024),
        ("llama-3.1-8b", 8, 512),
        ("llama-3.1-8b", 16, 512),  # one head each, repeated
        ("qwen2.5-7b", 4, 512),
        ("deepseek-v2", 1, 1152),  # (512 + 64) · 2, and every GPU holds it
        ("deepseek-v2", 8, 1152),
    ],
)
def test_the_cache_of_a_token_in_a_layer(name: str, tensor_parallel: int, layer_bytes: int) -> None:
    found = layers.layers(models()[name].config)
    assert found is not None
    assert {kv.token_bytes([one], tensor_parallel=tensor_parallel) for one in found} == {layer_bytes}


def test_a_cache_at_8_bit_is_half() -> None:
    found = layers.layers(models()["llama-3.1-8b"].config) or ()
    assert kv.token_bytes(found, bytes_per_value=1) == 32 * 2048


def test_a_sequence_takes_whole_blocks_and_no_more_than_its_window() -> None:
    whole, last = (layers.Cache("x", "x", heads=1, values=5, window=window) for window in (None, 4096))
    assert kv.sequence_bytes([(whole,), (whole,)], 17) == 2 * 32 * 10  # 17 tokens: two blocks of 16
    assert kv.sequence_bytes([(last,)], 5000) == 4096 * 10
    assert kv.sequence_bytes([(replace(last, window=4090),)], 5000) == 4096 * 10
    assert kv.sequence_bytes([(last,)], 100) == 112 * 10
    state = layers.Cache("state", "x", state_bytes=1000)
    assert kv.sequence_bytes([(state,)], 5000, tensor_parallel=2) == 500
    assert kv.token_bytes([(state,), (whole,)]) == 10


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tokens", [16, 4096])
def test_the_cache_agrees_with_kvfit(name: str, tokens: int) -> None:
    import kvfit.architectures

    config = dict(models()[name].config)
    theirs = kvfit.architectures.estimate_cache(config, context_tokens=tokens, kv_bytes=2.0)
    found = layers.layers(config)
    assert found is not None
    assert kv.sequence_bytes(found, tokens) == theirs.total_bytes


def test_the_cache_of_a_sliding_model_agrees_with_kvfit() -> None:
    import kvfit.architectures

    config = {**models()["mistral-7b-v0.3"].config, "sliding_window": 4096}
    theirs = kvfit.architectures.estimate_cache(config, context_tokens=32768, kv_bytes=2.0)
    assert kv.sequence_bytes(layers.layers(config) or (), 32768) == theirs.total_bytes == 32 * 4096 * 4096


@VLLM_IMPORTED
@pytest.mark.parametrize(
    ("name", "tensor_parallel"), [("llama-3.1-8b", 1), ("llama-3.1-8b", 4), ("qwen2.5-14b", 8), ("llama-3.1-70b", 16)]
)
def test_a_block_is_as_large_as_vllms(name: str, tensor_parallel: int) -> None:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    config = models()[name].config
    heads, width = max(1, config["num_key_value_heads"] // tensor_parallel), 128
    block = FullAttentionSpec(block_size=16, num_kv_heads=heads, head_size=width, dtype=torch.bfloat16)
    found = layers.layers(config)
    assert found is not None
    assert kv.sequence_bytes(found[:1], 16, tensor_parallel=tensor_parallel) == block.page_size_bytes


@VLLM_IMPORTED
def test_a_block_of_latent_attention_is_as_large_as_vllms() -> None:
    import torch
    from vllm.v1.kv_cache_interface import MLAAttentionSpec

    block = MLAAttentionSpec(block_size=16, num_kv_heads=1, head_size=512 + 64, dtype=torch.bfloat16)
    found = layers.layers(models()["deepseek-v2"].config)
    assert found is not None
    assert kv.sequence_bytes(found[:1], 16, tensor_parallel=8) == block.page_size_bytes
