"""Small model directories for the tests: a Llama, and an expert model in two shards, with weights from a seed."""

import json
import struct
from pathlib import Path

import numpy as np

from checkpoints.tensors.architecture import tensor_shapes

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}
MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def write_safetensors(path: Path, arrays: dict[str, tuple[str, np.ndarray]]) -> None:
    """Write name → (safetensors dtype, array whose bytes are stored)."""
    header, offset = {}, 0
    for name, (dtype, array) in arrays.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for _, array in arrays.values():
            file.write(np.ascontiguousarray(array).data)


def read_array(tensor, dtype) -> np.ndarray:
    """Return a stored tensor's bytes as an array of a numpy type."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset_bytes)
        raw = file.read(tensor.stored.stored_bytes)
    return np.frombuffer(raw, dtype=dtype).reshape(tensor.stored.shape)


def make(directory: Path, config: dict, *, shards: int = 1) -> Path:
    """Write config.json, a tokenizer's name and float32 weights, over as many shards as asked for."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    random = np.random.default_rng(0)
    shapes = tensor_shapes(config)
    arrays = {name: ("F32", random.normal(0, 0.1, shape).astype(np.float32)) for name, shape in shapes.items()}
    if shards == 1:
        write_safetensors(directory / "model.safetensors", arrays)
        return directory
    names = list(arrays)
    weight_map = {}
    for index in range(shards):
        own = names[index::shards]
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(directory / file, {name: arrays[name] for name in own})
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
