"""Writes a quantized copy of a checkpoint, tensor by tensor.

The layout of every output file follows from the source's headers alone, so its header is written first and the
tensors stream after it: memory holds one weight and a block of rows at a time, whatever the checkpoint's size.
"""

import errno
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from checkpoints.cache import MANIFEST, Progress, new_directory, silent
from checkpoints.errors import BadCheckpoint, BadScheme, CheckpointError, DiskFull
from checkpoints.quantization import rounding
from checkpoints.tensors import headers, schemes

_BLOCK_VALUES = 2 * 2**20  # of float32: 8 MiB, and a few times that in temporaries
_COPY_BYTES = 16 * 2**20
_NUMPY_TYPES = {
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
    "F8_E4M3": np.uint8,
    "F16": np.uint16,
    "BF16": np.uint16,
    "F32": np.float32,
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")

Arrays = dict[str, npt.NDArray[Any]]
Layout = dict[str, schemes.Stored]


@dataclass(frozen=True)
class Quantized:
    """What a quantized copy holds: bytes of all tensors before and after, and how many tensors were replaced."""

    path: str
    scheme: str
    group_size: int | None
    source_bytes: int
    weights_bytes: int
    quantized_tensors: int
    kept_tensors: int
    ignored_modules: tuple[str, ...]


def quantize(
    source: Path,
    out: Path,
    scheme: str,
    *,
    group_size: int = schemes.DEFAULT_GROUP_SIZE,
    progress: Progress = silent,
) -> Quantized:
    """Write a quantized copy of a model directory to `out`, which must be empty or not exist, and return its sizes.

    `out` appears only when it is whole. Raises OutputExists, and as `write_quantized`.
    """
    with new_directory(out) as directory:
        summary = write_quantized(source, directory, schemes.Wanted(scheme, group_size), progress=progress)
    return Quantized(**{**summary.__dict__, "path": str(out)})


def write_quantized(source: Path, directory: Path, wanted: schemes.Wanted, *, progress: Progress = silent) -> Quantized:
    """Fill an empty directory with a quantized (or rounded) copy of a model directory, and read its headers back.

    Shards keep their names. Raises BadScheme (already quantized, a group size that does not divide, a scheme that is
    not written here), BadCheckpoint (weights that cannot be used) or DiskFull, all before anything is written
    save for weights that are not finite.
    """
    scheme = wanted.scheme
    if scheme not in schemes.WRITTEN:
        raise BadScheme(f"{scheme!r} is not a scheme that is written here; those are {', '.join(schemes.WRITTEN)}.")
    config = headers.read_json(source / "config.json")
    _refuse_unsuitable(source, config)
    tensors = _readable_weights(source)
    ignored = schemes.ignored_modules({name: tensor.stored.shape for name, tensor in tensors.items()})
    layouts = _layouts(tensors, wanted)
    total_bytes = sum(part.stored_bytes for layout in layouts.values() for part in layout.values())
    _require_room(directory, total_bytes)

    meter = _Meter(sum(tensor.stored.stored_bytes for tensor in tensors.values()), scheme, progress)
    try:
        for path, layout in layouts.items():
            own = {name: tensor for name, tensor in tensors.items() if tensor.path == path}
            _write_file(directory / path.name, layout, own, wanted, meter)
        _write_index(source, directory, layouts, total_bytes)
        _write_the_rest(source, directory, config, wanted, ignored)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(directory, total_bytes) from error
        raise
    _verify(directory, layouts)
    quantized = sum(schemes.is_quantized(name, tensor.stored.shape) for name, tensor in tensors.items())
    return Quantized(
        path=str(directory),
        scheme=scheme,
        group_size=None if scheme in schemes.UNGROUPED else wanted.group_size,
        source_bytes=meter.total_bytes,
        weights_bytes=total_bytes,
        quantized_tensors=quantized,
        kept_tensors=len(tensors) - quantized,
        ignored_modules=tuple(ignored),
    )


class _Meter:
    """Tells how far the work is, each time another twentieth of the source has been read."""

    def __init__(self, total_bytes: int, scheme: str, progress: Progress) -> None:
        self.total_bytes = total_bytes
        self._scheme = scheme
        self._progress = progress
        self._done_bytes = 0

    def add(self, read_bytes: int) -> None:
        before = self._done_bytes * 20 // self.total_bytes
        self._done_bytes += read_bytes
        after = self._done_bytes * 20 // self.total_bytes
        if after > before:
            self._progress(f"quantizing to {self._scheme}: {after * 5} %")


def _refuse_unsuitable(source: Path, config: Mapping[str, Any]) -> None:
    own = schemes.scheme_of(config)
    if own != schemes.NONE:
        raise BadScheme(
            f"{source} is already quantized ({own}); rounding it again would only lose more. Start from the "
            "unquantized checkpoint."
        )
    towers = [part for part in ("vision_config", "audio_config") if part in config]
    if towers:
        raise BadScheme(
            f"{source} is a multimodal model ({', '.join(towers)} in its config.json), and only text models are "
            "quantized here. Use a repository that is published quantized."
        )


def _readable_weights(source: Path) -> dict[str, headers.Tensor]:
    tensors = headers.read_weights(source)
    linear = 0
    for name, tensor in tensors.items():
        dtype, shape = tensor.stored.dtype, tensor.stored.shape
        if len(shape) == 3 and "expert" in name:
            raise BadScheme(
                f"{source} stores its experts fused in three dimensions ({name}, shape {list(shape)}), a layout that "
                "the formats written here have no place for. Use a checkpoint with one tensor per expert."
            )
        if name.split(".")[-2:-1] in (["c_attn"], ["c_fc"]) and len(shape) == 2 and shape[0] < shape[1]:
            raise BadScheme(
                f"{source} keeps its linear weights as [inputs, outputs] ({name}, shape {list(shape)}: GPT-2's "
                "Conv1D), and an engine turns them while it loads, which a quantized copy does not survive. Models of "
                "this kind are not quantized here; serve it as it is."
            )
        if schemes.is_quantized(name, shape):
            linear += 1
            if dtype not in schemes.SOURCE_DTYPES:
                raise BadScheme(
                    f"{name} in {source} is stored as {dtype}; weights of type "
                    f"{', '.join(schemes.SOURCE_DTYPES)} can be quantized."
                )
    if not linear:
        raise BadCheckpoint(f"{source} holds no linear layer's weight (a 2-D *.weight), so nothing to quantize.")
    return tensors


def _layouts(tensors: Mapping[str, headers.Tensor], wanted: schemes.Wanted) -> dict[Path, Layout]:
    layouts: dict[Path, Layout] = {}
    for name, tensor in tensors.items():
        parts = schemes.stored(name, tensor.stored, wanted.scheme, wanted.group_size)  # also refuses what does not fit
        layouts.setdefault(tensor.path, {}).update({name: tensor.stored} if wanted.rounded else parts)
    return layouts


def _require_room(directory: Path, needed_bytes: int) -> None:
    if shutil.disk_usage(directory).free < needed_bytes:
        raise _disk_full(directory, needed_bytes)


def _disk_full(directory: Path, needed_bytes: int) -> DiskFull:
    free_gb = shutil.disk_usage(directory).free / 1e9
    return DiskFull(
        f"The quantized copy needs {needed_bytes / 1e9:.1f} GB and {directory.parent} has {free_gb:.1f} GB free. "
        "Free some space, or name an output directory on another disk."
    )


def _write_file(
    path: Path,
    layout: Layout,
    tensors: Mapping[str, headers.Tensor],
    wanted: schemes.Wanted,
    meter: _Meter,
) -> None:
    with path.open("wb") as out:
        out.write(_header(layout))
        for name, tensor in tensors.items():
            if not schemes.is_quantized(name, tensor.stored.shape):
                _copy(tensor, out, meter)
                continue
            arrays = _quantized_arrays(name, tensor, wanted, meter)
            for array in arrays.values():
                out.write(array.data)


def _header(layout: Layout) -> bytes:
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, part in layout.items():
        end = offset + part.stored_bytes
        document[name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the tensors start on a multiple of eight bytes
    return struct.pack("<Q", len(raw)) + raw


def _copy(tensor: headers.Tensor, out: BinaryIO, meter: _Meter) -> None:
    left = tensor.stored.stored_bytes
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset_bytes)
        while left:
            chunk = file.read(min(left, _COPY_BYTES))
            if not chunk:
                raise CheckpointError(f"{tensor.path} became shorter while it was read.")
            out.write(chunk)
            left -= len(chunk)
            meter.add(len(chunk))


def _quantized_arrays(name: str, tensor: headers.Tensor, wanted: schemes.Wanted, meter: _Meter) -> Arrays:
    # Blocks of rows are quantized one after the other into arrays of the final size. The output features
    # run along the first axis of the compressed-tensors formats, and along the last of AWQ and GPTQ.
    scheme, group_size, rounded = wanted
    outputs = tensor.stored.shape[0]
    axis = 1 if scheme in (schemes.AWQ, schemes.GPTQ) else 0
    parts = {name: tensor.stored} if rounded else schemes.stored(name, tensor.stored, scheme, group_size)
    base = name.removesuffix("weight")
    arrays: Arrays = {part: np.empty(p.shape, dtype=_NUMPY_TYPES[p.dtype]) for part, p in parts.items()}
    scale_dtype = "F16" if tensor.stored.dtype == "F16" else "BF16"
    for first, block in _row_blocks(tensor, meter):
        try:
            if rounded:
                again = rounding.rounded(block, scheme, group_size, scale_dtype)
                pieces = {"weight": rounding.from_floats(again, tensor.stored.dtype)}
            else:
                pieces = rounding.quantize(block, scheme, group_size, scale_dtype)
        except ValueError as error:
            raise BadCheckpoint(f"{name} in {tensor.path} cannot be quantized: {error}.") from error
        for suffix, piece in pieces.items():
            array = arrays[base + suffix]
            if suffix == "weight_shape":
                array[:] = tensor.stored.shape
            elif suffix == "g_idx":
                array[:] = piece
            else:
                start = first * array.shape[axis] // outputs
                rows = slice(start, start + piece.shape[axis])
                array[(slice(None),) * axis + (rows,)] = piece
    return arrays


def _row_blocks(tensor: headers.Tensor, meter: _Meter) -> Iterator[tuple[int, rounding.Floats]]:
    outputs, inputs = tensor.stored.shape
    row_bytes = inputs * schemes.DTYPE_BYTES[tensor.stored.dtype]
    rows = max(8, _BLOCK_VALUES // inputs // 8 * 8)  # whole words of eight output features
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset_bytes)
        for first in range(0, outputs, rows):
            count = min(rows, outputs - first)
            raw = np.fromfile(file, dtype=np.uint8, count=count * row_bytes)
            if raw.size != count * row_bytes:
                raise CheckpointError(f"{tensor.path} became shorter while it was read.")
            yield first, rounding.to_floats(raw, tensor.stored.dtype).reshape(count, inputs)
            meter.add(raw.size)


def _write_index(source: Path, directory: Path, layouts: Mapping[Path, Layout], total_bytes: int) -> None:
    if len(layouts) == 1 and not (source / headers.INDEX_FILE).exists():
        return
    weight_map = {name: path.name for path, layout in layouts.items() for name in layout}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (directory / headers.INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_the_rest(
    source: Path,
    directory: Path,
    config: Mapping[str, Any],
    wanted: schemes.Wanted,
    ignored: list[str],
) -> None:
    # Tokenizer, chat template, licence and the like go along; other weight formats in the directory do not.
    for path in sorted(source.iterdir()):
        left_out = path.name in (headers.INDEX_FILE, MANIFEST) or path.name.startswith(".")
        if path.is_file() and not left_out and path.suffix not in _WEIGHT_SUFFIXES:
            shutil.copyfile(path, directory / path.name)
    own = dict(config)
    if not wanted.rounded:
        own["quantization_config"] = schemes.quantization_config(wanted.scheme, wanted.group_size, ignored)
    (directory / "config.json").write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")


def _verify(directory: Path, layouts: Mapping[Path, Layout]) -> None:
    expected = {name: part for layout in layouts.values() for name, part in layout.items()}
    written = {name: tensor.stored for name, tensor in headers.read_tensors(directory).items()}
    if written != expected:
        different = sorted(name for name in expected | written if expected.get(name) != written.get(name))
        raise CheckpointError(
            f"The quantized copy does not read back as it was written ({', '.join(different[:3])}); it was "
            "discarded. Check the disk, and run the command again."
        )
