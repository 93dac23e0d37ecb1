"""What `nbridge vram`, `select` and `prices` show a person: rich renderables; nothing is printed here."""

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from inputs.quantities import number, seconds, trimmed
from planning import tables
from planning.catalog_entries import Price, Spread
from planning.catalogs import STALE_AFTER_DAYS, Catalog
from planning.choice.candidates import servers as count_servers
from planning.choice.selection import Judged, Selection
from planning.cost.api_prices import ApiPrice, Rate, package_version
from planning.memory.against_startup import Check, in_words
from planning.memory.kv import kinds
from planning.memory.shapes import Shape
from planning.memory.smallest import GpuSet
from planning.memory.vram import FITS, NO, TIGHT, UNKNOWN, Estimate, gib
from planning.speed.roofline import decode_bound, prefill_bound

_ENDS = ("low", "mode", "high")
_CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_VERDICT = {FITS: "Fits", TIGHT: "Tight", NO: "Does not fit", UNKNOWN: "Cannot say"}
_MOST_ROWS = 12
# The guide's §5.1.
API_MODELS = (
    "openai/gpt-4o",
    "openai/gpt-5-mini",
    "anthropic/claude-opus-4-1",
    "anthropic/claude-sonnet-4-5",
    "anthropic/claude-haiku-4-5",
    "openai/text-embedding-3-large",
)


def vram(made: Estimate, sets: Sequence[GpuSet]) -> RenderableType:
    """The whole answer of `nbridge vram` for one kind of GPU."""
    count = made.setting.gpus
    where = f"{count} × {made.gpu.label}" if count > 1 else made.gpu.label
    parts: list[RenderableType] = [
        Text(f"{model_line(made.shape)}\non {where}\n"),
        Text(f"{_VERDICT[made.verdict]}. {made.reason}\n"),
        _budget(made),
    ]
    if made.sequence_bytes(1) and made.kv_room["mode"] > 0 and not made.unknown_layers:
        parts += [Text(""), _contexts(made), Text(""), _speeds(made)]
    parts += [Text(""), smallest(sets, made.context_tokens, made.concurrency)]
    parts.append(Text(f"\n{_sureness(made)}"))
    return Group(*parts)


def _sureness(made: Estimate) -> str:
    """What was held against vLLM and what was not, in a sentence."""
    both = {"weights": made.exact_weights, "cache per token": made.exact_cache}
    exact = " and ".join(name for name, is_so in both.items() if is_so)
    estimated = " and ".join(name for name, is_so in both.items() if not is_so)
    said = f"{exact.capitalize()} {'are' if all(both.values()) else 'is'} exact: held against vLLM. " if exact else ""
    if exact == "weights":
        said = said.replace(" is exact", " are exact")
    if estimated:
        verb = "was" if estimated == "cache per token" else "were"
        said += f"{estimated.capitalize()} {verb} not held against vLLM for this kind of model. "
    return said + (
        "The activation peak is the weakest term: start the engine once and compare with `nbridge vram --run RUN`."
    )


def model_line(shape: Shape) -> str:
    """The model in one line: its parameters and what its weights take."""
    said = [shape.name]
    if shape.parameters is not None:
        active = shape.active_parameters
        of_them = f", {active:,} of them used for a token" if active != shape.parameters else ""
        towers = f", {shape.tower_parameters:,} of them for pictures or sound" if shape.tower_parameters else ""
        said.append(f"{shape.parameters:,} parameters{towers}{of_them}")
    scheme = "" if shape.scheme == "none" else f" as {shape.scheme}"
    size = shape.weights_bytes
    said.append(
        f"{size / 1e9:,.2f} GB of weights{scheme}" if size >= 1e9 else f"{size / 1e6:,.1f} MB of weights{scheme}"
    )
    return "\n".join([", ".join(said), *shape.notes])


