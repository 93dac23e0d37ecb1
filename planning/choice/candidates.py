"""What may be chosen: catalogued models at their GPUs' bounds, and the engines of runs as they were measured. Pure."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.catalog import models as known_models
from planning.catalog_entries import Gpu
from planning.catalogs import Catalog
from planning.errors import BadInput
from planning.memory.models import read
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting
from planning.memory.smallest import smallest_sets
from planning.memory.vram import estimate
from planning.speed.capacity import DEFAULT_HEADROOM, is_met, replicas
from planning.speed.roofline import decode_bound, prefill_bound

# The share of a model's quality that rounding its weights costs: the middle of the guide's ranges (§1.4).
QUALITY_LOSS = {
    "none": 0.0,
    "fp8": 0.01,
    "w8a8-int8": 0.01,
    "awq": 0.03,
    "w4a16": 0.04,
    "gptq": 0.04,
    "bitsandbytes": 0.04,
}
QUANTIZATIONS = ("none", "w8a8-int8", "w4a16")


@dataclass(frozen=True)
class Candidate:
    """A model in a quantization on hardware, and what is known of it (None: not known).

    `measured` says whether the speeds were measured or are bounds; `source` says where they come from. `tpot_s` is the
    time per output token, `e2e_s` that of a whole answer. `quality` is a share of right answers (MMLU), lowered by the
    guide's loss for the quantization. `usd_per_mtok` is the rent for a million output tokens at `output_tok_s`.
    """

    model: str
    quantization: str
    gpu: str | None
    gpus: int
    source: str
    measured: bool
    concurrency: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    output_tok_s: float | None = None
    goodput_rps: float | None = None
    quality: float | None = None
    quality_class: str | None = None
    languages: tuple[str, ...] | None = None
    licence_class: str | None = None
    context_tokens: int | None = None
    memory_bytes: float | None = None
    usd_per_hour: float | None = None
    usd_per_mtok: float | None = None
    obstacle: str | None = None

    @property
    def name(self) -> str:
        """Model, quantization and hardware in words."""
        what = self.model if self.quantization == "none" else f"{self.model} {self.quantization}"
        return f"{what} on {self.gpus} × {self.gpu}" if self.gpu else what


def from_catalog(
    catalog: Catalog,
    *,
    gpus: Sequence[tuple[Gpu, int]] = (),
    models: Sequence[str] = (),
    quantizations: Sequence[str] = QUANTIZATIONS,
    prompt_tokens: int = 1024,
    output_tokens: int = 256,
    concurrency: int = 1,
) -> list[Candidate]:
    """Return every catalogued model in every quantization, on the given GPUs or on the smallest set of each kind.

    Its speeds are bounds for `concurrency` requests of these lengths at once.
    """
    found = []
    context = prompt_tokens + output_tokens
    for name in models or tuple(catalog.models):
        for quantization in quantizations:
            shape = read(name, quantization)
            if (shape.context_tokens or context) < context:
                continue
            hardware = gpus or [
                (one.gpu, one.gpus)
                for one in smallest_sets(shape, catalog, context_tokens=context, concurrency=concurrency)
            ]
            for gpu, count in hardware:
                found.append(_bounded(catalog, shape, gpu, count, prompt_tokens, output_tokens, concurrency))
    return found


def from_run(document: Mapping[str, Any], catalog: Catalog, gpu: Gpu | None) -> list[Candidate]:
    """Return each engine and load of a run as a candidate, from its valid cells; of repeats the slowest counts.

    `document` is a run.json; `gpu` what it ran on, None for a machine without a known GPU. Latencies are the p95 where
    there are enough requests for one, else the median.
    """
    slowest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for cell in document.get("cells") or []:
        metrics, validity = cell.get("metrics"), cell.get("validity")
        if cell.get("outcome") != "ok" or not metrics or (validity and not validity["valid"]):
            continue
        key = (cell["engine"]["name"], cell["load"]["name"])
        if key not in slowest or _rate(metrics) < _rate(slowest[key]["metrics"]):
            slowest[key] = cell
    return [_from_cell(str(document.get("run_id")), cell, catalog, gpu) for cell in slowest.values()]


def _rate(metrics: Mapping[str, Any]) -> float:
    """What a cell delivered; one whose tokens nobody counted is not the slowest."""
    rate = metrics.get("output_throughput_tok_s")
    return math.inf if rate is None else float(rate)


def servers(
    candidate: Candidate, peak_rps: float, *, headroom: float = DEFAULT_HEADROOM, spares: int = 1
) -> int | None:
    """Return how many of a measured candidate's servers a peak demand needs, spares included; None without goodput."""
    if not candidate.goodput_rps:
        return None
    return replicas(peak_rps, candidate.goodput_rps, headroom=headroom, spares=spares).total


