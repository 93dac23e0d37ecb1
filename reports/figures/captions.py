"""What a figure shows, in words: captions for everyone, descriptions for those who do not see it. Pure."""

from inputs.quantities import number, plural, seconds, share, trimmed
from reports.figures.memory_bars import Stack
from reports.figures.pareto import Point
from reports.measured.cells import Cell, Report
from reports.measured.curves import Curve
from reports.measured.timelines import POINTS, Series, Timeline
from reports.names import listing, shortened

_MOST_CURVES = 24


def pareto_caption(report: Report, found: list[Point], title: str, label: str, limit_s: float | None) -> str:
    """The caption of throughput against latency."""
    text = (
        f"{title}. Each point is one engine under one load; the number beside it is the load: concurrent "
        "requests, or requests/s where it ends in “/s”. Ringed points are the best trade-offs (Pareto-efficient): "
        "no other point is both faster and higher."
    )
    if any(len(point.repeats) > 1 for point in found):
        text += " Large points are medians over the repeats, small points single repeats, bars their range."
    text += not_drawn(report)
    if limit_s is not None:
        text += f" Shaded: within the SLO, {label} ≤ {seconds(limit_s)}."
    return text


def not_drawn(report: Report) -> str:
    """Which cells a figure of measurements leaves out; empty when it leaves out none."""
    absent = [cell.id for cell in report.cells if not cell.measured]
    if not absent:
        return ""
    return f" Without a valid measurement, and so not drawn: {plural(len(absent), 'cell')} ({listing(absent, 6)})."


def pareto_words(found: list[Point], word: str, label: str) -> str:
    """Every point of throughput against latency."""
    by_engine: dict[str, list[str]] = {}
    for point in found:
        by_engine.setdefault(point.engine, []).append(
            f"{point.load.label}: {number(point.tok_s)} tokens/s at {seconds(point.latency_s)}"
        )
    text = ". ".join(f"{shortened(engine, 60)}: {'; '.join(parts)}" for engine, parts in by_engine.items())
    return f"Output tokens per second against {word} {label}. {text}."


def distribution_caption(report: Report, which: str, label: str, left_out: int) -> str:
    """The caption of the distribution of a latency; `left_out` loads are not drawn."""
    what = {"ttft": "requests", "itl": "tokens", "chunk_gap": "chunks"}[which]
    text = (
        f"Distribution of {label}: how large a share of {what} (upwards) had at most that {label} (to the right). A "
        "line further left is faster, a steeper one steadier."
    )
    if which == "chunk_gap":
        text += " Chunk gaps are drawn because a server did not count the tokens of each chunk: the ITL is not known."
    if any(cell.repeat > 1 for cell in report.measured):
        text += " One line per repeat."
    text += not_drawn(report)
    if left_out > 0:
        text += f" {plural(left_out, 'heavier load is', 'heavier loads are')} not drawn; the tables have every load."
    return text


def distribution_words(curves: list[tuple[Cell, Curve]], label: str) -> str:
    """Median and maximum of every line of a distribution."""
    parts = [
        f"{shortened(cell.engine, 40)}, {cell.load.label}, repeat {cell.repeat}: half within "
        f"{seconds(curve.quantile(0.5))}, all within {seconds(curve.values_s[-1])}"
        for cell, curve in curves[:_MOST_CURVES]
    ]
    left = len(curves) - _MOST_CURVES
    more = f"; and {plural(left, 'more line')}" if left > 0 else ""
    return f"Share of values of {label} not above a time. {'; '.join(parts)}{more}."


def memory_caption(report: Report, found: list[Stack]) -> str:
    """The caption of the memory figure, with what is not known."""
    text = f"{found[0].kind} of each engine, by what holds it."
    if any(stack.peak_bytes is not None for stack in found):
        text += " The diamond is the largest sample taken while the loads ran."
    below = [stack.engine for stack in found if stack.reserved_only]
    if below:
        text += (
            f" The largest sample of {listing(below)} is below weights and KV cache together: the cache is reserved "
            "when the server starts but becomes resident only as it is used, so the rest cannot be told."
        )
    lacking = [f"{stack.engine} ({listing(stack.unknown)})" for stack in found if stack.unknown]
    lacking += [engine for engine in report.engines if engine not in {stack.engine for stack in found}]
    if lacking:
        text += f" Not known and therefore not drawn: {listing(lacking)}."
    return text


def memory_words(found: list[Stack]) -> str:
    """Every part of every bar of the memory figure."""
    return ". ".join(f"{shortened(stack.engine, 60)}: {stack.words()}" for stack in found) + "."


def told(line: Timeline) -> tuple[tuple[Series, str], ...]:
    """What a server may say of itself over time, each with its name; empty where it does not."""
    return (
        (line.running, "running"),
        (line.waiting, "waiting"),
        (line.kv_usage, "KV cache in use"),
        (line.prefix_hits, "prefix cache hits"),
    )


def over_time_caption(cell: Cell, line: Timeline) -> str:
    """The caption of a cell over time, with what the server did not tell."""
    which = f"{cell.engine}, {cell.load.label}{'' if cell.measured else ' (invalid)'}"
    text = f"{which}: each request's TTFT at the time it was sent, above what the server said of itself."
    if line.requests > POINTS:
        text += f" Of {line.requests:,} requests the slowest of each of {POINTS} stretches of time is drawn."
    if line.window_s:
        text += " Shaded: the window of throughput."
    if line.prefix_hits:
        text += " Prefix cache hits are the share of the prompt tokens looked up since the last sample."
    absent = [label for series, label in told(line) if not series]
    if absent:
        text += f" The server did not tell: {', '.join(absent)}."
    if line.preempted is not None:
        said = plural(line.preempted, "preemption") if line.preempted else "No preemption"
        text += f" {said}."
    return text


def over_time_words(cell: Cell, line: Timeline) -> str:
    """From where to where each line of a cell over time goes."""
    parts = [f"{cell.id}, {seconds(line.until_s)} long"]
    if line.ttft_s:
        parts.append(f"TTFT from {seconds(min(line.ttft_s.values))} to {seconds(max(line.ttft_s.values))}")
    for series, label in told(line):
        if series:
            low, high = min(series.values), max(series.values)
            said = (share(low), share(high)) if "cache" in label else (trimmed(low), trimmed(high))
            parts.append(f"{label} from {said[0]} to {said[1]}")
    if line.preempted is not None:
        parts.append(plural(line.preempted, "preemption"))
    return f"{'; '.join(parts)}."