def smallest(sets: Sequence[GpuSet], context_tokens: int, concurrency: int) -> RenderableType:
    """The smallest set of each kind of GPU on which a model fits."""
    if not sets:
        return Text("No set of GPUs in the catalog fits that.")
    table = tables.table()
    for column in ("GPU", "number", "parallel"):
        table.add_column(column)
    for column in ("left for cache", "rent per hour", "to buy"):
        table.add_column(column, justify="right")
    for one in sets:
        setting = one.estimate.setting
        ways = [f"tensor {setting.tensor_parallel}"] if setting.tensor_parallel > 1 else []
        ways += [f"pipeline {setting.pipeline_parallel}"] if setting.pipeline_parallel > 1 else []
        room = f"{gib(one.estimate.kv_room['mode'])}{' each' if one.gpus > 1 else ''}"
        tight = ", tight" if one.estimate.verdict == TIGHT else ""
        table.add_row(
            one.gpu.name,
            str(one.gpus),
            ", ".join(ways) or "no",
            room + tight,
            _usd(one.usd_per_hour),
            _usd(one.buy_usd),
        )
    note = "The GPUs alone; `nbridge prices` shows where each price is from and how old it is."
    return tables.titled(f"Smallest set of each GPU for {concurrency} × {context_tokens:,} tokens", table, note)


def startup(name: str, checks: Iterable[Check]) -> RenderableType:
    """One engine's estimate against vLLM's own figures."""
    table = tables.table()
    table.add_column("figure")
    for column in ("estimated", "reported", "estimated ÷ reported"):
        table.add_column(column, justify="right")
    table.add_column("")
    for check in checks:
        estimated, reported = in_words(check)
        kind = "exact" if check.exact else "in range"
        said = kind if check.inside else "off" if check.exact else "outside its range"
        table.add_row(check.name, estimated, reported, f"{check.ratio:.3f}", said)
    return tables.titled(f"{name}: estimated before the start, reported by vLLM after it", table)


def selection(made: Selection) -> RenderableType:
    """The choice, the other accepted candidates, and why the rest was rejected."""
    parts: list[RenderableType] = []
    if made.chosen is None:
        parts.append(Text(f"None of the {len(made.rejected)} candidates meets the requirements.\n"))
    else:
        first = made.accepted[0]
        proof = f"measured ({first.candidate.source})" if first.candidate.measured else "by bounds only: measure it"
        parts += [
            Text(f"Take {first.candidate.name}: it meets the requirements, {proof}.\n"),
            _accepted(made),
            Text(""),
        ]
    if made.rejected:
        parts.append(_rejected(made.rejected))
    return Group(*parts)


def prices(catalog: Catalog, today: datetime.date) -> RenderableType:
    """Every GPU price and machine with its source and age."""
    table = tables.table()
    for column in ("GPU", "term", "provider"):
        table.add_column(column)
    for column in ("price", "per month", "age in days"):
        table.add_column(column, justify="right")
    table.add_column("source")
    for name, price in catalog.prices():
        once = price.term == "buy"
        month = "" if once else _usd(price.usd_per_gpu.times(730), 0)
        per = "" if once else " /h"
        where = price.provider + (f", {price.instance}" if price.instance else "")
        table.add_row(name, price.term, where, _usd(price.usd_per_gpu) + per, month, _age(price, today), price.source)
    builds = tables.table()
    builds.add_column("name")
    for column in ("GPUs", "all parts", "power", "upkeep per month", "age in days"):
        builds.add_column(column, justify="right")
    builds.add_column("source")
    for build in catalog.builds.values():
        age = (today - build.retrieved).days
        builds.add_row(
            build.name,
            f"{build.gpus} × {build.gpu}",
            _usd(build.usd, 0),
            f"{build.power_w.mode:,.0f} W",
            _usd(build.maintenance_usd_per_month, 0),
            f"{age}{' stale' if age > STALE_AFTER_DAYS else ''}",
            build.source,
        )
    return Group(
        tables.titled("GPUs: US dollars for one GPU", table), Text(""), tables.titled("Machines to buy", builds)
    )


