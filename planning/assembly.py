"""A case put together: from a file, a run's measurements, a GPU's prices, and values given by hand, in this order."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from planning.assumptions import EXAMPLE, PERFORMANCE, Case, changed, parse_case
from planning.catalogs import Build, Catalog, Gpu, Price, Spread, gpu_of_run
from planning.errors import BadInput, MissingMeasurement
from planning.measured import with_run
from planning.uncertainty import Quantity

_PART = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = re.compile(rf"({_PART})(?::({_PART}):({_PART}))?")
Given = float | tuple[float, float, float]


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
    api: str | None = None,
    values: Mapping[str, Given] | None = None,
) -> Case:
    """Return the case of a TOML document, with a run's speed, a GPU's prices and single values laid over it.

    A GPU is taken from the run where none is named and the catalog knows the run's. Raises PlanningError's subclasses
    with what would work.
    """
    values = values or {}
    document = dict(document)
    if hosting is not None or gpus is not None:
        table = dict(document.get("hosting") or {})
        table |= {"kind": hosting} if hosting else {}
        document["hosting"] = table | ({"gpus_per_replica": gpus} if gpus else {})
    if api is not None:
        document["api"] = {"model": api}
    named = catalog.gpu(gpu) if gpu else None
    own_prices = {"rent_usd_per_gpu_hour", "hardware_usd"} & set(document.get("inputs") or {})
    if source == EXAMPLE and named is not None and named.name != (document.get("hosting") or {}).get("gpu"):
        if run is None and not any(name in values for name in PERFORMANCE):
            raise MissingMeasurement(
                f"How fast a replica on {named.name} is, is not known: the example's speed is that of another GPU. "
                "Give a run measured on it (--run), or --set output_tok_s=LOW:LIKELY:HIGH."
            )
        own_prices = set()
    keep_mix = source != EXAMPLE and "requests" in document
    case = parse_case(document, source=source, measured=run is not None or any(name in values for name in PERFORMANCE))
    if run is not None:
        case = with_run(case, run, engine=engine, keep_mix=keep_mix)
    chosen = named or (gpu_of_run(run, catalog) if run is not None and not own_prices else None)
    if chosen is not None:
        case = with_gpu(case, chosen, catalog)
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
