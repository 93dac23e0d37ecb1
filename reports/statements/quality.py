"""What a run says of the quality of predictions, in sentences. Pure."""

import math

from inputs.quantities import count
from reports.measured.cells import Json, Report
from reports.names import listing, shortened

NOT_APPLIED, NOT_TOLD_APART, WORSE, BETTER = "not applied", "not told apart", "worse", "better"


def standing(entry: Json) -> str | None:
    """How an engine stands beside the baseline: by the 95 % interval of its ΔNLL; None where nothing says."""
    against = entry.get("against")
    if against is None:
        return None
    if entry.get("applied") is False:
        return NOT_APPLIED
    low, high = against["delta_nll_95"]
    return WORSE if low > 0 else BETTER if high < 0 else NOT_TOLD_APART


def scored(report: Report) -> list[Json]:
    """The engines with figures of quality."""
    return [entry for entry in report.quality if entry.get("figures")]


def baseline(report: Report) -> str:
    """What the others are held against, for a reader."""
    judged = report.document.get("quality") or {}
    external = judged.get("baseline_run")
    return f"{external['engine']} of {external['run']}" if external else str(judged.get("baseline"))


def quality_models(report: Report) -> list[str]:
    """The models that quality was measured on."""
    return list(dict.fromkeys(shortened(str(entry["model"]), 60) for entry in scored(report)))


def speed_models(report: Report) -> list[str]:
    """The models that speed was measured on."""
    return list(dict.fromkeys(shortened(str(cell.document["engine"].get("model")), 60) for cell in report.cells))


def statement(report: Report) -> str:
    """What the run says about the quality of the answers."""
    if found := scored(report):
        return _scored(report, found)
    if models := weightless(report):
        real = "speed and memory are real, but no statement about quality can be made" if report.measured else ""
        tail = f": {real}" if real else ": no statement about quality can be made"
        return f"{listing([shortened(model, 60) for model in models], 3)} ran with made-up weights{tail}."
    if report.quality:
        return "Quality was to be measured and was not: the reasons are under “Quality”."
    return "Quality was not measured: a faster engine may answer worse." if report.measured else ""


def weightless(report: Report) -> list[str]:
    """The models whose weights were not loaded but made up by the engine."""
    made_up = [
        cell.document["engine"] for cell in report.every if (cell.document.get("startup") or {}).get("weightless")
    ]
    return list(dict.fromkeys(str(engine.get("model") or "the model") for engine in made_up))


def _scored(report: Report, found: list[Json]) -> str:
    base, models = baseline(report), quality_models(report)
    text = f"Quality, on {count(found[0]['figures']['tokens'])} held-out tokens of {listing(models)}"
    if speed := [model for model in speed_models(report) if model not in models]:
        made_up = ", with made-up weights" if weightless(report) else ""
        text += f" (speed and memory are of {listing(speed)}{made_up})"
    text += ": "
    parts = []
    for kind, words in (
        (WORSE, f"worse than {base}"),
        (BETTER, f"better than {base}"),
        (NOT_TOLD_APART, f"not told apart from {base}"),
    ):
        if of_kind := [entry for entry in found if standing(entry) == kind]:
            parts.append(f"{words}: {listing([_named(entry) for entry in of_kind], 12)}")
    if idle := [entry["engine"] for entry in found if standing(entry) == NOT_APPLIED]:
        parts.append(f"not applied, because predictions did not change: {listing(idle)}")
    if alone := [entry for entry in found if entry.get("unpaired")]:
        parts.append(f"not to be held against it: {listing([entry['engine'] for entry in alone])}")
    if not parts:
        values = [f"{entry['engine']} {perplexity(entry)}" for entry in found]
        parts.append(f"perplexity {listing(values)}, beside nothing")
    text += "; ".join(parts) + "."
    if none := [entry["engine"] for entry in report.quality if not entry.get("figures")]:
        text += f" No quality of {listing(none, 8)}: the reasons are under “Quality beside speed”."
    return text


def _named(entry: Json) -> str:
    how = ", its weights rounded" if entry.get("rounded") else ""
    return f"{shortened(entry['engine'], 40)} (ΔNLL {delta(entry)}, perplexity {change(entry)}{how})"


def delta(entry: Json) -> str:
    """ΔNLL ± its standard error in nats a token."""
    against = entry["against"]
    return f"{against['delta_nll']:+.4f} ± {against['delta_nll_se']:.4f}"


def change(entry: Json) -> str:
    """By how much perplexity is higher than the baseline's: e to the ΔNLL, less one."""
    return f"{100 * math.expm1(entry['against']['delta_nll']):+.2f} %"


def perplexity(entry: Json) -> str:
    """Perplexity on the held-out tokens."""
    return f"{entry['figures']['perplexity']:.2f}"
