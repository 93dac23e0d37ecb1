"""The smallest number of each kind of GPU on which a model fits. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planning.catalog_entries import Gpu, Spread
from planning.catalogs import Catalog
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting, refusal
from planning.memory.vram import Estimate, estimate

NODE_COUNTS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class GpuSet:
    """The smallest number of one kind of GPU on which a model fits, and what it costs (None: no price is known)."""

    gpu: Gpu
    gpus: int
    estimate: Estimate
    usd_per_hour: Spread | None
    buy_usd: Spread | None


def smallest_sets(
    shape: Shape,
    catalog: Catalog,
    setting: Setting | None = None,
    *,
    context_tokens: int | None = None,
    concurrency: int = 1,
) -> list[GpuSet]:
    """Return for each kind of GPU the smallest number on which the model fits, the cheapest per hour first.

    Within a machine the GPUs work tensor-parallel (1, 2, 4, 8), machines of them pipeline-parallel. Kinds without an
    hourly price come last; kinds that do not fit in 8 machines are left out.
    """
    setting = setting or Setting()
    found = []
    for gpu in catalog.gpus.values():
        for tensor, pipeline in _layouts(gpu):
            tried = _with(setting, tensor, pipeline)
            if refusal(shape, tried):
                continue
            made = estimate(shape, gpu, tried, context_tokens=context_tokens, concurrency=concurrency)
            if made.fits:
                rent, buy = gpu.rent_usd_per_hour, gpu.buy_usd
                count = tried.gpus
                found.append(GpuSet(gpu, count, made, rent and rent.times(count), buy and buy.times(count)))
                break
    return sorted(found, key=lambda one: (one.usd_per_hour.mode if one.usd_per_hour else float("inf"), one.gpus))


def _layouts(gpu: Gpu) -> list[tuple[int, int]]:
    inside = [(count, 1) for count in (1, 2, 4, 8) if count <= gpu.per_node]
    widest = inside[-1][0]
    return inside + [(widest, nodes) for nodes in NODE_COUNTS[1:]]


def _with(setting: Setting, tensor: int, pipeline: int) -> Setting:
    return Setting(**{**_fields(setting), "tensor_parallel": tensor, "pipeline_parallel": pipeline})


def _fields(setting: Setting) -> Mapping[str, Any]:
    return dict(vars(setting))
