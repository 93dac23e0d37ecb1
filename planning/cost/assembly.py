"""A case put together: from a file, a run's measurements, a GPU's prices, and values given by hand, in this order."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from planning.catalog_entries import Build, Gpu, Price, Spread
from planning.catalogs import Catalog, gpu_of_run
from planning.cost.assumptions import EXAMPLE, PERFORMANCE, Case, changed, parse_case
from planning.cost.measured import with_run
from planning.cost.uncertainty import Quantity
from planning.cost.unmeasured import with_bounds
from planning.errors import BadInput, MissingMeasurement
from planning.memory.models import read

_PART = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = re.compile(rf"({_PART})(?::({_PART}):({_PART}))?")
Given = float | tuple[float, float, float]
_PRICES = {"rent_usd_per_gpu_hour", "hardware_usd"}


def assemble(
    document: Mapping[str, Any],
    *,
    source: str,
    catalog: Catalog,
    run: Mapping[str, Any] | None = None,
    engine: str | None = None,
    hosting: str | None = None,
    gpu: str | None = None,
    gpus: int | None = None,
    model: str | None = None,
    quantization: str = "none",
    api: str | None = None,
    values: Mapping[str, Given] | None = None,
) -> Case:
    """Return the case of a TOML document, with a run's speed, a GPU's prices and single values laid over it.

    A GPU is taken from the run where none is named and the catalog knows the run's. With a `model` on a `gpu` and no
    run, the speed is a guess from their bounds. Raises PlanningError's subclasses with what would work.
    """
    values = values or {}
    if run is None and engine is not None:
        raise BadInput(f"The engine {engine!r} is one of a run: give the run with --run.")
    if run is not None and model is not None:
        raise BadInput("A run measures what --model only guesses: give one of --run and --model.")
    example = source == EXAMPLE
    document = dict(document)
    if hosting is not None or gpus is not None:
        table = dict(document.get("hosting") or {})
        table |= {"kind": hosting} if hosting else {}
        document["hosting"] = table | ({"gpus_per_replica": gpus} if gpus else {})
    if api is not None:
        document["api"] = {"model": api}
    known = run is not None or model is not None or any(name in values for name in PERFORMANCE)
    named = catalog.gpu(gpu) if gpu else None
    if example and named is not None and not known and named.name != (document.get("hosting") or {}).get("gpu"):
        raise MissingMeasurement(
            f"How fast a replica on {named.name} is, is not known: the example's speed is that of another GPU. Give a "
            "run measured on it (--run), --set output_tok_s=LOW:LIKELY:HIGH, or --model NAME for a guess from bounds."
        )
    case = parse_case(document, source=source, measured=known)
    own = bool(_PRICES & {*values, *(() if example else document.get("inputs") or {})})
    if run is None and named is None and not example and not own:
        named = _gpu_to_price(case, source, catalog)
    if run is not None:
        case = with_run(case, run, engine=engine, keep_mix=not example and "requests" in document)
        case = _priced(case, run, named, catalog, own=own)
    elif named is not None:
        case = with_gpu(case, named, catalog)
        if example:
            case = case.model_copy(update={"name": f"example: {case.hosting.gpus_per_replica} × {named.name}"})
    if model is not None:
        if named is None:
            raise BadInput(f"A guess at the speed of {model} needs the GPU that it runs on: name one with --gpu.")
        case = with_bounds(case, read(model, quantization), named)
    return _set(case, values)


def _gpu_to_price(case: Case, source: str, catalog: Catalog) -> Gpu:
    """The GPU whose catalogued price a case without a price of its own means."""
    if case.hosting.gpu is None:
        price = "rent_usd_per_gpu_hour" if case.hosting.kind == "rent" else "hardware_usd"
        raise BadInput(
            f"{source}: nothing says what the hardware costs. Give {price} in [inputs], or a GPU of the catalog: "
            "gpu in [hosting], or --gpu."
        )
    return catalog.gpu(case.hosting.gpu)


def _priced(case: Case, run: Mapping[str, Any], named: Gpu | None, catalog: Catalog, *, own: bool) -> Case:
    """The case with the price of the GPU that was named, or that the run was made on, unless it has `own` prices."""
    gpu = named or (None if own else gpu_of_run(run, catalog))
    if gpu is not None:
        return with_gpu(case, gpu, catalog)
    unnamed = case.model_copy(update={"hosting": case.hosting.model_copy(update={"gpu": None})})
    devices = (run.get("environment") or {}).get("gpus") or []
    if own or not devices:
        return unnamed
    note = (
        f"The catalog has no {devices[0].get('name')}, on which the run was made: the price is that of another "
        "machine. Give its own."
    )
    return unnamed.model_copy(update={"notes": (*unnamed.notes, note)})


def _set(case: Case, values: Mapping[str, Given]) -> Case:
    """The case with values given by hand."""
    if any(name in values for name in PERFORMANCE):
        # A speed given by hand replaces all that was known of the speed, the goodput of another machine too.
        values = {"output_tok_s": values.get("slo_output_tok_s", 0.0), **values}
        kept = {name: quantity for name, quantity in case.inputs.items() if name != "slo_output_tok_s"}
        case = case.model_copy(update={"inputs": kept})
    return changed(case, values) if values else case


def with_gpu(case: Case, gpu: Gpu, catalog: Catalog) -> Case:
    """Return the case with the catalog's prices of a GPU: its rent, or the price and power of a machine with it.

    Raises BadInput when the catalog has no such price.
    """
    count = case.hosting.gpus_per_replica
    named = case.model_copy(update={"hosting": case.hosting.model_copy(update={"gpu": gpu.name})})
    if case.hosting.kind == "rent":
        rent = gpu.rent_usd_per_hour
        if rent is None:
            raise BadInput(
                f"The catalog has no rent of {gpu.name}. Give it with --set rent_usd_per_gpu_hour=LOW:LIKELY:HIGH, or "
                "put the price into a catalog of your own (nbridge prices)."
            )
        return changed(named, {"rent_usd_per_gpu_hour": _quantity(rent, "USD/h", _where(gpu.rent), _oldest(gpu.rent))})
    build = next((one for one in catalog.builds.values() if one.gpu == gpu.name and one.gpus == count), None)
    if build is None:
        raise BadInput(
            f"The catalog has no machine with {count} × {gpu.name} to buy. Give --set hardware_usd=LOW:LIKELY:HIGH, "
            "load_power_w and idle_power_w, or put the machine into a catalog of your own."
        )
    return changed(named, _machine(build, gpu))


def parse_value(text: str) -> tuple[str, Given]:
    """Return name and value of NAME=VALUE or NAME=LOW:LIKELY:HIGH. Raises BadInput when it is neither."""
    name, sign, value = text.partition("=")
    found = _VALUE.fullmatch(value.strip())
    if not sign or found is None:
        raise BadInput(
            f"--set {text}: expected NAME=NUMBER or NAME=LOW:LIKELY:HIGH, as in wage_usd_per_hour=40:70:120."
        )
    low, mode, high = found.groups()
    return name.strip(), float(low) if mode is None else (float(low), float(mode), float(high))


def _machine(build: Build, gpu: Gpu) -> dict[str, Quantity]:
    made = {
        "hardware_usd": _quantity(build.usd, "USD", build.source, build.retrieved),
        "load_power_w": _quantity(build.power_w, "W", build.source, build.retrieved),
        "upkeep_usd_per_month": _quantity(
            build.maintenance_usd_per_month, "USD/month", f"{build.label}: {build.source}", build.retrieved
        ),
    }
    if gpu.idle_power_w is not None:
        # The machine around the cards at rest.
        idle = gpu.idle_power_w.times(build.gpus)
        around = Spread(low=idle.low + 40, mode=idle.mode + 60, high=idle.high + 90)
        source = f"{gpu.source}; and 40 to 90 W for the machine around it, assumed"
        made["idle_power_w"] = _quantity(around, "W", source, build.retrieved)
    return made


def _quantity(spread: Spread, unit: str, source: str, day: date) -> Quantity:
    return Quantity(low=spread.low, mode=spread.mode, high=spread.high, unit=unit, source=source, date=day)


def _where(prices: tuple[Price, ...]) -> str:
    offers = ", ".join(dict.fromkeys(f"{price.provider} ({price.source})" for price in prices))
    return f"catalog: {offers}"


def _oldest(prices: tuple[Price, ...]) -> date:
    return min(price.retrieved for price in prices)
