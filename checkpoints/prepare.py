"""Turns what a user calls a model into a checkpoint that an engine can load."""

import difflib
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from checkpoints.cache import (
    Progress,
    build_once,
    checkpoints_dir,
    directory_sha256,
    key,
    read_manifest,
    silent,
)
from checkpoints.catalog import QUANTIZED, WEIGHTLESS, Model, completed, models, weightless_directory
from checkpoints.demo.training import HELD_OUT_FILE
from checkpoints.errors import BadScheme, UnknownModel
from checkpoints.tensors import architecture, entries, headers, schemes

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A model that an engine can load, and its size as far as that is known (None: not known).

    `path` is a directory, or a hub name passed through. `name` is what the user asked for. `load_format` is
    "auto" or "dummy" (no weights). `vllm_quantization` is what to pass as `--quantization`; None when the
    checkpoint's own configuration says it, or there is none. `scheme` is "none", one of the written schemes, or
    an engine method's name. `weights_bytes` is the sum of the stored tensors (at 16 bit for a model without
    weights); None when an engine method converts them while loading. `kv_bytes_per_token` is at 16 bit, over
    the whole model.
    """

    path: str
    name: str
    load_format: str
    vllm_quantization: str | None
    scheme: str
    weights_bytes: int | None
    parameters: int | None
    hidden_size: int | None
    num_layers: int | None
    max_model_len: int | None
    kv_bytes_per_token: int | None


def prepare(model: str, quantization: str = "none", *, progress: Progress = silent) -> Checkpoint:
    """Return the checkpoint for a model and a quantization, making and caching what has to be made.

    `model`: a name of `catalog.models()`, a local directory, or a hub name (`org/name`: passed through, nothing
    is downloaded). `quantization`: "none" (also "bf16", "fp16", "fp32"), "int8", "int4" or one of `schemes.WRITTEN`
    for a quantized copy ("w4a16-g32": with groups of 32; "w4a16-rounded": rounded, at 16 bit); anything else is the
    engine's own method.

    Raises UnknownModel, BadCheckpoint, BadScheme, MissingPackage or TrainingFailed.
    """
    wanted = schemes.wanted(quantization)
    known = models().get(model)
    if known is not None and known.kind == WEIGHTLESS:
        return _weightless(known, wanted, progress)
    if known is not None:
        from checkpoints.demo.trained import trained_directory

        return _directory(trained_directory(progress, name=model), model, wanted, progress)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _directory(path, model, wanted, progress)
    if _HUB_NAME.fullmatch(model) and not path.exists():
        return _hub(model, wanted.scheme)
    raise unknown_model(model, path)


def unquantized_directory(model: str, progress: Progress = silent) -> Path:
    """Return the directory of weights that a model's name or path stands for, to be quantized from.

    Raises UnknownModel, and BadScheme for a model without weights or one that has not been downloaded.
    """
    known = models().get(model)
    if known is not None and known.kind == WEIGHTLESS:
        raise BadScheme(
            f"{model} has no weights to quantize: serve or measure it with quantization int8, int4, awq or gptq "
            "directly, and it gets random weights in that format."
        )
    if known is not None:
        from checkpoints.demo.trained import trained_directory

        return trained_directory(progress, name=model)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if _HUB_NAME.fullmatch(model) and not path.exists():
        raise UnknownModel(
            f"There is no directory {model!r}. If it is a repository on the hub, download it with `nbridge fetch "
            f"{model} --out DIRECTORY` first and quantize the directory."
        )
    raise unknown_model(model, path)


def has_random_weights(model: str) -> bool:
    """Say whether a model's weights are made up by the engine, so that what it predicts is noise."""
    known = models().get(model)
    if known is not None:
        return known.kind == WEIGHTLESS
    path = Path(model).expanduser()
    return bool(model) and path.is_dir() and (read_manifest(path).get("kind") == WEIGHTLESS or not _holds_weights(path))


def held_out_text(model: str, progress: Progress = silent) -> Path | None:
    """Return the file of text that a model was not trained on, training a demo model first when need be.

    None for a model that comes without one. Raises MissingPackage or TrainingFailed.
    """
    if (known := models().get(model)) is not None and known.kind != WEIGHTLESS:
        from checkpoints.demo.trained import trained_directory

        return trained_directory(progress, name=model) / HELD_OUT_FILE
    path = Path(model).expanduser() / HELD_OUT_FILE
    return path if known is None and path.is_file() else None


def _holds_weights(path: Path) -> bool:
    return headers.has_weights(path) or any(path.glob("*.bin")) or any(path.glob("*.pt*"))


def _weightless(model: Model, wanted: schemes.Wanted, progress: Progress) -> Checkpoint:
    written = wanted.scheme in schemes.WRITTEN
    if wanted.rounded:
        raise BadScheme(f"{model.name} has no weights to round: {wanted.name} is for what a trained model predicts.")
    engine_method = wanted.scheme != schemes.NONE and not written
    path = weightless_directory(model, wanted if written else schemes.Wanted(schemes.NONE), progress)
    return _checkpoint(
        path,
        model.name,
        load_format="dummy",
        scheme=wanted.name,
        engine_method=engine_method,
        weights_bytes=schemes.weights_bytes(model.stored(), wanted.scheme, wanted.group_size),
        parameters=architecture.parameters(model.config),
    )


