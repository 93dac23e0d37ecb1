"""How fast a GPU can be at best: bounds of prefill and decode from bandwidth and compute. Pure.

Decode: each step reads the weights once and every sequence's cache, so
    tokens/s ≤ bandwidth / (weight bytes + batch · context · KV bytes per token) · batch,
and no more than compute / (2 · parameters). Prefill: tokens/s ≤ FLOPS · MFU / (2 · active parameters).
Weight bytes are those that a step reads: not the embedding table, of which it reads a row per sequence. Parameters are
those that a token is multiplied with. Links between GPUs are taken to be free, so these are bounds, not predictions: a
figure above one was not measured right or not on that GPU, a figure far below says that something else limits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalog_entries import Gpu
from planning.errors import BadInput
from planning.memory import kv
from planning.memory.shapes import Shape

_COMPUTE = {
    "fp8": "fp8",
    "w8a8-fp8": "fp8",
    "w8a8-int8": "int8",
    "w4a8": "int8",
}  # schemes that also multiply in fewer bits; the others multiply in 16
BANDWIDTH, COMPUTE = "bandwidth", "compute"
# A clock may run above its nominal rate and a window may cut a step: above this ratio a figure is called impossible.
TOLERANCE = 1.02


@dataclass(frozen=True)
class DecodeBound:
    """The most output tokens per second of a batch of sequences, and what a step reads.

    `ceiling_tok_s` is the bound if all sequences of a mixture of experts chose the same experts; equal to `tok_s` for a
    dense model.
    """

    tok_s: float
    ceiling_tok_s: float
    batch: float
    context_tokens: float
    weights_read_bytes: float
    kv_read_bytes: float
    limited_by: str

    @property
    def step_s(self) -> float:
        """The least time between two tokens of one sequence."""
        return self.batch / self.tok_s


@dataclass(frozen=True)
class PrefillBound:
    """The most prompt tokens per second at a share of peak compute (`mfu`)."""

    tok_s: float
    mfu: float

    def ttft_s(self, prompt_tokens: float) -> float:
        """Return the least time from the start of a prompt's computation to its first token."""
        return prompt_tokens / self.tok_s


@dataclass(frozen=True)
class AboveRoofline:
    """A measured figure that the GPU cannot have reached."""

    cell_id: str
    what: str
    measured_tok_s: float
    bound_tok_s: float

    @property
    def ratio(self) -> float:
        return self.measured_tok_s / self.bound_tok_s


def decode_bound(
    shape: Shape, gpu: Gpu, *, gpus: int = 1, batch: float, context_tokens: float, kv_bytes_per_value: int = 2
) -> DecodeBound:
    """Return the bound of decoding `batch` sequences whose caches hold `context_tokens` on average.

    Raises BadInput for a batch or number of GPUs that is not positive, or an architecture whose cache is not known.
    """
    if batch <= 0 or gpus < 1 or context_tokens < 0:
        raise BadInput(
            f"batch {batch:g}, gpus {gpus} and context {context_tokens:g} cannot be: the least are 1, 1 and 0."
        )
    if shape.caches is None or shape.unknown_layers:
        raise BadInput(f"{shape.name}: how much cache a token needs is not known for this architecture.")
    # Without rounding to blocks: what is read, not what is allotted.
    kv_read = batch * kv.sequence_bytes(
        shape.caches, context_tokens, bytes_per_value=kv_bytes_per_value, block_tokens=1
    )
    bandwidth = gpu.bandwidth_gb_s * 1e9 * gpus
    likely_bytes, floor_bytes = weights_read_bytes(shape, batch), weights_read_bytes(shape, 1)
    most = _decode_compute_tok_s(shape, gpu, gpus)
    by_bandwidth = bandwidth / (likely_bytes + kv_read) * batch
    ceiling = bandwidth / (floor_bytes + kv_read) * batch
    return DecodeBound(
        tok_s=min(by_bandwidth, most),
        ceiling_tok_s=min(ceiling, most),
        batch=batch,
        context_tokens=context_tokens,
        weights_read_bytes=likely_bytes,
        kv_read_bytes=kv_read,
        limited_by=BANDWIDTH if by_bandwidth <= most else COMPUTE,
    )


