"""The dated facts that planning rests on: GPUs, models, machines to buy, with prices, sources and ages.

The shipped files are `planning/catalog/*.toml`. A file of the user's own (given, or named by NBRIDGE_CATALOG) has the
same tables and overrides them by name: an entry that is known gets the values that the file gives, a list of prices
replaces the whole list, a new entry must be complete.

    [[gpus]]
    name = "rtx-4090"
    [[gpus.rent]]
    usd = { low = 0.30, mode = 0.35, high = 0.45 }      # or a number; for `gpus` GPUs together
    provider = "our contract"
    term = "reserved"                                   # buy, on-demand, reserved, spot
    source = "quote 4711"
    retrieved = 2026-11-02
"""

import datetime
import os
import re
import tomllib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inputs import files
from planning.catalog_entries import Build, Entry, Gpu, ModelFacts, Price
from planning.errors import BadCatalog, unknown

GIB = 1 << 30
STALE_AFTER_DAYS = 90
OWN_FILE_VARIABLE = "NBRIDGE_CATALOG"
SHIPPED = Path(__file__).parent / "catalog"
_FILES = ("gpus.toml", "models.toml", "builds.toml")
_TABLES = ("gpus", "models", "builds")
# In a device's name: another card than the one that the rest of the name means, or a slice of it.
_OTHER_CARDS = {"laptop", "mobile", "max", "mig", "d", "ti", "super", "se", "lite"}
# A slice of a card by NVIDIA's vGPU: "NVIDIA L40S-12Q", "GRID A100-2-10C".
_VIRTUAL = re.compile(r"-\d+[abcq]\b", re.IGNORECASE)
QUALITY_CLASSES = ("high", "very-high", "excellent")


