"""Reads the headers of safetensors files: which tensors they hold, of what type, shape and place.

The format is eight bytes of little-endian header length, a JSON header, then the tensors' bytes. Reading it
needs no package, so sizes are known where neither torch nor safetensors is installed.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from checkpoints.errors import BadCheckpoint
from checkpoints.tensors.schemes import DTYPE_BYTES, Stored
from inputs import files

INDEX_FILE = "model.safetensors.index.json"
_LONGEST_HEADER_BYTES = 100_000_000
_JSON_BYTES = 256 << 20  # of a configuration or an index of shards


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its type and shape, and where its bytes start in the file."""

    stored: Stored
    path: Path
    offset_bytes: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Return name → tensor of one safetensors file, in the order of their bytes.

    Raises BadCheckpoint, naming the file, when the header is not one or does not fit the file's length.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LONGEST_HEADER_BYTES, size_bytes - 8):
            raise _corrupt(path, f"its header claims {length:,} bytes in a file of {size_bytes:,}")
        raw = file.read(length)
    try:
        document = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _corrupt(path, f"its header is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise _corrupt(path, "its header is not a JSON object")
    document.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length, size_bytes) for name, entry in document.items()}
    return dict(sorted(tensors.items(), key=lambda item: item[1].offset_bytes))


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files that hold a model directory's weights, in name order; empty when there are none.

    With an index, these are the shards that it names. Raises BadCheckpoint when the index cannot be read or
    names a shard that is not there.
    """
    index_path = directory / INDEX_FILE
    if not index_path.exists():
        return sorted(directory.glob("*.safetensors"))
    index = read_json(index_path)
    paths = [directory / shard for shard in shards_of(index, str(index_path))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise BadCheckpoint(
            f"{directory} is incomplete: {INDEX_FILE} names {len(paths)} shards and {len(missing)} are missing "
            f"({', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}). Run the download again for them."
        )
    return paths


def shards_of(index: dict[str, Any], name: str = INDEX_FILE) -> list[str]:
    """Return the names of the files that an index of shards names. Raises BadCheckpoint when it names none."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{name} has no weight_map, so which shard holds which tensor is not known.")
    shards = sorted({str(shard) for shard in weight_map.values()})
    if outside := next((shard for shard in shards if shard.startswith("/") or ".." in shard.split("/")), None):
        raise BadCheckpoint(f"{name} names a shard outside of the directory: {outside!r}.")
    return shards


def has_weights(directory: Path) -> bool:
    """Say whether a directory holds safetensors files, or an index of them."""
    return (directory / INDEX_FILE).exists() or any(directory.glob("*.safetensors"))


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Return name → tensor over all weight files of a model directory. Raises as `weight_files`, `read_header`."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(directory):
        header = read_header(path)
        twice = next((name for name in header if name in tensors), None)
        if twice is not None:
            first = tensors[twice].path.name
            raise BadCheckpoint(
                f"{directory} holds tensor {twice} twice, in {first} and {path.name}, and no "
                f"{INDEX_FILE} says which counts. Keep one set of weight files in the directory."
            )
        tensors |= header
    return tensors


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return name → tensor of a model directory that must have weights.

    Raises as `read_tensors`, and BadCheckpoint when there are none, saying what is there instead.
    """
    tensors = read_tensors(directory)
    if tensors:
        return tensors
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        raise BadCheckpoint(
            f"{directory} holds its weights only as {pickles[0]}, a pickle, and loading a pickle can run any code that "
            "its author put there. Use a repository that publishes safetensors, or convert it where you trust it."
        )
    raise BadCheckpoint(
        f"{directory} has no weights (no *.safetensors). Download them with `nbridge fetch`, or use a known "
        "architecture's name for random weights (`nbridge models` lists them). A directory with a config.json alone is "
        "served and measured with random weights."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises BadCheckpoint when it is missing or is not one."""
    try:
        document = files.read_json(path, limit_bytes=_JSON_BYTES)
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{path.parent} is not a model directory: it has no {path.name}.") from error
    except files.NotReadable as error:
        raise BadCheckpoint(f"{path} cannot be read: {error}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise BadCheckpoint(f"{path} holds a {type(document).__name__} where a JSON object was expected.")
    return document


def _tensor(path: Path, name: str, entry: Any, data_start: int, size_bytes: int) -> Tensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"the entry of tensor {name} is malformed") from error
    if dtype not in DTYPE_BYTES:
        raise _corrupt(path, f"tensor {name} has the unknown type {dtype}")
    expected = prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != expected or begin < 0:
        raise _corrupt(path, f"tensor {name} spans {end - begin:,} bytes where its shape needs {expected:,}")
    if data_start + end > size_bytes:
        raise _corrupt(path, f"tensor {name} ends at byte {data_start + end:,} of a file of {size_bytes:,}")
    return Tensor(Stored(dtype, shape), path, data_start + begin)


def _corrupt(path: Path, why: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"{path} is not a whole safetensors file: {why}. It was probably cut short while being written or "
        "downloaded; fetch or make it again."
    )
