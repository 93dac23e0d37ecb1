"""The figures of a report as SVG.

Colour is never the only carrier: engines also differ by marker and dash, parts of a bar by hatching and place. Text
stays text. The same report gives the same bytes.
"""

from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from inputs.quantities import byte_size
from reports.figures.captions import (
    distribution_caption,
    distribution_words,
    memory_caption,
    memory_words,
    pareto_caption,
    pareto_words,
)
from reports.figures.drawing import (
    DIAMOND,
    ENGINES,
    MUTED,
    PAPER,
    RING,
    SHADE,
    STYLE,
    Picture,
    axes_of,
    figure_of,
    line_of,
    saved,
    style_of,
    time_axis,
)
from reports.figures.labels import Box, along, place
from reports.figures.memory_bars import byte_ticks, stacks
from reports.figures.pareto import Point, efficient, points
from reports.measured.cells import Cell, Report
from reports.measured.curves import Curve, steps
from reports.measured.repeats import CENTRAL_WORD, central
from reports.names import short_names, shortened

MAX_PANELS = 12
MAX_VERTICES = 4000  # points on all lines of one figure: keeps the file small
PARTS = ((ENGINES[0], "", "weights"), (ENGINES[1], "////", "KV cache"), (ENGINES[7], "\\\\", "rest of the peak"))


def pictures(report: Report) -> list[Picture]:
    """Every figure that the measured cells allow: throughput against latency, distributions, memory."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        found = [_pareto(report, metric) for metric in ("ttft_s", "e2e_s")]
        found += [_distribution(report, which) for which in ("ttft", "itl")]
        found.append(_memory(report))
    return [picture for picture in found if picture is not None]


def _pareto(report: Report, metric: str) -> Picture | None:
    """Output throughput against latency; one point per engine and load, repeats as small points around it."""
    statistic = central(report, metric)
    found = points(report, f"{metric}.{statistic}")
    if not found:
        return None
    label, word = {"ttft_s": "TTFT", "e2e_s": "E2E latency"}[metric], CENTRAL_WORD[statistic]
    spoken = {"ttft_s": "Time to first token (TTFT)", "e2e_s": "Whole answer, end to end (E2E)"}[metric]
    names = short_names(report.engines, 30)
    engines = list(dict.fromkeys(point.engine for point in found))
    handles: list[Artist] = [line_of(names[engine], **style_of(report, engine)) for engine in engines]
    handles.append(line_of("best trade-off", linestyle="none", markersize=9, **RING))
    figure, _ = figure_of(5.2, 3.55, handles)
    axes = axes_of(figure, 0.6, 0.48, 4.32, 2.95)
    everything = [pair for point in found for pair in (*point.repeats, (point.latency_s, point.tok_s))]
    low, high = min(x for x, _ in everything), max(x for x, _ in everything)
    time_axis(axes, max(low / 1.45, 0), high * 1.4)
    axes.set_ylim(0, 1.14 * max(y for _, y in everything) or 1)
    limit = _slo_limit(report, metric)
    if limit is not None:
        left, right = axes.get_xlim()
        axes.axvspan(left, min(max(limit, left), right), color=SHADE, zorder=0.1)
        if left < limit < right:
            axes.axvline(limit, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    for engine in engines:
        _draw_engine(axes, [p for p in found if p.engine == engine], style_of(report, engine))
    best = efficient(found)
    axes.plot([p.latency_s for p in best], [p.tok_s for p in best], linestyle="none", markersize=13, **RING)
    _label_points(axes, found)
    axes.set_xlabel(f"{spoken}, {word} – further left is better")
    axes.set_ylabel("Output tokens/s – higher is better")
    title = f"Output throughput against {word} {label}"
    caption = pareto_caption(report, found, title, label, limit)
    return saved(figure, f"throughput-{metric[:-2]}", title, pareto_words(found, word, label), caption)


def _slo_limit(report: Report, metric: str) -> float | None:
    limits = (((cell.metrics or {}).get("slo") or {}).get(metric) for cell in report.measured)
    return next((float(limit) for limit in limits if limit is not None), None)


def _lines(found: list[Point]) -> list[list[Point]]:
    """The points that a line connects: one engine's under loads of one kind and scenario."""
    keys = dict.fromkeys((p.engine, p.load.kind, p.load.scenario) for p in found)
    return [[p for p in found if (p.engine, p.load.kind, p.load.scenario) == key] for key in keys]


def _draw_engine(axes: Axes, found: list[Point], style: dict[str, Any]) -> None:
    edge: dict[str, Any] = {"markeredgecolor": PAPER, "markeredgewidth": 0.6}
    for line in _lines(found):
        axes.plot([p.latency_s for p in line], [p.tok_s for p in line], markersize=6.5, linewidth=1.3, **edge, **style)
    for point in found:
        if len(point.repeats) > 1:
            xs, ys = [x for x, _ in point.repeats], [y for _, y in point.repeats]
            axes.plot(xs, ys, **{**style, "linestyle": "none"}, markersize=2.6)
            axes.plot([min(xs), max(xs)], [point.tok_s] * 2, color=style["color"], linewidth=0.9)
            axes.plot([point.latency_s] * 2, [min(ys), max(ys)], color=style["color"], linewidth=0.9)


