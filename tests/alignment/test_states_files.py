import json
import zipfile

import numpy as np
import pytest
from made_states import normal, states
from safetensors.numpy import load_file, save_file

from alignment import tensors
from alignment.errors import BadInput, OutputExists
from alignment.states import features, load, matched, save


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_states_come_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    given = states(normal(5, 3), server={"vllm": "0.32.0"})
    save(given, path)
    found = load(path)
    assert np.array_equal(found.values, given.values) and found.values.dtype == np.float32
    for name in ("model", "layers", "pooling", "dtype", "prompt_tokens", "prompt_sha256", "num_layers", "server"):
        assert getattr(found, name) == getattr(given, name)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_safetensors_by_the_library_that_owns_the_format(tmp_path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    arrays = {"a": normal(3, 2).astype(np.float32), "b": np.arange(4), "empty": np.zeros((0, 2))}
    tensors.write(ours, arrays, {"x": "é"})
    read = load_file(ours)
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in arrays.items())
    save_file(arrays, theirs, metadata={"metadata": json.dumps({"x": 1})})
    found, metadata = tensors.read(theirs)
    assert metadata == {"x": 1} and all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "s.npz"
    save(states(normal(2, 2)), path)
    before = path.read_bytes()
    with pytest.raises(OutputExists, match="--force"):
        save(states(normal(3, 2)), path)
    assert path.read_bytes() == before
    save(states(normal(3, 2)), path, force=True)
    assert len(load(path).prompt_sha256) == 3


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_damaged_and_foreign_files(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    save(states(normal(5, 3)), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    tensors.write(path, {"a": normal(1, 1)}, {"kind": "cake"}, force=True)
    with pytest.raises(BadInput, match="'cake'"):
        load(path)
    with pytest.raises(BadInput, match=r"\.npz or \.safetensors"):
        load(tmp_path / "s.bin")


def npz(path, *members, compression=zipfile.ZIP_STORED):
    """An archive of (name, header of an .npy, bytes after it)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, header, data in members:
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in data:
                    member.write(part)


def test_a_header_that_claims_more_than_is_there_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "s.npz"
    npz(path, ("states", {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}, [b"1234"]))
    with pytest.raises(BadInput, match=r"states.npy claims 4,000,000,000,000 bytes, and 4 are there"):
        load(path)
    npz(path, ("states", {"descr": "<f4", "fortran_order": False, "shape": (-(10**12), -1)}, [b"1234"]))
    with pytest.raises(BadInput, match="cannot be read"):
        load(path)
    path = tmp_path / "s.safetensors"
    for shape, offsets in (([10**12], [0, 4 * 10**12]), ([10**12], [0, 4]), ([-1, -1], [0, 4]), ([1], [-4, 0])):
        header = json.dumps(
            {"__metadata__": {"metadata": "{}"}, "states": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        ).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
        with pytest.raises(BadInput, match=r"the bytes of states are not all there|a shape of"):
            load(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    path, count = tmp_path / "s.npz", 1 << 26
    header = {"descr": "<f4", "fortran_order": False, "shape": (count,)}
    npz(path, ("states", header, [bytes(1 << 20)] * (count >> 18)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 19  # 256 MiB of zeros
    with pytest.raises(BadInput, match="unpack to 268,435"):
        load(path)


def test_states_compressed_elsewhere_are_read(tmp_path):
    save(states(normal(64, 32)), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as given:
        np.savez_compressed(tmp_path / "c.npz", **given)
    assert np.array_equal(load(tmp_path / "c.npz").values, load(tmp_path / "s.npz").values)


def test_metadata_nested_without_end_is_refused(tmp_path):
    deep = "[" * 100_000
    with (tmp_path / "s.npz").open("wb") as file:
        np.savez(file, metadata=np.array(deep))
    header = f'{{"a": {deep}'.encode()
    (tmp_path / "s.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("s.npz", "s.safetensors"):
        with pytest.raises(BadInput, match="nested too deeply"):
            load(tmp_path / name)


def test_states_that_are_not_finite_are_refused(tmp_path):
    broken = normal(2, 2)
    broken[1, 1] = np.nan
    save(states(broken), tmp_path / "s.npz")
    with pytest.raises(BadInput, match="not finite"):
        load(tmp_path / "s.npz")


def test_rows_are_paired_by_prompt_and_duplicates_go():
    a = states([[1.0], [2.0], [3.0], [1.0]], hashes=["x", "y", "z", "x"])
    b = states([[30.0], [10.0], [40.0]], hashes=["z", "x", "w"])
    (left, right), out = matched([a, b])
    assert left.prompt_sha256 == right.prompt_sha256 == ("x", "z")
    assert left.values.ravel().tolist() == [1, 3] and right.values.ravel().tolist() == [10, 30]
    assert out == 2


def test_features_of_several_layers():
    both = states([[[1.0, 2.0], [3.0, 6.0]]], layers=(1, 2))
    assert features(both, (-2,), "concat").tolist() == [[3, 6]]
    assert features(both, (-3, -2), "concat").tolist() == [[1, 2, 3, 6]]
    assert features(both, (2, 1), "concat").tolist() == [[3, 6, 1, 2]]
    assert features(both, "all", "mean").tolist() == [[2, 4]]
    with pytest.raises(BadInput, match="Layer -1 is not among the states of m: they are of 1, 2 of 4 blocks"):
        features(both, (-1,), "concat")
