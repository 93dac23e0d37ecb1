import pytest

from checkpoints.catalog import models
from checkpoints.errors import BadScheme
from checkpoints.tensors import schemes
from checkpoints.tensors.schemes import Stored

LINEAR = Stored("BF16", (256, 512))


@pytest.mark.parametrize(
    ("word", "scheme"),
    [
        ("none", "none"),
        ("bf16", "none"),
        ("FP16", "none"),
        ("int8", "w8a8-int8"),
        ("int4", "w4a16"),
        ("AWQ", "awq"),
        ("gptq", "gptq"),
        ("fp8", "fp8"),
        ("fp8_per_channel", "fp8_per_channel"),
        ("bitsandbytes", "bitsandbytes"),
    ],
)
def test_words_for_schemes(word, scheme):
    assert schemes.resolve(word) == scheme


@pytest.mark.parametrize(
    ("word", "scheme", "group_size", "rounded", "name"),
    [
        ("int4", "w4a16", 128, False, "w4a16"),
        ("INT4-g32", "w4a16", 32, False, "w4a16-g32"),
        ("awq-g64-rounded", "awq", 64, True, "awq-g64-rounded"),
        ("gptq-g128-rounded", "gptq", 128, True, "gptq-rounded"),
        ("fp16", "none", 128, False, "none"),
        ("int8", "w8a8-int8", 128, False, "w8a8-int8"),
        ("w4a8-g32", "w4a8", 32, False, "w4a8-g32"),
        ("my-method-g32", "my-method-g32", 128, False, "my-method-g32"),  # an engine's method of that name
    ],
)
def test_variants_of_schemes(word, scheme, group_size, rounded, name):
    found = schemes.wanted(word)
    assert (tuple(found), found.name) == ((scheme, group_size, rounded), name)
    assert schemes.wanted(found.name) == found


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("int8-g32", "one scale per output channel and no groups"),
        ("int8-rounded", "also rounds activations"),
        ("w4a8-rounded", "also rounds activations"),
        ("int2-g32", "8-15 %"),
    ],
)
def test_variants_that_no_scheme_has(word, words):
    with pytest.raises(BadScheme, match=words):
        schemes.wanted(word)


@pytest.mark.parametrize("scheme", schemes.WRITTEN)
def test_a_schemes_own_configuration_is_known_again(scheme):
    config = {"quantization_config": schemes.quantization_config(scheme, 32, ["lm_head"])}
    assert schemes.scheme_of(config) == scheme


@pytest.mark.parametrize("word", ["int2", "INT2", "w2a16", "2bit", "2-bit"])
def test_two_bits_are_refused_with_the_reason(word):
    with pytest.raises(BadScheme, match="8-15 %"):
        schemes.resolve(word)


@pytest.mark.parametrize(
    ("name", "shape", "replaced"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (64, 64), True),
        ("model.layers.0.mlp.gate_proj.weight", (64, 64), True),
        ("model.layers.0.mlp.experts.3.up_proj.weight", (64, 64), True),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", (64, 64), True),
        ("model.layers.0.mlp.gate.weight", (8, 64), False),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 64), False),
        ("model.embed_tokens.weight", (64, 64), False),
        ("lm_head.weight", (64, 64), False),
        ("model.norm.weight", (64,), False),
        ("model.layers.0.self_attn.q_proj.bias", (64,), False),
    ],
)
def test_which_tensors_are_replaced(name, shape, replaced):
    assert schemes.is_quantized(name, shape) is replaced


def test_stored_bytes_of_one_weight_by_hand():
    # 256 outputs × 512 inputs, groups of 128: 4 groups.
    sizes = {
        scheme: schemes.weights_bytes({"a.q_proj.weight": LINEAR}, scheme) for scheme in ("none", *schemes.WRITTEN)
    }
    assert sizes == {
        "none": 256 * 512 * 2,
        "w8a8-int8": 256 * 512 + 256 * 2,
        "w4a16": 256 * 512 // 2 + 256 * 4 * 2 + 2 * 8,
        "awq": 256 * 512 // 2 + 4 * 256 * 2 + 4 * 256 // 2,
        "gptq": 256 * 512 // 2 + 4 * 256 * 2 + 4 * 256 // 2 + 512 * 4,
        "w8a8-fp8": 256 * 512 + 256 * 2,
        "w4a8": 256 * 512 + 256 * 4 * 2,
        "w8a16": 256 * 512 + 256 * 4 * 2 + 2 * 8,
    }


def test_stored_shapes_follow_each_formats_axis():
    awq = schemes.stored("a.q_proj.weight", LINEAR, "awq")
    gptq = schemes.stored("a.q_proj.weight", LINEAR, "gptq")
    packed = schemes.stored("a.q_proj.weight", LINEAR, "w4a16")
    assert awq["a.q_proj.qweight"] == Stored("I32", (512, 32))
    assert gptq["a.q_proj.qweight"] == Stored("I32", (64, 256))
    assert packed["a.q_proj.weight_packed"] == Stored("I32", (256, 64))


def test_group_size_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(BadScheme, match=r"group_size=128.*96 input features.*group size of 32 would"):
        schemes.check_fits("a.down_proj.weight", (64, 96), "w4a16", 128)


def test_outputs_that_do_not_fill_a_word_are_refused_where_they_are_packed():
    schemes.check_fits("a.k_proj.weight", (12, 128), "w4a16", 128)
    with pytest.raises(BadScheme, match="12 of them"):
        schemes.check_fits("a.k_proj.weight", (12, 128), "awq", 128)


def test_eight_bits_need_no_groups():
    schemes.check_fits("a.k_proj.weight", (3, 5), "w8a8-int8", 128)


def test_routers_are_ignored_in_every_formats_own_words():
    shapes = {"model.layers.0.mlp.gate.weight": (8, 64), "model.layers.0.mlp.gate_proj.weight": (64, 64)}
    ignored = schemes.ignored_modules(shapes)
    assert ignored == ["lm_head", "model.layers.0.mlp.gate"]
    assert schemes.quantization_config("w4a16", 128, ignored)["ignore"] == ignored
    assert schemes.quantization_config("awq", 128, ignored)["modules_to_not_convert"] == ignored
    assert schemes.quantization_config("gptq", 128, ignored)["dynamic"] == {r"-:.*\.gate$": {}}


@pytest.mark.parametrize("scheme", schemes.WRITTEN)
def test_a_configuration_says_its_own_scheme(scheme):
    config = {"quantization_config": schemes.quantization_config(scheme, 128, ["lm_head"])}
    assert schemes.scheme_of(config) == scheme


def test_schemes_of_other_checkpoints():
    assert schemes.scheme_of({}) == "none"
    assert schemes.scheme_of({"quantization_config": {"quant_method": "fp8"}}) == "fp8"
    other = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    assert schemes.scheme_of({"compression_config": other}) == "compressed-tensors"


def test_four_bits_of_llama_8b_save_what_the_arithmetic_says():
    tensors = models()["llama-3.1-8b"].stored()
    share = schemes.weights_bytes(tensors, "w4a16") / schemes.weights_bytes(tensors)
    assert 0.354 < share < 0.356  # a quarter, the scales, and the tables that stay at 16 bit