def _label_points(axes: Axes, found: list[Point]) -> None:
    """Write each point's load beside it, clear of markers, lines and each other."""

    def pixel(point: Point) -> tuple[float, float]:
        x, y = axes.transData.transform((point.latency_s, point.tok_s))
        return float(x), float(y)

    scale = Figure().dpi / 72.0
    frame = Box(axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    obstacles = [box for line in _lines(found) for box in along([pixel(p) for p in line])]
    texts = [p.load.short for p in found]
    centres = place([pixel(p) for p in found], texts, frame, obstacles=obstacles, size=8.0 * scale, radius=8.5 * scale)
    for text, centre in zip(texts, centres, strict=True):
        x, y = axes.transData.inverted().transform(centre)
        axes.text(x, y, text, fontsize=8, ha="center", va="center_baseline")


def _curve(cell: Cell, which: str) -> Curve | None:
    return cell.ttft if which == "ttft" else cell.itl if which == "itl" else cell.chunk_gap


def _distribution(report: Report, which: str) -> Picture | None:
    """Small multiples of ECDFs: one panel per load, one line per engine and repeat."""
    if which == "itl" and any(cell.itl is None and cell.chunk_gap is not None for cell in report.measured):
        which = "chunk_gap"  # where one server does not count tokens per chunk, ITLs would compare unlike things
    curves = [(cell, curve) for cell in report.measured if (curve := _curve(cell, which))]
    panels = [load for load in report.loads if any(cell.load == load for cell, _ in curves)]
    if not panels:
        return None
    left_out, panels = len(panels) - MAX_PANELS, panels[:MAX_PANELS]
    curves = [(cell, curve) for cell, curve in curves if cell.load in panels]
    names = short_names(report.engines, 30)
    engines = [engine for engine in report.engines if any(cell.engine == engine for cell, _ in curves)]
    handles: list[Artist] = [line_of(names[e], **{**style_of(report, e), "marker": "None"}) for e in engines]
    label = {"ttft": "TTFT", "itl": "ITL", "chunk_gap": "chunk gap"}[which]
    spoken = {"ttft": "Time to first token", "itl": "Inter-token latency", "chunk_gap": "Chunk gap"}[which]
    columns = min(3, len(panels))
    panel_w, panel_h = (3.0, 2.0) if columns > 1 else (4.5, 2.6)
    rows = -(-len(panels) // columns)
    figure, _ = figure_of(0.6 + columns * (panel_w + 0.2), rows * (panel_h + 0.55) + 0.2, handles)
    low = min(curve.quantile(0.01) for _, curve in curves) * 0.85
    high = max(max(curve.values_s[-1] for _, curve in curves) * 1.1, low * 1.5, 1e-9)
    for index, load in enumerate(panels):
        row, column = divmod(index, columns)
        bottom = 0.48 + (rows - 1 - row) * (panel_h + 0.55)
        axes = axes_of(figure, 0.6 + column * (panel_w + 0.2), bottom, panel_w, panel_h)
        time_axis(axes, low, high)
        for cell, curve in curves:
            if cell.load == load:
                xs, ys = steps(curve, max(24, MAX_VERTICES // (2 * len(curves))))
                axes.plot(xs, ys, linewidth=1.4, **{**style_of(report, cell.engine), "marker": "None"})
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1.0]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title(shortened(load.label, 44), loc="left")
        axes.tick_params(labelleft=not column)
        if index + columns >= len(panels):
            axes.set_xlabel(spoken)
    return saved(
        figure,
        f"distribution-{which.replace('_', '-')}",
        f"Distribution of {label}",
        distribution_words(curves, label),
        distribution_caption(report, which, label, left_out),
    )


def _memory(report: Report) -> Picture | None:
    """Stacked bars: weights, KV cache and the rest of the server's peak memory."""
    found = stacks(report)
    if not found:
        return None
    names = short_names(report.engines, 30)
    handles: list[Artist] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, label=label)
        for index, (colour, hatch, label) in enumerate(PARTS)
        if any(stack.parts[index] is not None for stack in found)
    ]
    if any(stack.peak_bytes is not None for stack in found):
        handles.append(line_of("largest sample", linestyle="none", **DIAMOND))
    left = 0.25 + 0.078 * max(len(names[stack.engine]) for stack in found)
    figure, _ = figure_of(7.6, 0.72 + 0.42 * len(found), handles)
    axes = axes_of(figure, left, 0.48, 7.6 - left - 0.75, 0.1 + 0.42 * len(found))
    highest = max(stack.extent_bytes for stack in found)
    for row, stack in enumerate(found):
        start = 0.0
        for size, (colour, hatch, _) in zip(stack.parts, PARTS, strict=True):
            if size is not None:
                axes.barh(row, size, left=start, height=0.56, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.8)
                start += size
        if stack.peak_bytes is not None:
            axes.plot([stack.peak_bytes], [row], linestyle="none", markersize=6, **DIAMOND)
        axes.text(stack.extent_bytes + highest * 0.015, row, byte_size(stack.extent_bytes), va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [names[stack.engine] for stack in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, highest * 1.02)
    axes.xaxis.set_major_locator(FixedLocator(byte_ticks(highest)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_size(value) if value else "0"))
    axes.set_xlabel(f"{found[0].kind} – shorter is better")
    return saved(figure, "memory", "Memory of each engine", memory_words(found), memory_caption(report, found))
