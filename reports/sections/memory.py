"""The section on GPU memory: what each engine needs on the GPU, and the estimate against vLLM's own figures. Pure.

It is there when the plan's [cost] table names a GPU, or the machine has one that the catalog knows.
"""

from inputs.quantities import byte_size, count, number
from planning.catalog_entries import Gpu
from planning.errors import PlanningError
from planning.memory.against_startup import Check, against_startup, estimate_of, in_words
from planning.memory.models import read
from planning.memory.shapes import Shape
from planning.memory.vram import FITS, TIGHT, UNKNOWN, Estimate
from reports.measured.cells import Json, Report
from reports.names import listing
from reports.sections.section import Section
from reports.tables import Column, Entry, Table, table

_VERDICT = {FITS: Entry("fits", "good"), TIGHT: Entry("tight"), UNKNOWN: Entry("not known")}


def memory(report: Report, gpu: Gpu, machine: Gpu | None) -> Section:
    """The estimate for `gpu`; `machine` is the GPU that the run was made on, None without a known one."""
    made, refused = estimates(report, gpu)
    paragraphs = [
        f"What each engine needs on {gpu.label}. Weights and cache per token are exact; "
        "the activation peak and what lies outside of torch are estimates, shown with their range, and the weakest "
        "part before a start."
    ]
    if machine is None or machine.name != gpu.name:
        paragraphs.append("The run itself was made on another machine, so these are estimates without a measurement.")
    paragraphs += [f"{engine}: {why}" for engine, why in refused.items()]
    tables = [_needs(made)] if made else []
    if checks := _startup(report, made if machine is not None and machine.name == gpu.name else {}):
        tables.append(checks)
    return Section("gpu-memory", "Memory on the GPU", tuple(paragraphs), tuple(tables))


def estimates(report: Report, gpu: Gpu) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Engine → its estimate on `gpu`, and engine → why there is none."""
    made: dict[str, Estimate] = {}
    refused: dict[str, str] = {}
    for engine, document in engines(report).items():
        try:
            made[engine] = estimate_of(shape_of(document), document, gpu)
        except PlanningError as error:
            refused[engine] = str(error)
    return made, refused


def engines(report: Report) -> dict[str, Json]:
    """Engine → its settings, in the order of the plan."""
    return {cell.engine: cell.document["engine"] for cell in report.cells}


def shape_of(engine: Json) -> Shape:
    """The tensors of an engine's model. Raises PlanningError when they are not known on this machine."""
    dtype = {"half": "float16", "float": "float32"}.get(engine.get("dtype") or "auto", engine.get("dtype") or "auto")
    return read(str(engine.get("model") or ""), engine.get("quantization") or "none", dtype)


def _needs(made: dict[str, Estimate]) -> Table:
    columns = [
        Column("Engine", numeric=False),
        Column("Verdict", numeric=False),
        Column("GPUs"),
        Column("Weights"),
        Column("Activations and overheads"),
        Column("Left for the KV cache"),
        Column("at worst"),
        Column("in tokens"),
        Column("Longest request"),
        Column("Such requests at once"),
    ]
    rows: list[list[str | Entry]] = []
    for engine, one in made.items():
        spent = [term.bytes for term in one.terms[1:]]
        low, mode, high = (byte_size(sum(getattr(part, end) for part in spent)) for end in ("low", "mode", "high"))
        rows.append(
            [
                engine,
                _VERDICT.get(one.verdict, Entry("does not fit", "bad")),
                count(one.setting.gpus),
                byte_size(one.weights_bytes),
                f"{mode} ({low} to {high})",
                byte_size(one.kv_room["mode"]) if one.kv_room["mode"] > 0 else "nothing",
                byte_size(one.kv_room["low"]) if one.kv_room["low"] > 0 else "nothing",
                count(one.kv_tokens()),
                f"{count(one.context_tokens)} tokens",
                count(one.max_concurrency(one.context_tokens)),
            ]
        )
    notes = tuple(f"{engine}: {one.reason}" for engine, one in made.items() if one.verdict != FITS)
    return table("gpu-needs", "Estimated memory of one GPU", columns, rows, notes)


def _startup(report: Report, made: dict[str, Estimate]) -> Table | None:
    """The estimate beside what vLLM reported at its start; None when it reported nothing that was estimated."""
    columns = [Column("Engine", numeric=False), Column("Figure", numeric=False), Column("Estimated")]
    columns += [Column("Reported by vLLM"), Column("Estimated ÷ reported"), Column("Agreement", numeric=False)]
    rows: list[list[str | Entry]] = []
    for engine, document in engines(report).items():
        for check in _checks(report, engine, document, made.get(engine)):
            estimated, reported = in_words(check)
            rows.append([engine, check.name, estimated, reported, number(check.ratio), _agreement(check)])
    if not rows:
        return None
    off = [str(row[0]) for row in rows if isinstance(row[5], Entry) and row[5].tone == "bad"]
    notes = (
        (f"An exact figure of {listing(sorted(set(off)))} is off by more than 1 %: please report it.",) if off else ()
    )
    return table("gpu-startup", "Estimate against vLLM's own figures", columns, rows, notes)


def _checks(report: Report, engine: str, document: Json, made: Estimate | None) -> list[Check]:
    startup = next((c.document["startup"] for c in report.of_engine(engine) if c.document.get("startup")), None)
    if startup is None:
        return []
    try:
        return against_startup(shape_of(document), document, startup, made)
    except PlanningError:
        return []


def _agreement(check: Check) -> Entry:
    if check.inside:
        return Entry("exact" if check.exact else "in its range", "good")
    return Entry("off", "bad") if check.exact else Entry("outside its range")
