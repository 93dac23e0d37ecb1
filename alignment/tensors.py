"""Named arrays and one metadata document in a file, as .npz or .safetensors, replaced whole or not at all.

The safetensors format is an 8-byte length, a JSON header of names, types and places, and the bytes; writing it here
keeps numpy the only need. In .npz the document is the text array `metadata`; nothing is pickled.
"""

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
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
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
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
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEADER_BYTES, path.stat().st_size):
            raise ValueError("it has no safetensors header")
        header = json.loads(file.read(length))
        body = file.read()
    text = header.pop("__metadata__")[_KEY]
    arrays = {}
    for name, place in header.items():
        start, end = place["data_offsets"]
        dtype, shape = np.dtype(_TYPES[place["dtype"]]), [int(one) for one in place["shape"]]
        if end > len(body) or end - start != dtype.itemsize * math.prod(shape):
            raise ValueError(f"the bytes of {name} are not all there")
        arrays[name] = np.frombuffer(body[start:end], dtype=dtype).reshape(shape).copy()
    return arrays, str(text)


def _read_npz(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, str(arrays.pop(_KEY))
