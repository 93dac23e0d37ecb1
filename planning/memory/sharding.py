"""What of a model's weights and layers each GPU holds under tensor and pipeline parallelism, as vLLM divides them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.tensors import entries
from planning.catalog_entries import Gpu
from planning.errors import BadInput
from planning.memory import kv
from planning.memory.placement import BY_KV, DIVIDED, HEAD, TABLE, TOWER, WAYS, WHOLE, Place
from planning.memory.shapes import Shape


@dataclass(frozen=True)
class Setting:
    """How an engine is started, as far as memory goes; None leaves a value to vLLM's own default for the GPU.

    The defaults are vLLM 0.32's. `kv_cache_dtype`: "auto" (16 bit) or "fp8".
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory_utilization: float = 0.92
    kv_cache_dtype: str = "auto"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_tokens: int = kv.BLOCK_TOKENS
    graphs: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization <= 1:
            raise BadInput(
                f"gpu_memory_utilization = {self.gpu_memory_utilization:g} is the share of a GPU's memory that vLLM "
                "may use: above 0 and at most 1, usually 0.9."
            )
        if not (self.kv_cache_dtype in ("auto", "bfloat16", "float16") or self.kv_cache_dtype.startswith("fp8")):
            raise BadInput(f"kv_cache_dtype {self.kv_cache_dtype!r} is not known here; auto (16 bit) and fp8 are.")
        for name in ("tensor_parallel", "pipeline_parallel", "max_num_seqs", "max_num_batched_tokens", "block_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} = {value}: at least 1 is needed.")

    @property
    def gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def kv_bytes_per_value(self) -> int:
        """The bytes of a cached value, where the checkpoint does not ask for another type itself ("auto")."""
        return 1 if self.kv_cache_dtype.startswith("fp8") else 2

    def batch(self, gpu: Gpu) -> tuple[int, int]:
        """Return (max_num_seqs, max_num_batched_tokens) in force on a GPU: those given, else vLLM 0.32's defaults."""
        sequences, tokens = 256, 2048
        if gpu.memory_gb >= 160:
            sequences, tokens = 1024, 16384
        elif gpu.memory_gb >= 70 and not gpu.name.startswith("a100"):
            sequences, tokens = 1024, 8192
        return self.max_num_seqs or sequences, self.max_num_batched_tokens or tokens


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, as one of its GPUs holds it."""

    weights_bytes: float
    first_layer: int
    last_layer: int

    @property
    def layers(self) -> range:
        return range(self.first_layer, self.last_layer + 1)


def refusal(shape: Shape, setting: Setting) -> str | None:
    """Return why vLLM would refuse to divide the model in this way; None when it would not."""
    found, tensor = entries.heads_of(shape.config), setting.tensor_parallel
    if setting.pipeline_parallel > shape.layers:
        return f"pipeline_parallel = {setting.pipeline_parallel} is more than the model's {shape.layers} layers."
    if tensor == 1 or found is None:
        return None
    heads, kv_heads = found
    if heads % tensor:
        fitting = [str(n) for n in range(1, heads + 1) if heads % n == 0 and n <= 16]
        return (
            f"tensor_parallel = {tensor} does not divide the model's {heads} attention heads; {', '.join(fitting)} do."
        )
    if not shape.text.get("kv_lora_rank") and kv_heads % tensor and tensor % kv_heads:
        return f"tensor_parallel = {tensor} neither divides nor is a multiple of the {kv_heads} key-value heads."
    inner = shape.text.get("moe_intermediate_size") or shape.text.get("intermediate_size")
    group = 128 if shape.scheme in ("w4a16", "awq", "gptq", "w4a8", "w8a16") else 1
    if isinstance(inner, int) and inner % (tensor * group):
        groups = f" in whole groups of {group}" if group > 1 else ""
        return f"tensor_parallel = {tensor} does not divide the feed-forward width of {inner:,}{groups}."
    return None


def stages(shape: Shape, setting: Setting) -> tuple[Stage, ...]:
    """Return the stages of the pipeline. Raises BadInput when vLLM would refuse to divide the model so."""
    if why := refusal(shape, setting):
        raise BadInput(f"{shape.name}: {why}")
    shares = {way: share(way, entries.heads_of(shape.config), setting.tensor_parallel) for way in WAYS}
    held = {place: size * shares[place.way] for place, size in shape.portions.items()}
    return placed(held, shape.layers, setting.pipeline_parallel)


def placed(held: Mapping[Place, float], layer_count: int, stages_count: int) -> tuple[Stage, ...]:
    """Return the stages of a pipeline that holds these bytes: layers where they are, the vocabulary at the ends."""
    bounds = _bounds(layer_count, stages_count)
    weights = [0.0] * len(bounds)
    stage_of = {layer: index for index, (first, last) in enumerate(bounds) for layer in range(first, last + 1)}
    has_head = any(place.part == HEAD for place in held)
    for place, size in held.items():
        if place.layer in stage_of:
            weights[stage_of[place.layer]] += size
        elif place.part == TABLE:
            weights[0] += size
            if not has_head and len(bounds) > 1:
                weights[-1] += size  # tied embeddings are needed at both ends
        else:
            weights[0 if place.part == TOWER else -1] += size  # head and final norm come last
    return tuple(Stage(size, first, last) for size, (first, last) in zip(weights, bounds, strict=True))


def share(way: str, heads: tuple[int, int] | None, tensor_parallel: int) -> float:
    """Return the share of a tensor that each of the tensor-parallel GPUs holds."""
    if way == WHOLE or tensor_parallel == 1:
        return 1.0
    if way == DIVIDED or heads is None:
        return 1 / tensor_parallel
    query, key = heads
    of_key = -(-key // tensor_parallel)
    if way == BY_KV:
        return of_key / key
    return (query / tensor_parallel + 2 * of_key) / (query + 2 * key)


def _bounds(layers: int, stages_count: int) -> list[tuple[int, int]]:
    # vLLM gives the layers that are left over to the stages before the last, from the back.
    counts = [layers // stages_count] * stages_count
    for index in range(2, layers % stages_count + 2):
        counts[-index] += 1
    bounds, first = [], 0
    for count in counts:
        bounds.append((first, first + count - 1))
        first += count
    return bounds


def text_value(config: Mapping[str, Any], name: str) -> int:
    """Return a whole number of the configuration; 0 when it is not there."""
    value = config.get(name)
    return value if isinstance(value, int) else 0
