"""Are two runs of a kind? The facts by which they are not, by name, with both values. Pure.

format · cpu · gpus · python · memory_bytes · packages.NAME · target.KEY · slo.KEY · at_once   of the runs
engine.KEY · load.KEY · startup.engine_version · clock                                  of what is held together
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.errors import PlanError, RunFolderError
from bench.plans.loads import Load
from bench.plans.tables import Engine
from bench.resumption import machine_differences, setting_differences
from bench.run.store import Run

SLO_LIMITS = ("ttft_s", "tpot_s", "e2e_s")
_TARGET = ("base_url", "model", "max_model_len", "dialect")
_WHOLE = ("format", "cpu", "gpus", "python", "memory_bytes", "clock", "at_once")
_OPEN_ENDED = ("packages", "target")  # groups whose members only the runs know
_MEMBERS = {
    "slo": frozenset(SLO_LIMITS),
    "engine": frozenset(Engine.model_fields),
    "load": frozenset({*Load.model_fields, "prompts"}),
    "startup": frozenset({"engine_version"}),
}
_SHOWN = 12
_LONGEST = 120


@dataclass(frozen=True)
class Difference:
    """A fact by which two runs are unlike; `where`: which engine, load or run it is about, empty: the whole run."""

    name: str
    old: Any
    new: Any
    where: str = ""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.name}{where}: {_short(self.old)} against {_short(self.new)}"


@dataclass(frozen=True)
class Cell:
    """A cell of run.json with its settings read; `run`: the number of its run on its side."""

    document: dict[str, Any]
    engine: Engine
    load: Load
    run: int

    @property
    def id(self) -> str:
        return str(self.document["id"])


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def check_names(allowed: list[str]) -> None:
    """Raise PlanError for a name that no fact can have."""
    for name in allowed:
        group, _, member = name.partition(".")
        if not (
            name in _WHOLE or group in _OPEN_ENDED or (group in _MEMBERS and (not member or member in _MEMBERS[group]))
        ):
            known = ", ".join((*_WHOLE, *_OPEN_ENDED, *_MEMBERS))
            raise PlanError(
                f"--allow {name}: no fact is called that. Facts are {known}; of a group also one member, such as "
                "packages.vllm or engine.max_num_seqs."
            )


def run_differences(old: Run, new: Run) -> Iterator[Difference]:
    """By what the runs as wholes are unlike: format, machine, packages, target, SLO."""
    before, after = old.document, new.document
    if before["format"] != after["format"]:
        yield Difference("format", before["format"], after["format"])
    machines = [_table(document.get("environment")) for document in (before, after)]
    found = {fact: (then, now) for fact, now, then in machine_differences(machines[1], machines[0])}
    found |= {fact: (then, now) for fact, then, now in machine_differences(*machines)}
    yield from (Difference(fact, *values) for fact, values in sorted(found.items()))
    yield from _targets(before.get("target"), after.get("target"))
    limits = [_table(_table(document.get("plan")).get("slo")) for document in (before, after)]
    for name in SLO_LIMITS:
        if limits[0].get(name) != limits[1].get(name):
            yield Difference(f"slo.{name}", limits[0].get(name), limits[1].get(name))
    beside = [_at_once(document) for document in (before, after)]
    if beside[0] != beside[1]:
        yield Difference("at_once", beside[0], beside[1])


def _at_once(document: dict[str, Any]) -> int:
    """How many engines shared the processors of a machine; on GPUs each has its own."""
    cluster = _table(document.get("cluster"))
    return int(cluster.get("at_once") or 1) if cluster.get("on") == "cpu" else 1


def _targets(old: Any, new: Any) -> Iterator[Difference]:
    if (old is None) != (new is None):
        before, after = ("a server of its own" if one is None else _table(one).get("base_url") for one in (old, new))
        yield Difference("target", before, after)
        return
    for key in _TARGET:
        before, after = _table(old).get(key), _table(new).get(key)
        if before != after:
            yield Difference(f"target.{key}", before, after)


def cell_differences(old: Cell, new: Cell, where: str) -> Iterator[Difference]:
    """By what two cells of one engine and load are unlike: settings of both, prompts, and the engine's version."""
    for part, before, after in (("engine", old.engine, new.engine), ("load", old.load, new.load)):
        for key, here, there in setting_differences(before, after):
            yield Difference(f"{part}.{key}", here, there, where)
    one, other = (cell.document.get("prompts") for cell in (old, new))
    if one != other:
        yield Difference("load.prompts", one, other, where)
    one, other = (_table(cell.document.get("startup")).get("engine_version") for cell in (old, new))
    if one is not None and other is not None and one != other:  # a server that never started has no version
        yield Difference("startup.engine_version", one, other, where)
    one, other = (_clock(cell.document.get("metrics")) for cell in (old, new))
    if one is not None and other is not None and one != other:
        yield Difference("clock", one, other, where)


def _clock(metrics: Any) -> str | None:
    """Whose clock a cell's arrivals are by; None where nothing arrived."""
    if not isinstance(metrics, dict):
        return None
    reads = metrics.get("reads")
    share = _table(reads).get("kernel_share")
    if reads is not None and share is None:
        return None
    return {0.0: "the client's reads", 1.0: "the kernel's"}.get(
        share or 0.0, "the kernel's for some, the client's reads"
    )


def require_like(differences: list[Difference], allowed: list[str]) -> list[Difference]:
    """The differences that were allowed; raises RunFolderError that names all others, with both values."""
    kept = list({str(one): one for one in differences}.values())
    refused = [one for one in kept if not any(covers(name, one.name) for name in allowed)]
    if refused:
        lines = "".join(f"\n  {one}" for one in refused[:_SHOWN])
        more = f"\n  and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(one.name for one in refused))
        raise RunFolderError(
            f"the runs are unlike, so a difference between them would say nothing of its cause:{lines}{more}\n"
            f"If one of these is what you want to know about, say so: {names}"
        )
    return kept


def covers(allowed: str, name: str) -> bool:
    """Whether a name that --allow was given stands for a fact: its own, or its group's."""
    return name == allowed or name.startswith(f"{allowed}.")


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
