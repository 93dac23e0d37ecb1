"""What a report is made of: the cells of a run with metrics recomputed from their records.

The run folder is read cell by cell and only the thinned curves are kept, so that memory does not grow with the run.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.capacity.judging import Judged
from bench.capacity.points import are_answers, is_point, judged_of
from bench.capacity.search import rejudged
from bench.errors import RunFolderError
from bench.run import quality
from bench.run.stats.gaps import token_gaps
from bench.run.stats.latencies import latencies, ok_only
from bench.run.stats.summary import summarise
from bench.run.store import Run
from inputs.quantities import plural
from reports.errors import ReportError
from reports.measured.curves import Curve, ecdf

Json = dict[str, Any]
_ARRIVALS = {"poisson": "Poisson"}
_MEMORY = {"server_peak_bytes": ("process", "memory_bytes"), "gpu_used_peak_bytes": ("gpu", "memory_used_bytes")}
SLO_LIMITS = ("ttft_s", "tpot_s", "e2e_s")
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
NUMBERS_SHOWN = ("ok", "invalid")  # outcomes whose records cover the whole cell


@dataclass(frozen=True)
class Load:
    """One load of the plan: `level` is the concurrency (closed) or the offered requests per second (open)."""

    name: str
    scenario: str
    kind: str
    level: float | None
    label: str
    short: str


@dataclass(frozen=True)
class Difference:
    """A number that run.json stores and the records do not give (or give differently)."""

    name: str
    stored: Any
    recomputed: Any


@dataclass(frozen=True)
class Cell:
    """One engine configuration × one load × one repeat. `metrics` come from the records; None without records.

    `judged`: what a point of a search says of its level; None for the cells of the plan.
    """

    id: str
    engine: str
    load: Load
    repeat: int
    outcome: str
    reason: str | None
    metrics: Json | None
    differences: tuple[Difference, ...]
    records: int | None
    records_error: str | None
    ttft: Curve | None
    itl: Curve | None
    chunk_gap: Curve | None
    document: Json
    judged: Judged | None = None

    @property
    def valid(self) -> bool | None:
        """Whether every validity check passed; None when the cell was not checked."""
        validity = self.document.get("validity")
        return None if validity is None else bool(validity.get("valid"))

    @property
    def shown(self) -> bool:
        """Numbers may be shown: the cell ran to its end, valid or not."""
        return self.outcome in NUMBERS_SHOWN and self.metrics is not None and bool(self.records)

    @property
    def measured(self) -> bool:
        """Numbers may be compared: the cell ran to its end and no check failed."""
        return self.outcome == "ok" and self.valid is not False and self.shown

    def value(self, name: str) -> float | None:
        """A metric by its dotted name (`ttft_s.p50`, `memory.server_peak_bytes`); None when absent."""
        found: Any = self.metrics
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


@dataclass(frozen=True)
class Report:
    """All that a report says, before it is put into words, tables and figures.

    `points` are the cells of searches for the capacity, each at a level of its own: they are compared with nothing.
    """

    folder: str
    document: Json
    cells: tuple[Cell, ...]
    quality: tuple[Json, ...] = ()  # an entry for each engine whose quality was asked for: bench.run.quality.results
    quality_differs: tuple[str, ...] = ()  # the engines of which run.json stores another quality than their rows give
    points: tuple[Cell, ...] = ()

    @property
    def every(self) -> tuple[Cell, ...]:
        """All that was measured: the plan's cells and the points of searches."""
        return (*self.cells, *self.points)

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engine configurations, in the order of the plan; the first is the baseline."""
        return tuple(dict.fromkeys(cell.engine for cell in self.every))

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads from light to heavy, closed before open, scenario by scenario."""
        found = list(dict.fromkeys(cell.load for cell in self.cells))
        scenarios = list(dict.fromkeys(load.scenario for load in found))
        return tuple(sorted(found, key=lambda load: (scenarios.index(load.scenario), load.kind, load.level or 0.0)))

    @property
    def measured(self) -> tuple[Cell, ...]:
        """The cells whose numbers may be compared."""
        return tuple(cell for cell in self.cells if cell.measured)

    def repeats(self, engine: str, load: Load) -> tuple[Cell, ...]:
        """The measured repeats of one engine under one load."""
        return tuple(cell for cell in self.measured if cell.engine == engine and cell.load == load)

    def of_engine(self, engine: str) -> tuple[Cell, ...]:
        """All cells of one engine configuration, whatever became of them."""
        return tuple(cell for cell in self.cells if cell.engine == engine)


def load_label(load: Json) -> tuple[str, str]:
    """(label for a reader, short label for a figure) of a load: (“16 concurrent requests”, “16”)."""
    if load.get("kind") == "open":
        rate = load.get("rate_rps")
        if rate is None:
            return "open loop", "open"
        return f"{rate:g} {'request' if rate == 1 else 'requests'}/s{_arrivals(load)}", f"{rate:g}/s"
    users = load.get("concurrency")
    if users is None:
        return "closed loop", "closed"
    return plural(int(users), "concurrent request"), f"{int(users)}"


