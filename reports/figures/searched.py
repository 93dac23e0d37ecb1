"""The figure of a search: the limiting latency and the goodput over the level, with the SLO and every verdict."""

from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bench.capacity import words
from inputs.quantities import TIME, number, scaled, share, trimmed
from reports.figures.drawing import (
    INK,
    MUTED,
    PAPER,
    SHADE,
    STYLE,
    Picture,
    axes_of,
    figure_of,
    line_of,
    saved,
    style_of,
)
from reports.measured.cells import Cell, Report
from reports.measured.searches import Search, point_level, point_verdict, shown_condition
from reports.names import short_names, shortened

_MARKS: dict[str, dict[str, Any]] = {
    "pass": {"marker": "o", "markersize": 6},
    "fail": {"marker": "X", "markersize": 7},
    "invalid": {"marker": "D", "markersize": 5.5, "markerfacecolor": PAPER},
}
_LABELS = {"pass": "met the SLO", "fail": "missed it", "invalid": "invalid: not counted"}
_WIDTH_IN, _PANEL_IN = 7.4, 1.95


def searched(report: Report, found: tuple[Search, ...]) -> Picture | None:
    """Every point of every search; None when no point was measured at a level."""
    drawn = [(one, cell) for one in found for cell in one.points if point_level(cell) is not None]
    if not drawn:
        return None
    name = shown_condition(found)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        engines = list(dict.fromkeys(one.engine for one, _ in drawn))
        short = short_names(report.engines, 30)
        handles: list[Artist] = [line_of(short[e], **{**style_of(report, e), "marker": "None"}) for e in engines]
        present = {point_verdict(cell) for _, cell in drawn}
        handles += [
            line_of(_LABELS[verdict], linestyle="none", color=INK, **mark)
            for verdict, mark in _MARKS.items()
            if verdict in present
        ]
        handles.append(line_of("the SLO", color=MUTED, linestyle=(0, (4, 2))))
        if any(one.answer["value"] is not None for one in found):
            handles.append(Patch(facecolor=SHADE, label="interval of the capacity"))
        figure, _ = figure_of(_WIDTH_IN, 2 * _PANEL_IN + 0.95, handles)
        above = axes_of(figure, 0.75, _PANEL_IN + 0.75, _WIDTH_IN - 0.95, _PANEL_IN)
        below = axes_of(figure, 0.75, 0.48, _WIDTH_IN - 0.95, _PANEL_IN)
        for axes in (above, below):
            _levels(axes, [point_level(cell) or 1.0 for _, cell in drawn])
            for one in found:
                if one.answer["value"] is not None:
                    axes.axvspan(one.answer["low"], one.answer["high"], color=SHADE, zorder=0.1)
        _latency(report, above, found, name)
        _goodput(report, below, found)
        above.tick_params(labelbottom=False)
        over = found[0].answer["over"]
        below.set_xlabel("Requests/s offered" if over == "rate" else "Concurrent requests")
        title = f"{name} and goodput over the {'rate' if over == 'rate' else 'concurrency'}"
        return saved(figure, "capacity", title, _description(found, name), _caption(found, name))


def _levels(axes: Axes, levels: list[float]) -> None:
    """A logarithmic axis from the lowest to the highest level."""
    low, high = min(levels), max(levels)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high / low > 4 else range(1, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: trimmed(value, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _latency(report: Report, axes: Axes, found: tuple[Search, ...], name: str) -> None:
    is_time = "_" in name
    limit = found[0].answer["limits"][name]
    values = [v for one in found for cell in one.points if (v := _value(cell, name)) is not None and v > 0]
    low, high = min([*values, limit]), max([*values, limit])
    if is_time and high / low > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if high / low > 60 else (1.0, 3.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / 1.5, high * 2.2)
    else:
        axes.set_ylim(0, high * 1.25)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, is_time=is_time)))
    axes.axhline(limit, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
    edge = axes.get_ylim()[1]
    for one in found:
        _draw(report, axes, one, [(cell, _value(cell, name)) for cell in one.points], edge)
    axes.set_ylabel(name)


def _goodput(report: Report, axes: Axes, found: tuple[Search, ...]) -> None:
    pairs = [(one, [(cell, cell.judged.goodput_rps if cell.judged else None) for cell in one.points]) for one in found]
    highest = max((value for _, cells in pairs for _, value in cells if value is not None), default=1.0)
    axes.set_ylim(0, 1.2 * highest or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for one, cells in pairs:
        _draw(report, axes, one, cells, None)
    axes.set_ylabel("Goodput, requests/s")


def _draw(report: Report, axes: Axes, one: Search, cells: list[tuple[Cell, float | None]], edge: float | None) -> None:
    """One search's points; a fail without a value is drawn at the upper `edge`."""
    style = style_of(report, one.engine)
    at = [(level, value, point_verdict(cell)) for cell, value in cells if (level := point_level(cell)) is not None]
    line = sorted((level, value) for level, value, verdict in at if value is not None and verdict != "invalid")
    if line:
        axes.plot(*zip(*line, strict=True), color=style["color"], linestyle=style["linestyle"], linewidth=1.1)
    for level, value, verdict in at:
        if value is None and (edge is None or verdict != "fail"):
            continue
        axes.plot(
            [level],
            [value if value is not None else edge or 0.0],
            color=style["color"],
            markeredgecolor=style["color"],
            linestyle="none",
            clip_on=value is not None,
            **_MARKS[verdict],
        )


def _value(cell: Cell, name: str) -> float | None:
    return cell.judged.figures.get(name) if cell.judged and point_level(cell) is not None else None


def _tick(value: float, *, is_time: bool) -> str:
    if not is_time:
        return share(value)
    return scaled(value, TIME[3:], lambda amount: trimmed(amount, 4)) if value > 0 else "0"


def _caption(found: tuple[Search, ...], name: str) -> str:
    text = (
        f"Above: {name} of every point of the search, after its warm-up, against the SLO. Below: requests answered "
        "within the limits per second. Shaded: the interval of each engine's capacity."
    )
    if any(
        _value(c, name) is None and point_verdict(c) == "fail" for one in found for c in one.points if point_level(c)
    ):
        text += " A cross at the upper edge was ended early, as soon as it could no longer pass: it has no value."
    return text


def _description(found: tuple[Search, ...], name: str) -> str:
    parts = []
    for one in found:
        verdicts = [
            f"{number(point_level(cell))} {point_verdict(cell)}" for cell in one.points if point_level(cell) is not None
        ]
        parts.append(f"{shortened(one.engine, 60)}: {words.capacity(one.answer)}; points: {', '.join(verdicts)}")
    return f"{name} and goodput over the level. {'. '.join(parts)}."
