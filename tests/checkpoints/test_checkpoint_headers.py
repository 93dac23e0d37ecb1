import json
import struct

import numpy as np
import pytest
from made_models import LLAMA, make, read_array, write_safetensors

from checkpoints.errors import BadCheckpoint
from checkpoints.tensors.architecture import tensor_shapes
from checkpoints.tensors.headers import read_header, read_json, read_tensors
from checkpoints.tensors.schemes import Stored


def test_header_gives_types_shapes_and_places(tmp_path):
    path = tmp_path / "model.safetensors"
    values = np.array([[1, 2, 3]], dtype=np.float32)
    write_safetensors(path, {"a": ("I8", np.zeros(5, np.int8)), "b": ("F32", values)})
    header = read_header(path)
    assert header["a"].stored == Stored("I8", (5,))
    assert header["b"].stored.stored_bytes == 12
    assert read_array(header["b"], np.float32).tolist() == [[1, 2, 3]]


def test_shards_are_read_through_the_index(tmp_path):
    model = make(tmp_path / "sharded", LLAMA, shards=3)
    tensors = read_tensors(model)
    assert {name: tensor.stored.shape for name, tensor in tensors.items()} == tensor_shapes(LLAMA)
    assert len({tensor.path for tensor in tensors.values()}) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "claims 0 bytes"),
        (b"1234", "claims 0 bytes"),
        (struct.pack("<Q", 10**15) + b"{}", "claims 1,000,000,000,000,000 bytes"),
        (struct.pack("<Q", 4) + b"abcd", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 13) + b'{"a":{"b":1}}', "malformed"),
    ],
)
def test_corrupt_headers_are_named(tmp_path, content, why):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=why) as caught:
        read_header(path)
    assert "model.safetensors" in str(caught.value)


def header_of(entry: dict) -> bytes:
    raw = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "ends at byte"),
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}, "spans 16 bytes where its shape needs 20"),
        ({"dtype": "Q7", "shape": [4], "data_offsets": [0, 16]}, "unknown type Q7"),
    ],
)
def test_entries_that_do_not_fit_are_named(tmp_path, entry, why):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header_of(entry) + b"\0" * 8)
    with pytest.raises(BadCheckpoint, match=why):
        read_header(path)


def test_a_missing_shard_is_named(tmp_path):
    model = make(tmp_path / "sharded", LLAMA, shards=3)
    (model / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="model-00002-of-00003"):
        read_tensors(model)


def test_two_sets_of_weights_without_an_index_are_refused(tmp_path):
    model = make(tmp_path / "twice", LLAMA)
    (model / "copy.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(BadCheckpoint, match="twice"):
        read_tensors(model)


@pytest.mark.parametrize("text", ["{", "[]", "\ud800"])
def test_json_that_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        read_json(path)
