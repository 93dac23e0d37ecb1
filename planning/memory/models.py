"""Finds a model by what a user calls it: a known name, a directory, a file, a repository. Reads headers only.

In this order: the headers of safetensors files (in a directory, or on the hub, where nothing else is downloaded), the
header of a GGUF file, the formulae of known architectures, and transformers on the meta device where it is installed.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from checkpoints import hub_headers
from checkpoints.catalog import Model, models
from checkpoints.errors import BadCheckpoint, CheckpointError
from checkpoints.tensors import architecture, entries, gguf_header, headers, meta, prequantized, schemes
from checkpoints.tensors.schemes import Stored
from planning.errors import BadInput, UnknownName, unknown
from planning.memory import placement, shapes
from planning.memory.shapes import ENGINE_METHODS, Shape

DTYPES = ("auto", "bfloat16", "float16", "float32")
Config = Mapping[str, Any]


def read(model: str, quantization: str = "none", dtype: str = "auto", *, hub: bool = False) -> Shape:
    """Return the shape of a known architecture, a model directory, a safetensors or GGUF file, or a hub repository.

    No weight is read; of a repository only config.json and the headers are fetched, and only with `hub`.
    `quantization`: none, int8, int4, what checkpoints writes, fp8 or bitsandbytes. Raises UnknownName, or BadInput for
    a model or quantization that cannot be used.
    """
    try:
        return _read(model, quantization, dtype, hub)
    except CheckpointError as error:
        raised = BadInput(str(error))
        raised.exit_code = error.exit_code
        raise raised from error


def _read(model: str, quantization: str, dtype: str, hub: bool) -> Shape:
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    scheme = schemes.resolve(quantization)
    if scheme not in (schemes.NONE, *schemes.WRITTEN, *ENGINE_METHODS):
        known = (*schemes.WRITTEN, *ENGINE_METHODS)
        raise BadInput(
            f"The size of weights in quantization {quantization!r} is not known; known are none, {', '.join(known)}."
        )
    if known_model := models().get(model.lower()):
        return _catalogued(known_model.name, scheme, dtype)
    path = Path(model).expanduser()
    if path.suffix == ".gguf" or (path.is_dir() and not headers.has_weights(path) and any(path.glob("*.gguf"))):
        return _from_gguf(path, model, scheme)
    if path.is_dir() or path.suffix == ".safetensors":
        return _from_files(path, model, scheme, dtype)
    if hub_headers.is_repository(model) and not path.exists():
        if not hub:
            raise UnknownName(
                f"There is no directory {model!r}, and a repository on the hub is not looked up here (`nbridge vram` "
                f"does). Download it with `nbridge fetch {model} --out DIRECTORY` and name the directory, or name a "
                f"known architecture: {', '.join(models())}."
            )
        config, beside, found = hub_headers.read(model)
        return _from_tensors(model, config, beside, found, scheme, dtype, "hub")
    if "/" in model:
        raise UnknownName(
            f"There is no directory {model!r}, and it is no repository's name (organisation/name) either."
        )
    raise unknown("model", model, models(), "A directory with a config.json works too, and so does organisation/name.")


@cache
def _catalogued(name: str, scheme: str, dtype: str) -> Shape:
    model: Model = models()[name]
    return shapes.made(name, model.config, shapes.grouped(model.stored()), scheme, dtype, "catalogue")


def _from_files(path: Path, name: str, scheme: str, dtype: str) -> Shape:
    if not path.exists():
        raise UnknownName(f"There is no file {path}.")
    directory = path if path.is_dir() else path.parent
    config = _config(directory)
    beside = _beside(directory)
    found = headers.read_tensors(path) if path.is_dir() else headers.read_header(path)
    if found:
        stored = {key: tensor.stored for key, tensor in found.items()}
        return _from_tensors(name, config, beside, stored, scheme, dtype, "files")
    return _from_config(directory, name, config, beside, scheme, dtype)


def _config(directory: Path) -> Config:
    config = headers.read_json(directory / "config.json")
    if not entries.layer_count(config):
        raise BadInput(
            f"{directory / 'config.json'} does not say num_hidden_layers, so nothing can be computed from it."
        )
    return config


def _beside(directory: Path) -> Config | None:
    path = directory / prequantized.QUANT_FILE
    return headers.read_json(path) if path.is_file() else None


def _own_scheme(config: Config, beside: Config | None) -> str:
    own = schemes.scheme_of(config)
    if own == schemes.NONE and (form := prequantized.format_of(config, beside)):
        return form.name
    return own


def _refuse_twice(name: str, own: str, scheme: str) -> None:
    if schemes.NONE not in (own, scheme):
        raise BadInput(
            f"{name} is already quantized ({own}), so quantization {scheme!r} cannot be applied to it. Leave "
            "--quantization out, or name the unquantized model."
        )


def _from_tensors(
    name: str,
    config: Config,
    beside: Config | None,
    found: Mapping[str, Stored],
    scheme: str,
    dtype: str,
    source: str,
) -> Shape:
    """The shape of a model whose files' headers were read."""
    own = _own_scheme(config, beside)
    _refuse_twice(name, own, scheme)
    count = entries.layer_count(config) or 0
    found = shapes.grouped(found)
    left_out = {key for key in found if placement.predicts_more(key, count)}
    stored = {key: tensor for key, tensor in found.items() if key not in left_out}
    stored_bytes = sum(tensor.stored_bytes for tensor in found.values())
    notes: tuple[str, ...] = ()
    if left_out:
        size = sum(found[key].stored_bytes for key in left_out) / 1e9
        notes = (
            f"The files also hold {size:,.2f} GB of layers for multi-token prediction, which vLLM loads only to "
            "speculate; they are not counted.",
        )
    if own == schemes.NONE:
        shape = shapes.made(name, config, stored, scheme, dtype, source)
    else:
        form = prequantized.format_of(config, beside)
        full = shapes.full_of(stored, form)
        shape = Shape(name, config, own, source, shapes.padded(stored), stored_bytes, full, form=_form(own, form))
    return _with_cache(dataclasses.replace(shape, stored_bytes=stored_bytes, notes=notes), beside)


