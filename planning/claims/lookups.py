"""What a claim's inputs are: stated numbers, list prices, a model's sizes, a GPU's figures, bounds, other claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from inputs.quantities import count
from planning import catalogs
from planning.catalog_entries import Gpu
from planning.claims.claimfile import Given
from planning.claims.formula import Span
from planning.cost import api_prices
from planning.errors import BadInput, unknown
from planning.memory import models
from planning.memory.shapes import Shape
from planning.speed import roofline

_GB = 1e9


@dataclass(frozen=True)
class Looked:
    """An input's value as a range, its unit, and where it is from."""

    span: Span
    unit: str
    source: str


def look_up(given: Given, spans: Mapping[str, tuple[Span, Span | None]], on: date | None) -> Looked:
    """Return an input's value. `spans` holds what earlier claims claimed and came to, `on` the day of API prices.

    Raises UnknownName or BadInput when there is no such model, GPU, figure or earlier claim.
    """
    if given.api is not None:
        models = (given.api,) if isinstance(given.api, str) else given.api
        return _span_of([_api(given, model, on) for model in models])
    if given.claim is not None:
        return _claim(given, given.claim, spans)
    if given.bound is not None:
        return _bound(given)
    if given.figure is not None:
        return _figure_of(given)
    low, high = (given.value, given.value) if given.value is not None else (given.low, given.high)
    assert low is not None and high is not None  # noqa: S101 (the file's own check; this tells the type checker)
    return Looked((low, high), given.unit, given.source or "stated")


def _figure_of(given: Given) -> Looked:
    if given.model is not None:
        shape = models.read(given.model, given.quantization)
        value, unit = _figure(given, f"figure of {given.model}", _MODEL_FIGURES, shape)
        how = f", {given.quantization}" if given.quantization != "none" else ""
        return Looked((value, value), unit, given.source or f"computed from the architecture of {given.model}{how}")
    gpu = catalogs.load().gpu(given.gpu or "")
    value, unit = _figure(given, f"figure of {given.gpu}", _GPU_FIGURES, gpu)
    return Looked((value, value), unit, given.source or f"{gpu.label}: {gpu.source}")


def _api(given: Given, model: str, on: date | None) -> Looked:
    price = api_prices.find(model, on=on)
    standard, batch = price.standard, price.batch or price.standard
    rates = {
        "input": (standard.input.base,),
        "output": (standard.output.base,),
        "both": (standard.input.base, standard.output.base),
        "batch": (batch.input.base, batch.output.base),
        "batch_input": (batch.input.base,),
        "batch_output": (batch.output.base,),
        "cache_read": ((standard.cache_read or standard.input).base,),
    }[given.rate]
    source = f"{price.name} on {price.on}, {price.package}"
    return Looked((min(rates), max(rates)), "USD/M tokens", source)


def _span_of(prices: list[Looked]) -> Looked:
    """The cheapest to the dearest of several."""
    lows, highs = zip(*(price.span for price in prices), strict=True)
    return Looked((min(lows), max(highs)), prices[0].unit, "; ".join(price.source for price in prices))


def _claim(given: Given, name: str, spans: Mapping[str, tuple[Span, Span | None]]) -> Looked:
    if name not in spans:
        raise BadInput(f"An input refers to the claim {name!r}, which does not stand above it. {_known(spans)}")
    claimed, corrected = spans[name]
    if given.side == "claimed":
        return Looked(claimed, given.unit, f"claimed in {name}")
    if corrected is None:
        raise BadInput(f'An input takes the corrected value of {name!r}, which has none. Take `side = "claimed"`.')
    return Looked(corrected, given.unit, f"corrected in {name}")


def _known(spans: Mapping[str, object]) -> str:
    return f"Above it stand: {', '.join(spans)}." if spans else "It is the first claim."


def _bound(given: Given) -> Looked:
    shape, gpu = models.read(given.model or "", given.quantization), catalogs.load().gpu(given.gpu or "")
    many = f"{given.gpus} × " if given.gpus > 1 else ""
    where = f"{given.model} on {many}{gpu.label}"
    if given.bound == "decode":
        tok_s = roofline.decode_bound(
            shape, gpu, gpus=given.gpus, batch=given.batch, context_tokens=given.context_tokens
        ).ceiling_tok_s
        how = f"at batch {given.batch:g}, context {count(given.context_tokens)}"
        return Looked((tok_s, tok_s), "tok/s", f"roofline: {where} {how}")
    tok_s = roofline.prefill_bound(shape, gpu, gpus=given.gpus).tok_s
    return Looked((tok_s, tok_s), "tok/s", f"roofline: {where}, prefill")


def _figure(
    given: Given, kind: str, figures: Mapping[str, tuple[Callable[[Any], float | None], str]], of: Shape | Gpu
) -> tuple[float, str]:
    name = given.figure or ""
    if name not in figures:
        raise unknown(kind, name, figures)
    read, unit = figures[name]
    value = read(of)
    if value is None:
        raise BadInput(f"{kind[:1].upper()}{kind[1:]}: {name} is not known.")
    return value, unit


_MODEL_FIGURES: dict[str, tuple[Callable[[Shape], float | None], str]] = {
    "parameters": (lambda shape: shape.parameters, "parameters"),
    "active_parameters": (lambda shape: shape.active_parameters, "parameters"),
    "weights_gb": (lambda shape: shape.weights_bytes / _GB, "GB"),
    "kv_bytes_per_token": (lambda shape: shape.kv_bytes_per_token, "bytes"),
    "hidden_size": (lambda shape: float(shape.text["hidden_size"]), ""),
    "layers": (lambda shape: float(shape.layers), ""),
}
_GPU_FIGURES: dict[str, tuple[Callable[[Gpu], float | None], str]] = {
    "memory_gb": (lambda gpu: gpu.memory_gb, "GB"),
    "bandwidth_gb_s": (lambda gpu: gpu.bandwidth_gb_s, "GB/s"),
    "power_w": (lambda gpu: gpu.power_w, "W"),
}
