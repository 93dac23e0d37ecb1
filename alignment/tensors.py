"""Named arrays and one metadata document in a file, as .npz or .safetensors, replaced whole or not at all.

The safetensors format is an 8-byte length, a JSON header of names, types and places, and the bytes; writing it here
keeps numpy the only need. In .npz the document is the text array `metadata`; nothing is pickled.
"""

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.errors import BadInput, OutputExists, StorageError

Arrays = Mapping[str, NDArray[Any]]
SUFFIXES = (".npz", ".safetensors")
_TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
_KEY = "metadata"
_LARGEST_HEADER_BYTES = 100_000_000  # safetensors' own bound
_LARGEST_EXPANSION = 20  # states are floats: even compressed elsewhere they do not shrink to a twentieth


def check_writable(path: Path, *, force: bool) -> None:
    """Raise BadInput for a suffix that is not written here, OutputExists for a file that is there without `force`."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: the name must end in {' or '.join(SUFFIXES)}.")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists; nothing was overwritten. Name another file, or say --force.")


def write(path: Path, arrays: Arrays, metadata: Mapping[str, Any], *, force: bool = False) -> None:
    """Write arrays (floats of 32 or 64 bits, integers of 64) and a document. Raises BadInput or StorageError."""
    check_writable(path, force=force)
    text = json.dumps(metadata, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if path.suffix == ".npz":
                    np.savez(file, allow_pickle=False, **{**arrays, _KEY: np.array(text)})
                else:
                    _write_safetensors(file, arrays, text)
            partial.chmod(0o644)  # mkstemp makes it private; a result is not
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the document of a file. Raises BadInput when it is missing or is no such file."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: the name must end in {' or '.join(SUFFIXES)}.")
    try:
        arrays, text = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        metadata = json.loads(text)
    except RecursionError:
        raise BadInput(f"{path} cannot be read: its metadata is nested too deeply.") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BadInput(f"{path} cannot be read as a file of `nbridge hidden` or `nbridge align`: {error}.") from error
    if not isinstance(metadata, dict):
        raise BadInput(f"{path}: its metadata is no JSON object.")
    return arrays, metadata


def _write_safetensors(file: Any, arrays: Arrays, text: str) -> None:
    kinds = {np.dtype(dtype): kind for kind, dtype in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": kinds[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    file.write(len(written).to_bytes(8, "little") + written)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).tobytes())


def _read_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if not 2 <= length <= min(_LARGEST_HEADER_BYTES, size - 8):
            raise ValueError("it has no safetensors header")
        header = json.loads(file.read(length))
        text = header.pop("__metadata__")[_KEY]
        arrays = {}
        for name, place in header.items():
            start, end = (int(one) for one in place["data_offsets"])
            dtype, shape = np.dtype(_TYPES[place["dtype"]]), [int(one) for one in place["shape"]]
            if not 0 <= start <= end <= size - 8 - length or end - start != _bytes(dtype, shape):
                raise ValueError(f"the bytes of {name} are not all there")
            file.seek(8 + length + start)
            arrays[name] = np.frombuffer(file.read(end - start), dtype=dtype).reshape(shape).copy()
    return arrays, str(text)


def _read_npz(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    with zipfile.ZipFile(path) as archive:
        _check_sizes(archive, path.stat().st_size)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, str(arrays.pop(_KEY))


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError, before anything is unpacked, when an archive or a header in it claims more than is there."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _LARGEST_EXPANSION * size:
        raise ValueError(f"its {size:,} bytes unpack to {unpacked:,}, more than such a file ever does")
    for entry in archive.infolist():
        with archive.open(entry) as member:
            formats: Any = np.lib.format  # without types
            is_first = formats.read_magic(member) == (1, 0)
            shape, _, dtype = (formats.read_array_header_1_0 if is_first else formats.read_array_header_2_0)(member)
            claimed, there = _bytes(dtype, shape), entry.file_size - member.tell()
        if not dtype.hasobject and claimed != there:
            raise ValueError(f"the header of {entry.filename} claims {claimed:,} bytes, and {there:,} are there")


def _bytes(dtype: "np.dtype[Any]", shape: Sequence[int]) -> int:
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {list(shape)} is none")
    return int(dtype.itemsize) * math.prod(int(length) for length in shape)