class _Tables(Entry):
    gpus: tuple[Gpu, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    builds: tuple[Build, ...] = ()


@dataclass(frozen=True)
class Stale:
    """A price that is older than 90 days; `of` is the GPU or machine whose it is."""

    what: str
    source: str
    retrieved: datetime.date
    age_days: int
    of: str


@dataclass(frozen=True)
class Catalog:
    """All entries by name, and the files that they came from."""

    gpus: Mapping[str, Gpu]
    models: Mapping[str, ModelFacts]
    builds: Mapping[str, Build]
    files: tuple[str, ...]

    def gpu(self, name: str) -> Gpu:
        """Return a GPU by its name, as the catalog, a driver or a person writes it.

        Raises UnknownName with the nearest names, those of the same chip first.
        """
        if found := self.gpus.get(_plain(name)) or recognise(name, self):
            return found
        typed = _compact(name)
        same = [one for one, gpu in self.gpus.items() if any(_compact(word) in typed for word in _chips(gpu))]
        raise unknown("GPU", name.strip(), self.gpus, "Another GPU can be described in a file of your own.", same)

    def build(self, name: str) -> Build:
        """Return a machine by its name. Raises UnknownName with the nearest names."""
        if found := self.builds.get(_plain(name)):
            return found
        raise unknown("build", _plain(name), self.builds)

    def prices(self) -> Iterator[tuple[str, Price]]:
        """Every price of a GPU, with the GPU's name."""
        for gpu in self.gpus.values():
            for price in (*gpu.buy, *gpu.rent):
                yield gpu.name, price

    def stale(self, today: datetime.date) -> list[Stale]:
        """Return the prices that are older than 90 days on a day, the oldest first."""
        dated = [
            (name, f"{name} ({price.term}, {price.provider})", price.source, price.retrieved)
            for name, price in self.prices()
        ]
        dated += [(one.name, f"{one.name} (parts)", one.source, one.retrieved) for one in self.builds.values()]
        found = [Stale(what, source, day, (today - day).days, of) for of, what, source, day in dated]
        return sorted((one for one in found if one.age_days > STALE_AFTER_DAYS), key=lambda one: -one.age_days)


def stale_note(catalog: Catalog, today: datetime.date, used: Container[str] | None = None) -> str | None:
    """Return one sentence about prices that are too old to be relied on; None when there are none.

    `used`: the GPUs whose prices an answer rests on; None for all prices of the catalog.
    """
    stale = [one for one in catalog.stale(today) if used is None or one.of in used]
    if not stale:
        return None
    oldest = stale[0]
    return (
        f"{len(stale)} of the prices in use are older than {STALE_AFTER_DAYS} days (the oldest: {oldest.what}, "
        f"{oldest.age_days} days). `nbridge prices` lists them; put today's into a file of your own."
    )


def load(own: Path | None = None) -> Catalog:
    """Return the shipped entries, overridden by the user's own file.

    `own` None takes the file that NBRIDGE_CATALOG names, if it is set. Raises BadCatalog, naming file, entry and
    value, when a file is missing or not valid.
    """
    if own is None and (named := os.environ.get(OWN_FILE_VARIABLE)):
        own = Path(named)
    merged: dict[str, dict[str, dict[str, Any]]] = {table: {} for table in _TABLES}
    files = [*(SHIPPED / name for name in _FILES), *([own] if own else [])]
    for path in files:
        _merge(merged, _read(path), path)
        # Checked file by file, so that a message names the file that is wrong.
        tables = _validated(merged, path)
    return Catalog(
        gpus={gpu.name: gpu for gpu in tables.gpus},
        models={model.name: model for model in tables.models},
        builds={build.name: build for build in tables.builds},
        files=tuple(str(path) for path in files),
    )


def recognise(device_name: str, catalog: Catalog) -> Gpu | None:
    """Return the GPU that a driver's name of a device means; None when it is not in the catalog.

    "NVIDIA A100-SXM4-80GB" is a100-80gb, "RTX4090" rtx-4090; a name that does not say which of two memory sizes it is
    gives None, and so do a slice of a card (MIG, vGPU) and a card that only shares its number (RTX 4090 D, Laptop).
    """
    words = set(re.findall(r"[a-z]+\d*[a-z]*|\d+[a-z]*", device_name.lower()))
    if words & _OTHER_CARDS or _VIRTUAL.search(device_name):
        return None
    fitting = [
        (len(name), gpu)
        for gpu in catalog.gpus.values()
        for name in (gpu.name, *gpu.also)
        if set(name.split("-")) <= words or _compact(name) == _compact(device_name)
    ]
    return max(fitting, key=lambda one: one[0], default=(0, None))[1]


def gpu_of_run(document: Mapping[str, Any], catalog: Catalog) -> Gpu | None:
    """Return the GPU of a run.json: the one that its plan's [cost] table names, else the machine's own; else None.

    Raises UnknownName when the plan names one that the catalog does not have.
    """
    named = ((document.get("plan") or {}).get("cost") or {}).get("gpu")
    if named:
        return catalog.gpu(str(named))
    devices = (document.get("environment") or {}).get("gpus") or []
    return recognise(str(devices[0].get("name") or ""), catalog) if devices else None


def measured_on(document: Mapping[str, Any], catalog: Catalog) -> Gpu | None:
    """Return the GPU that a run.json was measured on; None when its machine had none, or none that is known.

    A device whose name is not recognised is the one that the plan's [cost] table names.
    """
    if not (document.get("environment") or {}).get("gpus"):
        return None
    without_plan = {**document, "plan": {}}
    return gpu_of_run(without_plan, catalog) or gpu_of_run(document, catalog)


def _compact(name: str) -> str:
    """A name without what people leave out or write differently: makers, spaces, dashes."""
    return re.sub(r"nvidia|geforce|amd|instinct|intel|tesla|[^a-z0-9]", "", name.lower())


def _chips(gpu: Gpu) -> tuple[str, ...]:
    """The first words of a GPU's names that tell its chip: "h100" of h100-80gb, "rtx-4090" of itself."""
    names = (gpu.name, *gpu.also)
    return tuple(re.sub(r"-(\d+gb|nvl|pcie)$", "", name) for name in names)


def _plain(name: str) -> str:
    return "-".join(name.strip().lower().replace("_", "-").split())


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.read_toml(path)
    except FileNotFoundError as error:
        raise BadCatalog(
            f"There is no catalog file {path}. Name one that exists, or unset {OWN_FILE_VARIABLE}."
        ) from error
    except OSError as error:
        raise BadCatalog(f"The catalog file {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadCatalog(f"The catalog file {path} is not valid TOML: {error}.") from error


def _merge(merged: dict[str, dict[str, dict[str, Any]]], document: dict[str, Any], path: Path) -> None:
    for table, entries in document.items():
        if table not in _TABLES:
            raise BadCatalog(f"{path}: unknown table [[{table}]]; known are {', '.join(f'[[{t}]]' for t in _TABLES)}.")
        if not isinstance(entries, list):
            raise BadCatalog(f"{path}: {table} must be a list of entries, each under a line [[{table}]].")
        for entry in entries:
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name:
                raise BadCatalog(f"{path}: an entry of [[{table}]] has no name.")
            merged[table][name] = {**merged[table].get(name, {}), **entry}


def _validated(merged: dict[str, dict[str, dict[str, Any]]], path: Path) -> _Tables:
    document = {table: list(entries.values()) for table, entries in merged.items()}
    try:
        return _Tables.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        table, index, *place = problem["loc"]
        name = document[str(table)][int(index)]["name"]
        where = ".".join(str(part) for part in place) or "the entry"
        value = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
        raise BadCatalog(
            f"{path}: [[{table}]] {name}: {where}{value}: {problem['msg'].removeprefix('Value error, ')}."
        ) from None
