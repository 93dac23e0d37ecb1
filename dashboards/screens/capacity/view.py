"""Does a model fit, how fast can it be at best, and how many servers does a demand need. Pure."""

from typing import Any

from inputs.quantities import byte_size, number, plural, seconds
from planning.catalog_entries import Gpu, Spread
from planning.catalogs import Catalog
from planning.errors import PlanningError
from planning.memory.shapes import Shape
from planning.memory.smallest import GpuSet
from planning.memory.vram import FITS, NO, Estimate
from planning.speed import roofline
from planning.speed.capacity import Goodput, Replicas, replicas

Rows = list[dict[str, Any]]
VERDICTS = {FITS: "It fits.", "tight": "It is tight.", NO: "It does not fit."}
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KV = "KV cache needed"


def memory_rows(made: Estimate) -> Rows:
    """The parts of one GPU's memory in bytes in the order to stack them, the cache that is asked for last."""
    rows = [
        {"part": term.name, "order": index, "bytes": term.bytes.mode, "low_bytes": term.bytes.low,
         "high_bytes": term.bytes.high, "exact": term.exact, "why": term.why}
        for index, term in enumerate(made.terms)
        if term.bytes.mode > 0
    ]  # fmt: skip
    need = cache_needed_bytes(made)
    if need is not None:
        why = f"{made.concurrency:,} × {made.context_tokens:,} tokens, in blocks"
        rows.append(
            {
                "part": KV,
                "order": len(rows),
                "bytes": need,
                "low_bytes": need,
                "high_bytes": need,
                "exact": True,
                "why": why,
            }
        )
    return rows


def cache_needed_bytes(made: Estimate) -> float | None:
    """What the sequences that are asked for take of one GPU's cache; None when the architecture's is not known."""
    one = made.sequence_bytes(made.context_tokens)
    return None if one is None else one * made.concurrency


def memory_words(made: Estimate) -> str:
    """The stack as text, for readers who do not see the figure."""
    parts = ", ".join(f"{row['part']} {byte_size(row['bytes'])}" for row in memory_rows(made))
    return f"{parts}; budget {byte_size(made.budget.mode)} of {byte_size(made.total.mode)}."


def memory_table(made: Estimate) -> Rows:
    """The parts for people, with their ranges and reasons."""
    return [
        {
            "Part": row["part"],
            "Size": byte_size(row["bytes"]),
            "Range": "exact" if row["exact"] else f"{byte_size(row['low_bytes'])} to {byte_size(row['high_bytes'])}",
            "Why so much": row["why"],
        }
        for row in memory_rows(made)
    ]


def verdict(made: Estimate) -> str:
    """Whether it fits, and why, in words."""
    return f"{VERDICTS[made.verdict]} {made.reason}"


def trade_rows(made: Estimate) -> Rows:
    """How many sequences fit at each context length: most likely, and with every estimate at its worst and best."""
    longest = made.shape.context_tokens or CONTEXTS[-1]
    rows = []
    for context in [*(c for c in CONTEXTS if c < longest), min(longest, CONTEXTS[-1])]:
        many = {end: made.max_concurrency(context, end) for end in ("low", "mode", "high")}
        if many["mode"] is not None and many["high"]:
            rows.append({"context_tokens": context, **{f"sequences_{end}": value for end, value in many.items()}})
    return rows


def set_rows(found: list[GpuSet]) -> Rows:
    """The smallest number of each kind of GPU on which the model fits, for people."""
    return [
        {
            "GPUs": f"{one.gpus} × {one.gpu.label}" if one.gpus > 1 else one.gpu.label,
            "Verdict": "fits" if one.estimate.verdict == FITS else "tight",
            "Room for the cache": byte_size(max(0.0, one.estimate.kv_room["mode"])),
            "Sequences at once": f"{one.estimate.max_concurrency(one.estimate.context_tokens) or 0:,}",
            "Rent": dollars(one.usd_per_hour, "/h"),
            "To buy": dollars(one.buy_usd, ""),
        }
        for one in found
    ]


