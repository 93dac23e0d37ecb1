"""The section on quality: what each engine predicts beside the baseline, and beside the deployment guide's table.

Pure.
"""

import math

from inputs.quantities import MISSING, byte_size, count, number, share
from reports.figures.quality import quality_picture
from reports.measured.cells import Json, Report
from reports.names import listing
from reports.sections.section import Section
from reports.statements.quality import (
    NOT_APPLIED,
    WORSE,
    baseline,
    change,
    delta,
    perplexity,
    quality_models,
    scored,
    speed_models,
    standing,
)
from reports.tables import Column, Entry, Table, best, startup_value, table

# The deployment guide's §1.4: scheme → its row, how much less memory it promises, how much quality it says is lost. Of
# which measure of quality that is a share it does not say.
GUIDE = {
    "none": ("FP16 (baseline)", "0 %", "0 %"),
    "w8a8-int8": ("INT8", "50 %", "< 2 %"),
    "gptq": ("INT4 (GPTQ)", "75 %", "3 to 5 %"),
    "awq": ("INT4 (AWQ)", "75 %", "2 to 4 %"),
    "w4a16": ("INT4", "75 %", "2 to 5 %"),
}
_TONES = {WORSE: "bad", NOT_APPLIED: "bad"}


def judged(report: Report) -> tuple[Section, ...]:
    """What was measured of quality; nothing for a run that was not asked for it."""
    if not report.quality:
        return ()
    found = scored(report)
    if not found:
        reasons = {str(entry.get("reason") or "It was not measured yet."): None for entry in report.quality}
        return (Section("quality", "Quality", tuple(reasons)),)
    picture = quality_picture(report)
    tables = (_figures(report), _beside_guide(report))
    return (
        Section(
            "quality",
            "Quality beside speed",
            tuple(_paragraphs(report, found)),
            tuple(one for one in tables if one),
            (picture,) if picture else (),
        ),
    )


def _paragraphs(report: Report, found: list[Json]) -> list[str]:
    texts = (report.document.get("quality") or {}).get("texts") or {}
    figures, models = found[0]["figures"], quality_models(report)
    said = (
        f"Every engine was asked, through its server, how likely it holds each of the same {count(figures['tokens'])} "
        f"tokens of held-out text ({texts.get('name', 'unnamed')}, SHA-256 {str(texts.get('sha256'))[:12]}…), in "
        f"{found[0]['pieces']} pieces, each by itself. The baseline is {baseline(report)}."
    )
    if speed_models(report) != models:
        said += (
            f" These figures are of {listing(models)}; throughput, latency and memory elsewhere on this page are of "
            f"{listing(speed_models(report))}. The settings are the same, the model is not, and how much is lost by a "
            "quantization depends on the model."
        )
    return [said]


def _figures(report: Report) -> Table:
    columns = [
        Column("Engine", numeric=False),
        Column("Model", numeric=False),
        Column("Perplexity"),
        Column("ΔNLL ± SE"),
        Column("95 %"),
        Column("Perplexity against the baseline"),
        Column("KL ± SE, at least"),
        Column("Same first token"),
        Column("So", numeric=False),
    ]
    rows = [_row(report, entry) for entry in report.quality]
    notes = [
        "ΔNLL: negative log-likelihood of the text's own tokens less the baseline's, in nats a token, paired token by "
        f"token; SE: standard error over {_blocks(report)}, because tokens of one text hang together. KL: from the "
        f"{scored(report)[0]['top']} likeliest tokens that each server told, all others taken as one, so that the true "
        "divergence is at least this.",
    ]
    told = [entry["against"]["kl_told_share"] for entry in report.quality if entry.get("against")]
    if told:
        notes[0] += f" The tokens that both told hold at least {share(min(told))} of the baseline's probability."
    if noisy := [entry for entry in scored(report) if entry["repeat_kl"] > 0]:
        values = [f"{entry['engine']} {number(entry['repeat_kl'], 2)}" for entry in noisy]
        notes.append(f"Asked the same twice, these servers differed from themselves by a KL of: {listing(values, 12)}.")
    if any(standing(entry) == NOT_APPLIED for entry in report.quality):
        notes.append(
            "“Not applied”: the engine took the setting and predicts what the baseline predicts, so its speed is not "
            "that of a quantized model."
        )
    if rounded := [entry["engine"] for entry in report.quality if entry.get("rounded")]:
        notes.append(
            f"“Rounded”: no kernel for {listing(rounded, 12)} runs on this machine. Weights were rounded as that "
            "format does it and served at 16 bit: predictions are the format's, and nothing is said of its speed."
        )
    notes += [f"{entry['engine']}: {entry['unpaired']}." for entry in report.quality if entry.get("unpaired")]
    for reason, engines in _reasons(report).items():
        notes.append(f"No quality of {listing(engines, 12)}: {reason}")
    return table("quality-figures", "Quality of each engine on the same held-out tokens", columns, rows, tuple(notes))


