from math import prod

import pytest

from checkpoints.catalog import models
from checkpoints.errors import BadCheckpoint
from checkpoints.tensors.architecture import kv_bytes_per_token, parameters, tensor_shapes
from checkpoints.tensors.schemes import weights_bytes


@pytest.mark.parametrize(
    ("name", "expected_parameters", "expected_kv_bytes"),
    [
        ("llama-3.1-8b", 8_030_261_248, 131_072),
        ("llama-3.1-70b", 70_553_706_496, 327_680),
        ("qwen2.5-7b", 7_615_616_512, 57_344),
        ("qwen2.5-14b", 14_770_033_664, 196_608),
        ("mistral-7b-v0.3", 7_248_023_552, 131_072),
        ("mixtral-8x7b", 46_702_792_704, 131_072),
        ("deepseek-v2", 235_741_434_880, 69_120),
    ],
)
def test_catalogued_sizes_are_the_published_ones(name, expected_parameters, expected_kv_bytes):
    model = models()[name]
    assert parameters(model.config) == expected_parameters
    assert kv_bytes_per_token(model.config) == expected_kv_bytes
    assert weights_bytes(model.stored()) == 2 * expected_parameters


def test_demo_sizes():
    # 8 layers of (16 + 2·8 + 16)·64·1024 attention and 3·2816·1024 feed-forward weights and 2 norms, two 1,024²
    # tables, one last norm.
    expected = 8 * (48 * 64 * 1024 + 3 * 2816 * 1024 + 2 * 1024) + 2 * 1024 * 1024 + 1024
    assert parameters(models()["demo-100m"].config) == expected == 96_486_400
    assert parameters(models()["demo-1m"].config) == 1_049_728


def test_tied_embeddings_are_counted_once():
    config = models()["demo-100m"].config
    tied = {**config, "tie_word_embeddings": True}
    assert parameters(config) - parameters(tied) == 1024 * 1024


def test_expert_model_stores_a_router_and_every_expert():
    config = models()["mixtral-8x7b"].config
    shapes = tensor_shapes(config)
    assert shapes["model.layers.31.block_sparse_moe.gate.weight"] == (8, 4096)
    experts = [name for name in shapes if ".0.block_sparse_moe.experts." in name]
    assert len(experts) == 8 * 3


def test_dense_first_layer_of_deepseek():
    shapes = tensor_shapes(models()["deepseek-v2"].config)
    assert shapes["model.layers.0.mlp.gate_proj.weight"] == (12288, 5120)
    assert "model.layers.0.mlp.gate.weight" not in shapes
    assert shapes["model.layers.1.mlp.shared_experts.down_proj.weight"] == (5120, 2 * 1536)


def test_active_parameters_of_mixtral_are_the_known_ones():
    shapes = tensor_shapes(models()["mixtral-8x7b"].config)
    idle = sum(prod(shape) for name, shape in shapes.items() if ".experts." in name) * 6 // 8
    assert round((sum(map(prod, shapes.values())) - idle) / 1e9, 1) == 12.9


def test_unknown_model_type_is_refused_by_name():
    with pytest.raises(BadCheckpoint, match="rwkv"):
        tensor_shapes({"model_type": "rwkv"})


def test_kv_bytes_are_absent_when_the_configuration_does_not_say():
    assert kv_bytes_per_token({"hidden_size": 64}) is None
    hybrid = {**models()["demo-100m"].config, "layer_types": ["linear_attention", "full_attention"]}
    assert kv_bytes_per_token(hybrid) is None


def test_kv_bytes_of_a_multimodal_configuration_are_its_text_models():
    assert kv_bytes_per_token({"text_config": models()["llama-3.1-8b"].config}) == 131_072
