"""The bytes of weights: published parameters, what files hold, and what quantization leaves of them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from checkpoints.catalog import models
from checkpoints.tensors import schemes
from checkpoints.tensors.schemes import Stored
from planning.errors import BadInput, UnknownName
from planning.memory import shapes
from planning.memory.models import read

ARCHITECTURES = [name for name, model in models().items() if model.kind == "weightless"]
# Published counts, and at 16 bit twice as many bytes.
PARAMETERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v2": 235_741_434_880,
}


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, schemes.Stored]) -> Path:
    """A model directory whose weight file is a header and a hole: its sizes are real, its bytes are not stored."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    entries, offset = {}, 0
    for name, tensor in tensors.items():
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.stored_bytes],
        }
        offset += tensor.stored_bytes
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)
    return folder


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_weights_are_the_published_parameters_at_two_bytes(name: str, parameters: int) -> None:
    shape = read(name)
    assert shape.parameters == parameters
    assert shape.weights_bytes == 2 * parameters
    assert read(name, dtype="float32").weights_bytes == 4 * parameters


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        *((name, "none") for name in ARCHITECTURES),
        *((name, "int4") for name in ARCHITECTURES if name != "deepseek-v2"),
        *((name, scheme) for name in ("qwen2.5-7b", "mixtral-8x7b") for scheme in ("int8", "awq", "gptq")),
    ],
)
def test_weights_are_what_the_files_hold(tmp_path: Path, name: str, quantization: str) -> None:
    model, scheme = models()[name], schemes.resolve(quantization)
    tensors = {k: part for key, t in model.stored().items() for k, part in schemes.stored(key, t, scheme).items()}
    config = dict(model.config)
    if scheme != "none":
        config["quantization_config"] = schemes.quantization_config(scheme, 128, ["lm_head"])
    folder = write_model(tmp_path / name, config, tensors)
    from_files, computed = read(str(folder)), read(name, quantization)
    assert from_files.source == "files"
    assert from_files.scheme == computed.scheme == scheme
    assert computed.weights_bytes == pytest.approx(from_files.weights_bytes, rel=0.01)
    assert computed.weights_bytes == (folder / "model.safetensors").stat().st_size - _header_bytes(folder)


def _header_bytes(folder: Path) -> int:
    with (folder / "model.safetensors").open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def test_embeddings_and_head_stay_at_16_bit_and_scales_are_counted() -> None:
    # Llama 3.1 8B: 1,050,673,152 values in embeddings and head, 266,240 in norms, 6,979,321,856 in linear layers.
    vocabulary, norms, linear = 2 * 128256 * 4096, 65 * 4096, 6_979_321_856
    assert read("llama-3.1-8b").parameters == vocabulary + norms + linear
    outputs = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    assert read("llama-3.1-8b", "int8").weights_bytes == 2 * (vocabulary + norms) + linear + 2 * outputs
    # int4: half a byte a value, one 16-bit scale for 128 of them, a shape of two 64-bit numbers for each of 224 layers
    packed = linear // 2 + linear // 128 * 2 + 32 * 7 * 16
    assert read("llama-3.1-8b", "int4").weights_bytes == 2 * (vocabulary + norms) + packed


def test_a_safetensors_file_and_a_configuration_alone_are_read(tmp_path: Path) -> None:
    model = models()["demo-100m"]
    folder = write_model(tmp_path / "m", dict(model.config), dict(model.stored()))
    assert read(str(folder / "model.safetensors")).weights_bytes == read("demo-100m").weights_bytes
    (folder / "model.safetensors").unlink()
    alone = read(str(folder))
    assert (alone.source, alone.weights_bytes) == ("configuration", read("demo-100m").weights_bytes)


@pytest.mark.parametrize(
    ("model", "quantization", "error", "said"),
    [
        ("llama-3.1-8", "none", UnknownName, "Did you mean llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "none", UnknownName, "nbridge fetch"),
        ("llama-3.1-8b", "q5_k", BadInput, "known are none, w8a8-int8"),
    ],
)
def test_what_is_not_known_is_refused_with_what_would_work(
    model: str, quantization: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read(model, quantization)


def test_experts_that_are_alike_are_counted_as_one_kind_and_those_that_are_not_apart() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{n}.up_proj.weight" for layer in range(2) for n in range(4)]
    tensors = {name: Stored("BF16", (8, 16)) for name in (*names, "model.layers.0.mlp.gate.weight")}
    tensors["model.layers.1.mlp.experts.3.up_proj.weight"] = Stored("I8", (8, 16))
    assert shapes.grouped(tensors) == {
        "model.layers.0.mlp.experts.0.up_proj.weight": Stored("BF16", (8, 16), 4),
        "model.layers.1.mlp.experts.0.up_proj.weight": Stored("BF16", (8, 16), 3),
        "model.layers.1.mlp.experts.3.up_proj.weight": Stored("I8", (8, 16), 1),
        "model.layers.0.mlp.gate.weight": Stored("BF16", (8, 16), 1),
    }
    assert sum(tensor.stored_bytes for tensor in shapes.grouped(tensors).values()) == 8 * 256 + 128


def test_single_experts_that_a_format_leaves_alone_are_counted_by_themselves(tmp_path: Path) -> None:
    config = {
        **{"model_type": "qwen3_moe", "num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 64},
        **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 64},
        **{"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 1, "tie_word_embeddings": True},
    }
    sizes = []
    for ignored in ([], ["model.layers.0.mlp.experts.2.up_proj"]):
        method = {"quant_method": "fp8", "ignored_layers": ignored}
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
        sizes.append(read(str(tmp_path)).weights_bytes)
    assert sizes[1] - sizes[0] == 64 * 64  # one expert's matrix at two bytes instead of one


def test_active_parameters_of_mixtures_of_experts() -> None:
    # Mixtral: 12.9 billion, DeepSeek-V2: 21.4 billion; a dense model uses all.
    assert read("mixtral-8x7b").active_parameters == 12_879_925_248
    assert round((read("deepseek-v2").active_parameters or 0) / 1e9, 1) == 21.4
    assert read("llama-3.1-8b").active_parameters == 8_030_261_248
