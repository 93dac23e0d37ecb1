"""What of a model's weights and layers each GPU holds under tensor and pipeline parallelism, as vLLM divides them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalogs import Gpu
from planning.errors import BadInput
from planning.memory import kv
from planning.memory.shapes import VOCABULARY, Shape

# Linear layers divided along their outputs and along their inputs; all others are repeated on every GPU.
_BY_OUTPUT = ("q_proj", "gate_proj", "up_proj", "w1", "w3", "q_b_proj", "kv_b_proj", "gate_up_proj", "qkv_proj")
_BY_INPUT = ("o_proj", "down_proj", "w2")
_BY_KV_HEAD = ("k_proj", "v_proj")
# Leaves that hold one value per output, or none per input: whole on each GPU of a layer divided along its inputs.
_NOT_BY_INPUT = ("bias", "weight_shape")


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
    heads, tensor = shape.text.get("num_attention_heads"), setting.tensor_parallel
    if setting.pipeline_parallel > shape.layers:
        return f"pipeline_parallel = {setting.pipeline_parallel} is more than the model's {shape.layers} layers."
    if tensor == 1 or not isinstance(heads, int):
        return None
    if heads % tensor:
        fitting = [str(n) for n in range(1, heads + 1) if heads % n == 0 and n <= 16]
        return (
            f"tensor_parallel = {tensor} does not divide the model's {heads} attention heads; {', '.join(fitting)} do."
        )
    kv_heads = int(shape.text.get("num_key_value_heads") or heads)
    if not shape.text.get("kv_lora_rank") and kv_heads % tensor and tensor % kv_heads:
        return f"tensor_parallel = {tensor} neither divides nor is a multiple of the {kv_heads} key-value heads."
    inner = shape.text.get("moe_intermediate_size") or shape.text.get("intermediate_size")
    group = 128 if shape.scheme in ("w4a16", "awq", "gptq") else 1
    if isinstance(inner, int) and inner % (tensor * group):
        groups = f" in whole groups of {group}" if group > 1 else ""
        return f"tensor_parallel = {tensor} does not divide the feed-forward width of {inner:,}{groups}."
    return None


def stages(shape: Shape, setting: Setting) -> tuple[Stage, ...]:
    """Return the stages of the pipeline. Raises BadInput when vLLM would refuse to divide the model so."""
    if why := refusal(shape, setting):
        raise BadInput(f"{shape.name}: {why}")
    bounds = _bounds(shape.layers, setting.pipeline_parallel)
    weights = [0.0] * len(bounds)
    kv_heads = int(shape.text.get("num_key_value_heads") or shape.text.get("num_attention_heads") or 1)
    stage_of = {layer: index for index, (first, last) in enumerate(bounds) for layer in range(first, last + 1)}
    has_head = any(module == "lm_head" for _, module, _ in shape.portions)
    for (layer, module, leaf), stored_bytes in shape.portions.items():
        held = stored_bytes * _held(module, leaf, setting.tensor_parallel, kv_heads)
        if layer in stage_of:
            weights[stage_of[layer]] += held
        elif module == "lm_head" or module not in VOCABULARY:
            weights[-1] += held  # head and final norm
        else:
            weights[0] += held
            if not has_head and len(bounds) > 1:
                weights[-1] += held  # tied embeddings are needed at both ends
    return tuple(Stage(held, first, last) for held, (first, last) in zip(weights, bounds, strict=True))


def _held(module: str, leaf: str, tensor_parallel: int, kv_heads: int) -> float:
    whole_values = leaf in ("g_idx", "weight_shape")
    if tensor_parallel == 1:
        return 1.0
    if module in VOCABULARY or (module in _BY_OUTPUT and not whole_values):
        return 1 / tensor_parallel
    if module in _BY_KV_HEAD and not whole_values:
        return 1 / min(tensor_parallel, kv_heads)
    if module in _BY_INPUT and leaf not in _NOT_BY_INPUT:
        return 1 / tensor_parallel
    return 1.0


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