def _arrivals(load: Json) -> str:
    """How the requests of an open load arrive, in brackets."""
    match load.get("arrival"):
        case None:
            return ""
        case "gamma":
            return f" (gamma arrivals, burstiness {load['burstiness']:g})"
        case "ramp" | "step" as kind:
            rates = [f"{rate:g}" for rate in load["rates_rps"]]
            return f" (a ramp over {', '.join(rates)}/s)" if kind == "ramp" else f" (steps of {', '.join(rates)}/s)"
        case kind:
            return f" ({_ARRIVALS.get(kind, kind)} arrivals)"


def _loads(cells: list[Json]) -> list[Load]:
    """The load of each cell, with labels that tell all of them apart."""
    scenarios = {str(cell["load"].get("scenario") or "") for cell in cells}
    found: list[Load] = []
    for cell in cells:
        load = cell["load"]
        label, short = load_label(load)
        scenario = str(load.get("scenario") or "")
        level = load.get("rate_rps") if load.get("kind") == "open" else load.get("concurrency")
        found.append(
            Load(
                name=str(load.get("name") or label),
                scenario=scenario,
                kind=str(load.get("kind") or "closed"),
                level=None if level is None else float(level),
                label=f"{label} ({scenario})" if len(scenarios) > 1 and scenario else label,
                short=f"{short} {scenario}" if len(scenarios) > 1 and scenario else short,
            )
        )
    by_label: dict[str, set[Load]] = {}
    for entry in found:
        by_label.setdefault(entry.label, set()).add(entry)
    return [
        entry
        if len(by_label[entry.label]) == 1
        else replace(entry, label=f"{entry.label}, {entry.name}", short=entry.name[:12])
        for entry in found
    ]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for name, below in tree.items():
            yield from _flat(below, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree


def differences(stored: Json | None, recomputed: Json | None) -> tuple[Difference, ...]:
    """Where `stored` says something else than `recomputed`, number by number (relative tolerance 1e-6).

    Only parts that are recomputed are compared: what was sampled of the client itself is not kept and stays as stored.
    """
    if not stored or not recomputed:
        return ()
    parts = set(recomputed) & set(stored)  # an earlier version stored fewer
    old = {name: value for name, value in _flat(stored) if name.split(".")[0] in parts and value is not None}
    new = {name: value for name, value in _flat(recomputed) if name.split(".")[0] in parts and value is not None}
    return tuple(
        Difference(name, old.get(name), new.get(name))
        for name in dict.fromkeys([*new, *old])
        if not _same(old.get(name), new.get(name))
    )


def _same(stored: Any, recomputed: Any) -> bool:
    if isinstance(stored, int | float) and isinstance(recomputed, int | float):
        return math.isclose(stored, recomputed, rel_tol=1e-6, abs_tol=1e-9)
    return bool(stored == recomputed)


def slo_of(stored: Json | None, plan: Json) -> dict[str, float] | None:
    """The limits per request (ttft_s, tpot_s, e2e_s) that goodput is counted by; None when the plan has none."""
    slo = (stored or {}).get("slo") or plan.get("slo")
    limits = {name: slo[name] for name in SLO_LIMITS if slo.get(name)} if isinstance(slo, dict) else {}
    return limits or None


def _curves(requests: pa.Table) -> tuple[Curve | None, Curve | None, Curve | None]:
    ttft = ecdf(latencies(ok_only(requests))["ttft_s"])
    gaps, itl = token_gaps(requests)
    gap_curve = ecdf(gaps)
    itl_curve = gap_curve if itl is gaps else None if itl is None else ecdf(np.asarray(itl))
    return ttft, itl_curve, gap_curve


def peaks(samples: pa.Table | None) -> Json:
    """`memory`: the highest sampled memory in bytes of the server's processes and of the GPUs, added up per instant.

    {} when nothing was sampled, so that what run.json stores stays.
    """
    if samples is None or not samples.num_rows:
        return {}
    found: Json = {}
    for name, (source, series) in _MEMORY.items():
        chosen = samples.filter(pc.and_(pc.equal(samples["source"], source), pc.equal(samples["name"], series)))
        totals = chosen.group_by("t_s").aggregate([("value", "sum")])
        found[name] = round(pc.max(totals["value_sum"]).as_py()) if totals.num_rows else None
    return {"memory": found}


def _cell(run: Run, document: Json, load: Load, plan: Json) -> Cell:
    stored = document.get("metrics")
    changed: tuple[Difference, ...] = ()
    metrics, records, broken = None, None, None
    curves: tuple[Curve | None, ...] = (None, None, None)
    known = _stored_cell(run, document, load, plan)
    judged = known.judged
    try:
        requests = run.requests(document["id"])
    except RunFolderError as error:
        broken = str(error)
    else:
        records = requests.num_rows
        if records:
            recomputed = summarise(requests, document["load"], slo_of(stored, plan))
            recomputed |= peaks(run.samples(document["id"]))
            changed = differences(stored, recomputed)
            metrics = {**(stored or {}), **recomputed}
            curves = _curves(requests)
        if judged is not None:
            now = rejudged(run.document, document, requests)
            changed += differences({"point": _told(judged)}, {"point": _told(now)})
            judged = now
    return replace(
        known,
        judged=judged,
        metrics=metrics,
        differences=changed,
        records=records,
        records_error=broken,
        ttft=curves[0],
        itl=curves[1],
        chunk_gap=curves[2],
    )


def _told(judged: Judged) -> Json:
    """Of a verdict what follows from the records, as numbers that can be held against each other."""
    return {
        "verdict": judged.verdict,
        "figures": judged.figures,
        "cut_s": judged.cut_s,
        "goodput_rps": judged.goodput_rps,
    }


def _stored_cell(run: Run, document: Json, load: Load, plan: Json) -> Cell:  # noqa: ARG001 (as `_cell`)
    metrics = document.get("metrics") if isinstance(document.get("metrics"), dict) else None
    total = ((metrics or {}).get("requests") or {}).get("total")
    return Cell(
        id=str(document["id"]),
        engine=str(document["engine"].get("name") or document["engine"].get("model") or "engine"),
        load=load,
        repeat=int(document.get("repeat") or 1),
        outcome=str(document.get("outcome") or "pending"),
        reason=document.get("reason") or None,
        metrics=metrics,
        differences=(),
        records=total if isinstance(total, int) else None,
        records_error=None,
        ttft=None,
        itl=None,
        chunk_gap=None,
        document=document,
        judged=judged_of(document) if "verdict" in (document.get("point") or {}) else None,
    )


def readable(tree: Any) -> Any:
    """`tree` (JSON) with every text free of the characters that neither HTML nor XML can hold, replaced by U+FFFD."""
    if isinstance(tree, str):
        return _UNREADABLE.sub("\ufffd", tree)
    if isinstance(tree, dict):
        return {readable(name): readable(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [readable(value) for value in tree]
    return tree


def _lacking(cell: Any) -> str | None:
    """The first part of a cell's entry in run.json that a report cannot do without and that is not there."""
    for key, kind in (("id", str), ("engine", dict), ("load", dict)):
        if not isinstance(cell, dict) or not isinstance(cell.get(key), kind):
            return key
    if cell.get("point") and not is_point(cell["point"]):
        return "point"
    level = "rate_rps" if cell["load"].get("kind") == "open" else "concurrency"
    return None if isinstance(cell["load"].get(level), int | float) else f"load.{level}"


def read(run: Run) -> Report:
    """The report's content from a run folder's records; raises ReportError when run.json lacks what a cell is."""
    report, found = _report(run, _cell), _quality(run)
    stored = {entry["engine"]: entry for entry in (report.document.get("quality") or {}).get("engines") or ()}
    differ = [
        entry["engine"]
        for entry in found
        if any(differences(stored[entry["engine"]].get(part), entry.get(part)) for part in ("figures", "against"))
    ]
    return replace(report, quality=found, quality_differs=tuple(differ))


def stored(run: Run) -> Report:
    """The report's content from run.json alone: metrics as stored there, no curves, no record read.

    For whoever shows many or large runs at once. Raises ReportError when run.json lacks what a cell is.
    """
    report = _report(run, _stored_cell)
    return replace(report, quality=tuple((report.document.get("quality") or {}).get("engines") or ()))


def _quality(run: Run) -> tuple[Json, ...]:
    """The quality of every engine, recomputed from its rows; where they cannot be read, why, in place of figures."""
    broken: dict[str, str] = {}

    def rows_of(engine: str) -> pa.Table | None:
        try:
            return run.scored(engine)
        except RunFolderError as error:
            broken[engine] = str(error)
            return None

    found = quality.results(readable(run.document), rows_of)
    return tuple(
        entry
        if entry["outcome"] != "ok" or entry["figures"] is not None
        else entry | {"outcome": "failed", "reason": broken.get(entry["engine"], "Its rows are missing.")}
        for entry in found
    )


def _report(run: Run, cell: Callable[[Run, Json, Load, Json], Cell]) -> Report:
    whole = readable(run.document)
    documents = whole["cells"]
    for index, document in enumerate(documents):
        lacking = _lacking(document)
        if lacking:
            raise ReportError(
                f"{run.path / 'run.json'}: cell {index + 1} of {len(documents)} has no usable `{lacking}`, so the file "
                "was changed by hand or damaged. Restore it or measure again with `nbridge bench`."
            )
    if not are_answers(whole.get("capacity")):
        raise ReportError(
            f"{run.path / 'run.json'}: `capacity` is no list of answers; it was changed by hand or damaged."
        )
    plan = whole.get("plan") if isinstance(whole.get("plan"), dict) else {}
    cells, points = (
        tuple(cell(run, one, load, plan) for one, load in zip(part, _loads(part), strict=True))
        for part in ([d for d in documents if not d.get("point")], [d for d in documents if d.get("point")])
    )
    return Report(run.path.resolve().name, whole, cells, points=points)