def _with_cache(shape: Shape, beside: Config | None) -> Shape:
    """The shape with what the checkpoint says of the type of its cache."""
    bits, offered = prequantized.cache_bits(shape.config, beside)
    note = "The checkpoint has scales for an 8-bit cache: with --kv-cache-dtype fp8 it takes half of what is said here."
    notes = (*shape.notes, note) if offered and bits is None else shape.notes
    return dataclasses.replace(shape, cache_bits=bits, notes=notes)


def _from_config(directory: Path, name: str, config: Config, beside: Config | None, scheme: str, dtype: str) -> Shape:
    """The shape of a model without weights: by formula, else by transformers."""
    own, form = _own_scheme(config, beside), prequantized.format_of(config, beside)
    _refuse_twice(name, own, scheme)
    plain, source, notes = tensors_of(directory, config)
    if form is None or not form.names_experts:
        plain = shapes.grouped(plain)
    if own == schemes.NONE or own in schemes.WRITTEN:
        made = shapes.made(name, config, plain, own if scheme == schemes.NONE else scheme, dtype, source, notes)
        lying = made.form if own == schemes.NONE else _form(own, form)
        return dataclasses.replace(made, guessed=bool(notes), form=lying)
    full = shapes.weights_of(plain)
    if form is None:
        raise BadInput(f"{directory} has no weights, and the size of weights in its format ({own}) is not known.")
    stored = shapes.each(plain, form.stored)
    total_bytes = sum(tensor.stored_bytes for tensor in stored.values())
    made = Shape(name, config, form.name, source, shapes.padded(stored), total_bytes, full, notes, bool(notes))
    return _with_cache(dataclasses.replace(made, form=_form(own, form)), beside)


def _form(own: str, form: prequantized.Format | None) -> str:
    """How a checkpoint's quantized weights lie, by the words of `planning.memory.held`."""
    if own not in schemes.WRITTEN:
        return own if form is None else form.words
    ours = form is None or form.group in (None, schemes.DEFAULT_GROUP_SIZE)
    return own if ours or form is None else f"{own}, in groups of {form.group}"


def tensors_of(directory: Path, config: Config) -> tuple[dict[str, Stored], str, tuple[str, ...]]:
    """Return (name → tensor at 16 bit, source, notes) of a configuration alone.

    Raises BadCheckpoint when its tensors are known neither here nor to an installed transformers.
    """
    text = entries.text_of(config)
    towers = [tower for tower in ("vision", "audio") if config.get(f"{tower}_config")]
    if architecture.is_known(text) and not towers:
        found = architecture.tensor_shapes(text)
        return {key: Stored("BF16", shape) for key, shape in found.items()}, "configuration", ()
    try:
        asked = meta.ask(directory)
    except CheckpointError as error:
        if not architecture.is_known(text):
            raise BadCheckpoint(f"{directory}: {error}") from error
        note = f"Without its {' and '.join(towers)} part, whose size is not known here: {error}"
        found = architecture.tensor_shapes(text)
        return {key: Stored("BF16", shape) for key, shape in found.items()}, "configuration", (note,)
    notes: tuple[str, ...] = ()
    rows = {shape[0] for key, shape in asked.items() if placement.is_vocabulary(key) and len(shape) == 2}
    if rows and (said := text.get("vocab_size")) and said not in rows:
        notes = (
            f"transformers fills in what it does not find: its class has a vocabulary of {max(rows):,} where "
            f"config.json says {said:,}, so other sizes may be its own too.",
        )
    return {key: Stored("BF16", shape) for key, shape in asked.items()}, "transformers", notes


def _from_gguf(path: Path, name: str, scheme: str) -> Shape:
    if not path.exists():
        raise UnknownName(f"There is no file {path}.")
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if len(files) > 1 and not all("-of-" in file.name for file in files):
        raise BadInput(f"{path} holds {len(files)} GGUF files ({files[0].name}, {files[1].name}, …): name one of them.")
    config, packed = gguf_header.read(files[0])
    for more in files[1:]:
        packed = {**packed, **gguf_header.read(more)[1]}
    if not entries.layer_count(config):
        raise BadInput(f"{files[0]} does not say how many layers the model has, so nothing can be computed from it.")
    if not packed:
        raise BadInput(
            f"{files[0]} holds a vocabulary and no tensor, as the files do with which llama.cpp tests its tokenizers: "
            "nothing can be said of weights. Name the file that holds the model."
        )
    kinds = sorted({one.kind for one in packed.values()} - {"F32", "F16", "BF16"})
    _refuse_twice(name, f"GGUF {', '.join(kinds)}", scheme)
    stored = {key: Stored("U8", (one.stored_bytes,)) for key, one in packed.items()}
    notes = (
        "The sizes are those of the GGUF file. vLLM reads GGUF only through a plugin; llama.cpp serves it as it is.",
    )
    total_bytes = sum(one.stored_bytes for one in packed.values())
    full = {key: shapes.Weights(one.shape) for key, one in packed.items()}
    return Shape(name, config, "gguf", "gguf", stored, total_bytes, full, notes, form="gguf")