def dollars(price: Spread | None, unit: str) -> str:
    """A price in USD with its range over the offers."""
    if price is None:
        return "no price known"
    low, mode, high = (
        f"${value:,.2f}" if value < 100 else f"${value:,.0f}" for value in (price.low, price.mode, price.high)
    )
    return f"{mode}{unit}" if price.is_point else f"{mode}{unit} ({low} to {high})"


def bound_rows(shape: Shape, gpu: Gpu, gpus: int, context_tokens: int) -> Rows:
    """The most output tokens per second at each batch size, all sequences and one of them."""
    rows = []
    for batch in BATCHES:
        bound = roofline.decode_bound(shape, gpu, gpus=gpus, batch=batch, context_tokens=context_tokens)
        rows.append(
            {"batch": batch, "output_tok_s": bound.tok_s, "tok_s_each": bound.tok_s / batch, "step_s": bound.step_s,
             "limited_by": bound.limited_by}
        )  # fmt: skip
    return rows


def bound_words(shape: Shape, gpu: Gpu, gpus: int, context_tokens: int) -> str:
    """Prefill and decode at best, as a sentence."""
    rows = bound_rows(shape, gpu, gpus, context_tokens)
    text = (
        f"At best, one sequence gets {number(rows[0]['output_tok_s'])} tokens/s and {BATCHES[-1]} together "
        f"{number(rows[-1]['output_tok_s'])} tokens/s"
    )
    try:
        prefill = roofline.prefill_bound(shape, gpu, gpus=gpus)
    except PlanningError:
        return f"{text}."
    return f"{text}; a prompt of {context_tokens:,} tokens takes at least {seconds(prefill.ttft_s(context_tokens))}."


def above_words(cells: list[dict[str, Any]], shapes: dict[str, Shape], gpu: Gpu) -> list[str]:
    """Measured figures above the bound of `gpu`: not measured right, or not on that GPU."""
    return [
        f"{one.cell_id}: {one.what} {number(one.measured_tok_s)} tokens/s is {number(one.ratio, 2)} × the bound of "
        f"{number(one.bound_tok_s)}, so it was not measured right or not on {gpu.label}."
        for one in roofline.above(list(cells), shapes, gpu)
    ]


def replica_rows(goodput_rps: float, peak_rps: float, *, headroom: float, spares: int) -> Rows:
    """Servers needed for peaks from a tenth to three times the one asked for; a row at each end of every step."""
    rows: Rows = []
    last = None
    for index in range(1, 121):
        rate = peak_rps * index / 40
        total = replicas(rate, goodput_rps, headroom=headroom, spares=spares).total
        if total != last and last is not None:
            rows.append({"peak_rps": rate, "servers": last})
        rows.append({"peak_rps": rate, "servers": total})
        last = total
    return rows


def replica_words(found: Replicas) -> str:
    """How many servers, and what happens when one is lost."""
    spares = f" and {plural(found.spares, 'spare')}" if found.spares else ""
    text = (
        f"{plural(found.needed, 'server')} for the peak of {number(found.peak_rps)} requests/s{spares}: "
        f"{plural(found.total, 'server')} in all, {number(found.load_at_peak * 100, 2)} % busy at the peak."
    )
    down = found.load_with_one_down
    if down is None:
        return f"{text} When it is lost, nothing answers."
    if down > 1:
        return f"{text} With one lost, the peak is {number(down, 2)} × what the others carry within the SLO."
    return f"{text} With one lost, the others are {number(down * 100, 2)} % busy and hold the SLO."


def goodput_rows(found: list[Goodput]) -> Rows:
    """Measured goodput of each engine, for people."""
    return [
        {
            "Engine": one.engine,
            "At load": one.load,
            "Goodput": f"{number(one.goodput_rps)} requests/s",
            "Within the SLO": f"{number(one.attainment * 100, 3)} %",
            "Output": f"{number(one.output_tok_s)} tokens/s",
            "Heavier loads": "none measured: it may carry more" if one.highest_measured else "measured, and worse",
        }
        for one in found
    ]


def gpu_labels(catalog: Catalog) -> dict[str, str]:
    """Every GPU's name and how people know it."""
    return {name: gpu.label for name, gpu in catalog.gpus.items()}