def _row(report: Report, entry: Json) -> list[str | Entry]:
    against = entry.get("against")
    head: list[str | Entry] = [entry["engine"], str(entry["model"])]
    if not entry.get("figures"):
        return [*head, *[MISSING] * 6, "no quality"]
    if against is None:
        role = "baseline" if entry["engine"] == (report.document.get("quality") or {}).get("baseline") else "alone"
        return [*head, perplexity(entry), *[MISSING] * 5, role]
    low, high = against["delta_nll_95"]
    stands = standing(entry) or ""
    words = f"{stands} (rounded)" if entry.get("rounded") else stands
    return [
        *head,
        perplexity(entry),
        delta(entry),
        f"{low:+.4f} … {high:+.4f}",
        change(entry),
        f"{against['kl']:.5f} ± {against['kl_se']:.5f}" if against["kl"] else "0",
        f"{100 * against['agreement']:.1f} %",
        Entry(words, _TONES.get(stands, "")),
    ]


def _blocks(report: Report) -> str:
    entry = scored(report)[0]
    blocks = int(entry["figures"]["blocks"])
    return f"{blocks} {'pieces' if blocks == entry['pieces'] else 'texts'}"


def _reasons(report: Report) -> dict[str, list[str]]:
    """Why engines have no quality, each reason once."""
    found: dict[str, list[str]] = {}
    for entry in report.quality:
        if not entry.get("figures"):
            why = str(entry.get("reason") or "it was not measured yet.")
            found.setdefault(why, []).append(entry["engine"])
    return found


def _beside_guide(report: Report) -> Table | None:
    """The guide's rows that were measured, with what was measured; None when only its baseline was."""
    rows = [_guide_row(report, entry) for entry in scored(report) if entry.get("scheme") in GUIDE]
    if len(rows) < 2:
        return None
    columns = [
        Column("Engine", numeric=False),
        Column("Row of the guide", numeric=False),
        Column("the guide", "Less memory"),
        Column("weights here", "Less memory"),
        Column("the guide", "Quality lost"),
        Column("perplexity here", "Quality lost"),
        Column("Output tokens/s against the baseline"),
    ]
    speed, models = listing(speed_models(report)), listing(quality_models(report))
    note = (
        "The deployment guide, §1.4, does not say of which measure its loss of quality is a share; the nearest one "
        f"here is by how much perplexity rises. Weights and tokens/s are of {speed}, perplexity is of {models}. "
        "Embeddings, the output head and scales are not quantized, so a small model saves less than a large one."
    )
    return table("quality-guide", "The deployment guide's table beside what was measured", columns, rows, (note,))


def _guide_row(report: Report, entry: Json) -> list[str | Entry]:
    engine = entry["engine"]
    name, memory, loss = GUIDE[entry["scheme"]]
    base = (report.document.get("quality") or {}).get("baseline")
    weights = startup_value(report.of_engine(engine), "weights_bytes")
    full = startup_value(report.of_engine(base), "weights_bytes") if base else None
    less = MISSING
    if weights is not None and full:
        less = f"{100 * (1 - weights / full):.0f} % ({byte_size(weights)})"
    lost = MISSING
    if against := entry["against"]:
        low, high = (100 * math.expm1(end) for end in against["delta_nll_95"])
        lost = f"{change(entry)} ({low:+.2f} to {high:+.2f})"
    elif engine == base:
        lost = "baseline"
    return [engine, name, memory, less, loss, lost, best(report, engine)[2]]