def api(asked: Sequence[ApiPrice]) -> RenderableType:
    """API prices of one request, in dollars per million tokens."""
    table = tables.table()
    table.add_column("model")
    for column in ("input", "cache read", "output", "batch in", "batch out"):
        table.add_column(column, justify="right")
    for one in asked:
        batch = (_rate(one.batch.input), _rate(one.batch.output)) if one.batch else ("", "")
        table.add_row(
            one.name, _rate(one.standard.input), _rate(one.standard.cache_read), _rate(one.standard.output), *batch
        )
    return tables.titled(f"API models: US dollars per million tokens, from {package_version()}", table)


def servers(made: Selection, peak_rps: float, headroom: float, spares: int) -> RenderableType:
    """How many servers of each accepted, measured candidate carry a peak, spares included."""
    table = tables.table()
    table.add_column("candidate")
    table.add_column("goodput of one", justify="right")
    table.add_column("servers", justify="right")
    for one in made.accepted:
        needed = count_servers(one.candidate, peak_rps, headroom=headroom, spares=spares)
        if needed is not None:
            table.add_row(one.candidate.name, f"{trimmed(one.candidate.goodput_rps)} requests/s", f"{needed:,}")
    if not table.row_count:
        return Text("No accepted candidate has a measured goodput: give --run of a run whose plan has an [slo].")
    plan = f"{headroom:.0%} of the goodput is planned with, {spares} spare"
    return tables.titled(f"Servers for {trimmed(peak_rps)} requests/s at the peak ({plan})", table)


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return ""
    return f"{rate.base:,.4g}" + "".join(f", {usd:,.4g} above {start:,}" for start, usd in rate.tiers)


def _budget(made: Estimate) -> RenderableType:
    table = tables.table()
    table.add_column("GiB")
    for column in ("low", "likely", "high"):
        table.add_column(column, justify="right")
    table.add_column("")

    def row(name: str, values: dict[str, float], note: str) -> None:
        figures = [f"{values[end] / (1 << 30):,.2f}" for end in _ENDS]
        table.add_row(name, *(["", figures[1], ""] if len(set(figures)) == 1 else figures), note)

    row("device memory", made.total.model_dump(), "what the driver reports")
    row("budget", made.budget.model_dump(), f"{made.setting.gpu_memory_utilization:.0%} of it")
    for term in made.terms:
        row(f"− {term.name}", term.bytes.model_dump(), f"{'exact' if term.exact else 'estimate'}: {term.why}")
    row("= room for the KV cache", made.kv_room, "low if every estimate is at its worst")
    if made.kv_bytes_per_token is not None:
        tokens = ["" if (held := made.kv_tokens(end)) is None else f"{held:,}" for end in _ENDS]
        kind = "exact" if made.exact_cache else "estimate"
        table.add_row("  in tokens", *tokens, f"{kind}: {made.kv_bytes_per_token / 1024:,.4g} KiB a token")
        if len(of_layers := kinds(made.caches or ())) > 1:
            table.add_row("  layers", "", "", "", ", ".join(f"{count} of {kind}" for kind, count in of_layers.items()))
    return tables.titled("Memory of one GPU" if made.setting.gpus == 1 else "Memory of the fullest GPU", table)


def _contexts(made: Estimate) -> RenderableType:
    longest = made.shape.context_tokens or _CONTEXTS[-1]
    table = tables.table()
    table.add_column("context", justify="right")
    table.add_column("requests", justify="right")
    table.add_column("at worst", justify="right")
    for context in sorted({*(c for c in _CONTEXTS if c < longest), longest}):
        table.add_row(f"{context:,}", f"{made.max_concurrency(context):,}", f"{made.max_concurrency(context, 'low'):,}")
    alone = made.max_context(1) or 0
    note = f"One request alone can have {alone:,} tokens"
    note += (
        "." if alone >= longest else f" of the model's {longest:,}: start vLLM with --max-model-len {alone} or less."
    )
    return tables.titled("Requests at once by context", table, note)