def weights_read_bytes(shape: Shape, batch: float) -> float:
    """Return the bytes of weights that one decode step reads.

    All but the embedding table (unless it is also the output head), and of a mixture of experts those experts that
    `batch` tokens choose, each at random.
    """
    experts_bytes = shape.expert_bytes
    fixed_bytes = shape.weights_bytes - experts_bytes - shape.embedding_bytes
    return fixed_bytes + experts_bytes * shape.expert_share(batch)


def prefill_bound(shape: Shape, gpu: Gpu, *, gpus: int = 1, mfu: float = 1.0) -> PrefillBound:
    """Return the bound of reading prompts.

    `mfu` 1 is the bound itself; 0.3 to 0.6 is what good kernels reach. Attention's own work is left out, which keeps
    it a bound.
    """
    if not 0 < mfu <= 1:
        raise BadInput(f"mfu = {mfu:g} is the share of peak compute that is reached: above 0, at most 1.")
    flops = _flops(shape, gpu)
    if flops is None or shape.multiplied_parameters is None:
        raise BadInput(
            f"{shape.name} on {gpu.name}: the parameters or the GPU's compute are not known, so no bound is."
        )
    return PrefillBound(flops * gpus * mfu / (2 * shape.multiplied_parameters), mfu)


def above(cells: Iterable[Mapping[str, Any]], shapes: Mapping[str, Shape], gpu: Gpu) -> list[AboveRoofline]:
    """Return the measured figures of a run's cells that lie above the GPU's bounds.

    `cells`: as in run.json. `shapes`: engine name → its model's shape; engines without one are passed over. The batch
    is the mean number of requests in flight, the context the mean prompt and half of the mean answer.
    """
    found = []
    for cell in cells:
        engine, metrics = cell["engine"], cell.get("metrics")
        shape = shapes.get(engine["name"])
        if shape is None or not metrics or shape.kv_bytes_per_token is None:
            continue
        gpus = int(engine.get("tensor_parallel_size") or 1) * int(engine.get("pipeline_parallel_size") or 1)
        if (bound := cell_bound(cell, shape, gpu)) is not None:
            output = metrics.get("output_throughput_tok_s")
            # Drafted tokens are checked together: with speculation one step may give several.
            if output and not engine.get("speculative") and output > bound.ceiling_tok_s * TOLERANCE:
                found.append(AboveRoofline(cell["id"], "output throughput", output, bound.ceiling_tok_s))
        prompt = metrics.get("prompt_throughput_tok_s")
        # Cached prompt tokens are not computed; without knowing how many, nothing can be said.
        if prompt and metrics.get("cached_tokens") == 0 and shape.multiplied_parameters is not None:
            most = prefill_bound(shape, gpu, gpus=gpus).tok_s
            if prompt > most * TOLERANCE:
                found.append(AboveRoofline(cell["id"], "prompt throughput", prompt, most))
    return found


def cell_bound(cell: Mapping[str, Any], shape: Shape, gpu: Gpu) -> DecodeBound | None:
    """Return the decode bound of one cell of a run at its own mean batch and context; None without counts."""
    engine, metrics = cell["engine"], cell.get("metrics") or {}
    served = (metrics.get("requests") or {}).get("ok")
    batch = metrics.get("mean_in_flight") or cell["load"].get("concurrency")
    prompt, output = metrics.get("prompt_tokens"), metrics.get("output_tokens")
    if not served or not batch or prompt is None or output is None:
        return None
    return decode_bound(
        shape,
        gpu,
        gpus=int(engine.get("tensor_parallel_size") or 1) * int(engine.get("pipeline_parallel_size") or 1),
        batch=max(1.0, float(batch)),
        context_tokens=(prompt + output / 2) / served,
        kv_bytes_per_value=1 if str(engine.get("kv_cache_dtype") or "").startswith("fp8") else 2,
    )


def _flops(shape: Shape, gpu: Gpu) -> float | None:
    teraflops = gpu.dense_tflops.get(_COMPUTE.get(shape.scheme, "bf16")) or gpu.dense_tflops.get("bf16")
    teraflops = teraflops or gpu.dense_tflops.get("fp16")
    return None if teraflops is None else teraflops * 1e12


def _decode_compute_tok_s(shape: Shape, gpu: Gpu, gpus: int) -> float:
    flops = _flops(shape, gpu)
    if flops is None or not shape.multiplied_parameters:
        return float("inf")
    return flops * gpus / (2 * shape.multiplied_parameters)