def _bounded(
    catalog: Catalog, shape: Shape, gpu: Gpu, count: int, prompt_tokens: int, output_tokens: int, concurrency: int
) -> Candidate:
    context = prompt_tokens + output_tokens
    tensor = next(size for size in (8, 4, 2, 1) if size <= gpu.per_node and count % size == 0)
    plain = Candidate(shape.name, shape.scheme, gpu.name, count, "bound", measured=False, **_facts(catalog, shape))
    try:
        setting = Setting(tensor_parallel=tensor, pipeline_parallel=count // tensor)
        made = estimate(shape, gpu, setting, context_tokens=context, concurrency=concurrency)
    except BadInput as error:
        return dataclasses.replace(plain, obstacle=str(error))
    decode = decode_bound(shape, gpu, gpus=count, batch=concurrency, context_tokens=prompt_tokens + output_tokens / 2)
    prefill = prefill_bound(shape, gpu, gpus=count)
    ttft_s = prefill.ttft_s(prompt_tokens)
    rent = gpu.rent_usd_per_hour
    usd_per_hour = rent.mode * count if rent else None
    sequence_bytes = None if made.unknown_layers else made.sequence_bytes(context)
    terms_bytes = sum(term.bytes.mode for term in made.terms)
    return dataclasses.replace(
        plain,
        concurrency=concurrency,
        ttft_s=ttft_s,
        tpot_s=decode.step_s,
        e2e_s=ttft_s + (output_tokens - 1) * decode.step_s,
        output_tok_s=decode.tok_s,
        memory_bytes=None if sequence_bytes is None else count * (terms_bytes + sequence_bytes * concurrency),
        usd_per_hour=usd_per_hour,
        usd_per_mtok=None if usd_per_hour is None else usd_per_hour / 3600 / decode.tok_s * 1e6,
        obstacle=None if made.fits else made.reason,
    )


def _from_cell(run_id: str, cell: Mapping[str, Any], catalog: Catalog, gpu: Gpu | None) -> Candidate:
    engine, metrics = cell["engine"], cell["metrics"]
    count = int(engine.get("tensor_parallel_size") or 1) * int(engine.get("pipeline_parallel_size") or 1)
    shape = read(engine["model"], engine.get("quantization") or "none") if engine["model"] in known_models() else None
    facts = _facts(catalog, shape) if shape else {}
    rent = gpu.rent_usd_per_hour if gpu else None
    rate = metrics.get("output_throughput_tok_s")
    usd_per_hour = rent.mode * count if rent else None
    memory = metrics.get("memory") or {}
    return Candidate(
        model=engine["model"],
        quantization=shape.scheme if shape else engine.get("quantization") or "none",
        gpu=gpu.name if gpu else None,
        gpus=count,
        source=f"run {run_id}, {cell['id']}",
        measured=True,
        concurrency=cell["load"].get("concurrency") or metrics.get("mean_in_flight"),
        ttft_s=_slow(metrics.get("ttft_from_schedule_s") or metrics.get("ttft_s")),
        tpot_s=_slow(metrics.get("tpot_s")),
        e2e_s=_slow(metrics.get("e2e_s")),
        output_tok_s=rate,
        goodput_rps=metrics.get("goodput_rps") if is_met(cell) else None,
        memory_bytes=memory.get("gpu_used_peak_bytes") or memory.get("server_peak_bytes"),
        usd_per_hour=usd_per_hour,
        usd_per_mtok=usd_per_hour / 3600 / rate * 1e6 if usd_per_hour is not None and rate else None,
        **facts,
    )


def _facts(catalog: Catalog, shape: Shape) -> dict[str, Any]:
    facts = catalog.models.get(shape.name)
    loss = QUALITY_LOSS.get(shape.scheme, 0.0)
    return {
        "context_tokens": shape.context_tokens,
        "languages": facts.languages if facts else None,
        "licence_class": facts.licence_class if facts else None,
        "quality_class": facts.quality_class if facts else None,
        "quality": facts.mmlu_share.mode * (1 - loss) if facts and facts.mmlu_share else None,
    }


def _slow(distribution: Mapping[str, Any] | None) -> float | None:
    if not distribution:
        return None
    return next((float(distribution[key]) for key in ("p95", "p50", "mean") if distribution.get(key) is not None), None)