def _speeds(made: Estimate) -> RenderableType:
    count, half = made.setting.gpus, made.context_tokens // 2
    table = tables.table()
    for column in ("requests at once", "output tok/s", "TPOT", "limited by"):
        table.add_column(column, justify="right")
    for batch in (1, 8, 32, 128):
        if batch > 1 and batch > (made.max_concurrency(half) or 0):
            continue
        bound = decode_bound(
            made.shape,
            made.gpu,
            gpus=count,
            batch=batch,
            context_tokens=half,
            kv_bytes_per_value=made.setting.kv_bytes_per_value,
        )
        table.add_row(f"{batch}", number(bound.tok_s), seconds(bound.step_s), bound.limited_by)
    title = f"At best, with {half:,} tokens of context in use (roofline; no server reaches it)"
    if made.shape.multiplied_parameters is None:
        return tables.titled(title, table)
    prefill = prefill_bound(made.shape, made.gpu, gpus=count)
    note = (
        f"Prompts: at most {prefill.tok_s:,.0f} tok/s, so {trimmed(prefill.ttft_s(1000) * 1e3)} ms for 1,000 tokens; "
        "good kernels reach about half."
    )
    return tables.titled(title, table, note)


def _accepted(made: Selection) -> RenderableType:
    table = tables.table()
    table.add_column("candidate", no_wrap=True)
    for column in ("at once", "TTFT", "TPOT", "tok/s", "$/h", "$/M out", "quality"):
        table.add_column(column, justify="right")
    table.add_column("speeds")
    for one in made.accepted[:_MOST_ROWS]:
        what = one.candidate
        table.add_row(
            what.name,
            "" if what.concurrency is None else trimmed(what.concurrency),
            "" if what.ttft_s is None else seconds(what.ttft_s),
            "" if what.tpot_s is None else seconds(what.tpot_s),
            "" if what.output_tok_s is None else number(what.output_tok_s),
            "" if what.usd_per_hour is None else number(what.usd_per_hour),
            "" if what.usd_per_mtok is None else number(what.usd_per_mtok),
            "" if what.quality is None else f"{what.quality:.2f}",
            "measured" if what.measured else "bounds",
        )
    more = len(made.accepted) - _MOST_ROWS
    notes = [f"… and {more} more (--json lists all)."] if more > 0 else []
    return tables.titled(f"{len(made.accepted)} candidates meet the requirements, the best first", table, *notes)


def _rejected(rejected: Sequence[Judged]) -> RenderableType:
    table = tables.table()
    table.add_column("model")
    table.add_column("candidates", justify="right")
    table.add_column("because", overflow="fold")
    by_model: dict[str, list[Judged]] = {}
    for one in rejected:
        by_model.setdefault(one.candidate.model, []).append(one)
    for model, group in by_model.items():
        counts = Counter(reason for one in group for reason in one.reasons)
        common = [reason for reason, count in counts.items() if count == len(group)]
        shown = common or [group[0].reasons[0]]
        example = "" if common else f" ({group[0].candidate.name}; others for their own)"
        table.add_row(model, f"{len(group)}", "; ".join(shown) + example)
    return tables.titled(f"{len(rejected)} are rejected", table, "--json gives every candidate with its reasons.")


def _age(price: Price, today: datetime.date) -> str:
    age = (today - price.retrieved).days
    return f"{age}{' stale' if age > STALE_AFTER_DAYS else ''}"


def _usd(value: Spread | None, digits: int = 2) -> str:
    if value is None:
        return "not known"
    if value.is_point:
        return f"${value.mode:,.{digits}f}"
    return f"${value.mode:,.{digits}f} ({value.low:,.{digits}f} to {value.high:,.{digits}f})"