def _directory(path: Path, name: str, wanted: schemes.Wanted, progress: Progress) -> Checkpoint:
    scheme = wanted.scheme
    config = headers.read_json(path / "config.json")
    own = schemes.scheme_of(config)
    if own == schemes.NONE and scheme in schemes.WRITTEN and (path / "hf_quant_config.json").is_file():
        own = "hf_quant_config.json"
    if schemes.NONE not in (scheme, own):
        raise BadScheme(
            f"{path} is already quantized ({own}), so quantization {scheme!r} cannot be applied to it. "
            "Ask for quantization none to load it as it is, or start from the unquantized checkpoint."
        )
    made_here = read_manifest(path).get("kind") == WEIGHTLESS
    if made_here or not _holds_weights(path):
        if not made_here:
            progress(f"{path} has no weights: random ones are made; speed and memory are real, the text is noise")
        if wanted.rounded:
            raise BadScheme(f"{name} has no weights to round: {wanted.name} is for what a trained model predicts.")
        if not made_here or scheme in schemes.WRITTEN:
            path = completed(path, config, wanted, progress)
        return _weightless_directory(path, name, wanted)
    tensors = headers.read_weights(path)
    parameters = _parameters(config, tensors, own)
    written = scheme in schemes.WRITTEN
    if written:
        path = _quantized_copy(path, name, wanted, progress)
        tensors = headers.read_tensors(path)
    return _checkpoint(
        path,
        name,
        load_format="auto",
        scheme=own if scheme == schemes.NONE else wanted.name,
        engine_method=scheme != schemes.NONE and not written,
        weights_bytes=sum(tensor.stored.stored_bytes for tensor in tensors.values()),
        parameters=parameters,
    )


def _weightless_directory(path: Path, name: str, wanted: schemes.Wanted) -> Checkpoint:
    # A directory without weights, complete but for them; of a user, or made by this package and given by its path.
    config = headers.read_json(path / "config.json")
    own = schemes.scheme_of(config)
    engine_method = wanted.scheme not in (schemes.NONE, *schemes.WRITTEN)
    known = architecture.is_known(config)
    shapes = architecture.tensor_shapes(config) if known else {}
    stored = {tensor: schemes.Stored("BF16", shape) for tensor, shape in shapes.items()}
    written = own in (schemes.NONE, *schemes.WRITTEN)
    return _checkpoint(
        path,
        name,
        load_format="dummy",
        scheme=own if wanted.scheme == schemes.NONE else wanted.name,
        engine_method=engine_method,
        weights_bytes=schemes.weights_bytes(stored, own, wanted.group_size) if known and written else None,
        parameters=architecture.parameters(config) if known else None,
    )


def _hub(name: str, scheme: str) -> Checkpoint:
    if scheme in schemes.WRITTEN and scheme not in (schemes.AWQ, schemes.GPTQ):  # engine methods by these names, too
        raise BadScheme(
            f"{name} is a repository on the hub, and {scheme} is made from local weights. Download it with "
            f"`nbridge fetch {name}` and name the directory, or name a repository that is published quantized."
        )
    return Checkpoint(
        path=name,
        name=name,
        load_format="auto",
        vllm_quantization=None if scheme == schemes.NONE else scheme,
        scheme=scheme,
        weights_bytes=None,
        parameters=None,
        hidden_size=None,
        num_layers=None,
        max_model_len=None,
        kv_bytes_per_token=None,
    )


def _parameters(config: architecture.Config, tensors: dict[str, headers.Tensor], own_scheme: str) -> int | None:
    if own_scheme == schemes.NONE:
        return sum(prod(tensor.stored.shape) for tensor in tensors.values())
    return architecture.parameters(config) if config.get("model_type") in architecture.KNOWN_TYPES else None


def _quantized_copy(path: Path, name: str, wanted: schemes.Wanted, progress: Progress) -> Path:
    from checkpoints.quantization.quantize import write_quantized

    source = directory_sha256(path)
    label = name if name in models() else path.resolve().name
    target = checkpoints_dir() / f"{label}-{wanted.name}-{key(source, wanted.name, wanted.group_size)}"

    def build(directory: Path) -> dict[str, object]:
        write_quantized(path, directory, wanted, progress=progress)
        return {"name": label, "kind": QUANTIZED, "scheme": wanted.name, "source_sha256": source}

    build_once(target, build, progress)
    return target


def _checkpoint(
    path: Path,
    name: str,
    *,
    load_format: str,
    scheme: str,
    engine_method: bool,
    weights_bytes: int | None,
    parameters: int | None,
) -> Checkpoint:
    config = entries.text_of(headers.read_json(path / "config.json"))
    return Checkpoint(
        path=str(path),
        name=name,
        load_format=load_format,
        vllm_quantization=scheme if engine_method else None,
        scheme=scheme,
        weights_bytes=None if engine_method else weights_bytes,
        parameters=parameters,
        hidden_size=config.get("hidden_size"),
        num_layers=entries.layer_count(config),
        max_model_len=config.get("max_position_embeddings"),
        kv_bytes_per_token=architecture.kv_bytes_per_token(config),
    )


def unknown_model(model: str, path: Path, hint: str = "") -> UnknownModel:
    """The error for a model that is neither known, nor a directory, nor a hub's; `hint` is added to its message."""
    if path.is_file():
        return UnknownModel(f"model {model!r} is a file; name the directory that holds its config.json.")
    near = difflib.get_close_matches(model.lower(), models(), n=3, cutoff=0.5)
    nearest = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownModel(
        f"There is no model {model!r}.{nearest} A model is a known name ({', '.join(models())}), a directory that "
        "exists, or a repository on the hub as organisation/name."
        f"{' ' + hint if hint else ''}"
    )
