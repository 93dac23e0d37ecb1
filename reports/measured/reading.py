"""A run folder read into what a report is made of, with metrics recomputed from the records.

It is read cell by cell and only the thinned curves are kept, so that memory does not grow with the run.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from bench.capacity.judging import Judged
from bench.capacity.points import are_answers, is_point, judged_of
from bench.capacity.search import rejudged
from bench.errors import RunFolderError
from bench.run import quality
from bench.run.stats.beside import beside_load
from bench.run.stats.gaps import token_gaps
from bench.run.stats.growth import totals
from bench.run.stats.latencies import latencies, ok_only
from bench.run.stats.summary import summarise
from bench.run.store import Run, engines_called
from reports.errors import ReportError
from reports.measured.cells import Cell, Json, Report
from reports.measured.curves import Curve, ecdf
from reports.measured.differences import Difference, differences
from reports.measured.loads import Load, labelled_loads
from reports.measured.timelines import timeline

SLO_LIMITS = ("ttft_s", "tpot_s", "e2e_s")
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


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


def beside(run: Run, document: Json, requests: pa.Table, summary: Json) -> Json:
    """`memory`, `ttft_parts` and `energy` of a cell, recomputed from what was recorded beside its requests.

    Without what they follow from, so that what run.json stores stays: runs of earlier versions kept less.
    """
    samples, pages = run.samples(document["id"]), run.pages(document["id"])
    found = beside_load(requests, document["load"], summary, (totals(pages[0]), totals(pages[1])), samples)
    stored = document.get("metrics") or {}
    lacking = {"memory", "energy"} if samples is None or not samples.num_rows else set()
    lacking |= {"ttft_parts"} if pages == (None, None) and "ttft_parts" in stored else set()
    return {name: value for name, value in found.items() if name not in lacking}


def _cell(run: Run, document: Json, load: Load, plan: Json) -> Cell:
    stored = document.get("metrics")
    changed: tuple[Difference, ...] = ()
    metrics, records, broken = None, None, None
    curves: tuple[Curve | None, ...] = (None, None, None)
    over_time = None
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
            recomputed |= beside(run, document, requests, recomputed)
            changed = differences(stored, recomputed)
            metrics = {**(stored or {}), **recomputed}
            curves = _curves(requests)
            over_time = timeline(requests, run.samples(document["id"]), document["load"])
        if judged is not None:
            now = rejudged(engines_called(run.document), document, requests)
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
        over_time=over_time,
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
    told = [
        entry
        if entry["outcome"] != "ok" or entry["figures"] is not None
        else entry | {"outcome": "failed", "reason": broken.get(entry["engine"], "Its rows are missing.")}
        for entry in found
    ]
    return tuple(engines_called({**run.document, "quality": {"engines": told}})["quality"]["engines"])


def _report(run: Run, cell: Callable[[Run, Json, Load, Json], Cell]) -> Report:
    whole = engines_called(readable(run.document))
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
    plan: Json = whole["plan"] if isinstance(whole.get("plan"), dict) else {}
    cells, points = (
        tuple(cell(run, one, load, plan) for one, load in zip(part, labelled_loads(part), strict=True))
        for part in ([d for d in documents if not d.get("point")], [d for d in documents if d.get("point")])
    )
    report = Report(run.path.resolve().name, whole, cells, points=points)
    for answer in whole.get("capacity") or ():
        if answer["engine"] not in report.engines:
            raise ReportError(
                f"{run.path / 'run.json'}: `capacity` has an answer for {answer['engine']}, of which there is no cell; "
                "it was changed by hand or damaged. Restore it or measure again with `nbridge bench`."
            )
    return report
