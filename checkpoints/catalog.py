"""The models known by name: the demo models and the catalogued architectures, and how a weight-less one is made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checkpoints import tokenizer
from checkpoints.cache import Progress, build_once, checkpoints_dir, file_sha256, key, silent
from checkpoints.errors import BadCheckpoint, BadScheme
from checkpoints.tensors import architecture, entries, schemes

TRAINED, WEIGHTLESS, QUANTIZED = "trained", "weightless", "quantized"
_DATA_PATH = Path(__file__).parent / "data" / "architectures.json"
# Raise when what is written into a weight-less directory changes.
_RECIPE = 2
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")
_WITH_TOKENIZERS = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_BESIDE = ("hf_quant_config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Model:
    """A model known by name: `kind` is "trained" or "weightless", `config` its config.json, `seed` its training's."""

    name: str
    kind: str
    about: str
    hub_name: str | None
    config: Mapping[str, Any]
    seed: int = 0

    def stored(self) -> dict[str, schemes.Stored]:
        """Return name → type and shape of its tensors at 16 bit."""
        return {name: schemes.Stored("BF16", shape) for name, shape in architecture.tensor_shapes(self.config).items()}


@cache
def models() -> Mapping[str, Model]:
    """Return name → model, in the order to list them."""
    document = json.loads(_DATA_PATH.read_text(encoding="utf-8"))
    return MappingProxyType({name: Model(name=name, **entry) for name, entry in document.items()})


def weightless_directory(model: Model, wanted: schemes.Wanted, progress: Progress = silent) -> Path:
    """Return a cached directory of everything but the weights, for an engine's `--load-format dummy`.

    config.json has the published sizes and settings; its begin and end tokens are the small tokenizer's own, and
    a scheme adds its `quantization_config`.
    """
    config = {
        **model.config,
        "bos_token_id": tokenizer.BOS_ID,
        "eos_token_id": tokenizer.EOS_ID,
        # Without a version, transformers takes a large vocabulary for an old Mistral tokenizer and warns about it.
        "transformers_version": "5.0.0",
    }
    if wanted.scheme in schemes.WRITTEN:
        config["quantization_config"] = _quantization(model.config, wanted)
    recipe = key(_RECIPE, config, file_sha256(tokenizer.TOKENIZER_PATH))
    target = checkpoints_dir() / f"{model.name}-{wanted.name}-{recipe}"

    def build(directory: Path) -> dict[str, Any]:
        write_config(directory, config)
        tokenizer.write(
            directory,
            vocab_size=int(config["vocab_size"]),
            max_model_len=int(config["max_position_embeddings"]),
            special=False,
        )
        return {"name": model.name, "kind": WEIGHTLESS, "scheme": wanted.name}

    build_once(target, build, progress)
    return target


def completed(path: Path, config: Mapping[str, Any], wanted: schemes.Wanted, progress: Progress = silent) -> Path:
    """Return a directory without weights that an engine can serve with random ones: itself, or a cached copy with what
    it lacks.

    Without a tokenizer it gets the small one, with that one's begin and end tokens, and a scheme that is written here
    adds its `quantization_config`. Raises BadCheckpoint when the vocabulary is smaller than the small tokenizer, and
    BadScheme for an architecture whose tensors are not known.
    """
    tokenizers = [name for name in _TOKENIZER_FILES if (path / name).is_file()]
    written = wanted.scheme in schemes.WRITTEN
    if tokenizers and not written:
        return path
    text = entries.text_of(config)
    own = {**config, "quantization_config": _quantization(config, wanted)} if written else dict(config)
    if not tokenizers:
        ends = {"bos_token_id": tokenizer.BOS_ID, "eos_token_id": tokenizer.EOS_ID}
        nested = next((key for key, value in config.items() if value is text), None)
        own |= ends if nested is None else {**ends, nested: {**text, **ends}}
    given, longest = text.get("vocab_size"), text.get("max_position_embeddings")
    vocabulary = given if isinstance(given, int) else 0
    if not tokenizers and vocabulary < tokenizer.VOCAB_SIZE:
        raise BadCheckpoint(
            f"{path} has no tokenizer, and its vocabulary (vocab_size = {given!r}) is smaller than the "
            f"{tokenizer.VOCAB_SIZE:,} of the one that is made for directories without weights. Put a tokenizer "
            "into it, or download the whole model with `nbridge fetch`."
        )
    beside = (*_BESIDE, *_TOKENIZER_FILES, *_WITH_TOKENIZERS) if tokenizers else _BESIDE
    kept = [name for name in beside if (path / name).is_file()]
    made_of = [file_sha256(path / name) for name in kept] if tokenizers else file_sha256(tokenizer.TOKENIZER_PATH)
    label = f"{path.resolve().name}-random{f'-{wanted.name}' if written else ''}"
    target = checkpoints_dir() / f"{label}-{key(_RECIPE, own, made_of)}"

    def build(directory: Path) -> dict[str, Any]:
        write_config(directory, own)
        for name in kept:
            (directory / name).write_bytes((path / name).read_bytes())
        if not tokenizers:
            tokenizer.write(
                directory,
                vocab_size=vocabulary,
                max_model_len=longest if isinstance(longest, int) else 8192,
                special=False,
            )
        return {"name": path.resolve().name, "kind": WEIGHTLESS, "scheme": schemes.scheme_of(own)}

    build_once(target, build, progress)
    return target


def _quantization(config: Mapping[str, Any], wanted: schemes.Wanted) -> dict[str, Any]:
    """The `quantization_config` of a scheme for an architecture's tensors. Raises BadScheme."""
    if not architecture.is_known(config):
        raise BadScheme(
            f"What {wanted.name} would quantize of a model_type {config.get('model_type')!r} without weights is not "
            "known here. Take quantization none, one of vLLM's own (fp8), or a directory with weights."
        )
    shapes = architecture.tensor_shapes(config)
    for name, shape in shapes.items():
        if schemes.is_quantized(name, shape):
            schemes.check_fits(name, shape, wanted.scheme, wanted.group_size)
    return schemes.quantization_config(wanted.scheme, wanted.group_size, schemes.ignored_modules(shapes))


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write config.json and generation_config.json into a directory."""
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
