"""Quality against throughput: what an engine's speed costs in predictions."""

from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from inputs.quantities import number, plural
from reports.figures.drawing import (
    INK,
    MUTED,
    PAPER,
    STYLE,
    Picture,
    axes_of,
    figure_of,
    line_of,
    saved,
    style_of,
)
from reports.figures.labels import Box, along, place
from reports.measured.cells import Json, Report
from reports.names import listing, short_names
from reports.statements.quality import NOT_APPLIED, baseline, delta, quality_models, scored, speed_models, standing
from reports.tables import best

NAME = "quality"
_ERRORS = 2  # standard errors that a bar reaches to each side


def quality_picture(report: Report) -> Picture | None:
    """ΔNLL upwards, the best output throughput to the right, one point per engine; None with fewer than two."""
    base = (report.document.get("quality") or {}).get("baseline")
    points = [
        (entry, found.median)
        for entry in scored(report)
        if (entry["against"] or entry["engine"] == base) and (found := best(report, entry["engine"])[0]) is not None
    ]
    if len(points) < 2:
        return None
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        return _drawn(report, points)


def _drawn(report: Report, points: list[tuple[Json, float]]) -> Picture:
    names = short_names(report.engines, 30)
    handles: list[Artist] = [line_of(names[e["engine"]], **_mark(report, e)) for e, _ in points]
    if any(standing(entry) == NOT_APPLIED for entry, _ in points):
        handles.append(line_of("hollow: not applied", **_hollow("o", MUTED)))
    figure, _ = figure_of(6.2, 3.3, handles)
    axes = axes_of(figure, 0.85, 0.48, 5.2, 2.7)
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    for entry, tok_s in points:
        mark, (delta_nll, error) = _mark(report, entry), _value(entry)
        axes.plot([tok_s] * 2, [delta_nll - _ERRORS * error, delta_nll + _ERRORS * error], color=mark["color"])
        axes.plot([tok_s], [delta_nll], markersize=7.5, **mark)
    axes.set_xlim(0, 1.14 * max(tok_s for _, tok_s in points))
    low, high = _range(points)
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    _label(axes, [(tok_s, _value(entry)) for entry, tok_s in points], [names[e["engine"]] for e, _ in points])
    axes.set_xlabel("Output tokens/s, best measured – further right is better")
    axes.set_ylabel("ΔNLL, nats a token – lower is better")
    return saved(figure, NAME, "Quality against throughput", _words(report, points), _caption(report, points))


def _mark(report: Report, entry: Json) -> dict[str, Any]:
    style = style_of(report, entry["engine"])
    if standing(entry) == NOT_APPLIED:
        return _hollow(style["marker"], style["color"])
    return {**style, "linestyle": "none", "markeredgecolor": PAPER, "markeredgewidth": 0.6}


def _hollow(marker: str, colour: str) -> dict[str, Any]:
    return {
        "marker": marker,
        "color": colour,
        "linestyle": "none",
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": 1.2,
    }


def _value(entry: Json) -> tuple[float, float]:
    """(ΔNLL, its standard error); nothing for the baseline itself."""
    against = entry["against"]
    return (against["delta_nll"], against["delta_nll_se"]) if against else (0.0, 0.0)


def _range(points: list[tuple[Json, float]]) -> tuple[float, float]:
    reach = [value + side * _ERRORS * error for value, error in (_value(e) for e, _ in points) for side in (-1, 1)]
    low, high = min(0.0, *reach), max(0.0, *reach)
    return (low, high) if high - low > 1e-5 else (-1e-3, 1e-3)


def _label(axes: Axes, points: list[tuple[float, tuple[float, float]]], texts: list[str]) -> None:
    """Write each engine's name beside its point, clear of bars and each other."""

    def pixel(x: float, y: float) -> tuple[float, float]:
        found = axes.transData.transform((x, y))
        return float(found[0]), float(found[1])

    scale = Figure().dpi / 72.0
    frame = Box(axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    lines = [[pixel(x, y - _ERRORS * error), pixel(x, y + _ERRORS * error)] for x, (y, error) in points]
    lines.append([pixel(0, 0), pixel(axes.get_xlim()[1], 0)])
    drawn = [box for line in lines for box in along(line)]
    centres = place(
        [pixel(x, y) for x, (y, _) in points], texts, frame, obstacles=drawn, size=8.0 * scale, radius=8.5 * scale
    )
    for text, centre in zip(texts, centres, strict=True):
        x, y = axes.transData.inverted().transform(centre)
        axes.text(x, y, text, fontsize=8, ha="center", va="center_baseline", color=INK)


def _words(report: Report, points: list[tuple[Json, float]]) -> str:
    said = [
        f"{entry['engine']}: {number(tok_s)} tokens/s, "
        + (f"ΔNLL {delta(entry)}" if entry["against"] else "the baseline")
        for entry, tok_s in points
    ]
    return f"ΔNLL against {baseline(report)} and the best output tokens per second. {'; '.join(said)}."


def _caption(report: Report, points: list[tuple[Json, float]]) -> str:
    text = (
        f"Quality against throughput. The dashed line is {baseline(report)}; above it predictions are worse, and bars "
        f"reach {_ERRORS} standard errors to each side."
    )
    speed, quality = speed_models(report), quality_models(report)
    if speed != quality:
        text += (
            f" Tokens/s are of {listing(speed)}, ΔNLL is of {listing(quality)}: the same settings on two models, so "
            "each axis stands for itself."
        )
    drawn = {entry["engine"] for entry, _ in points}
    if left := [engine for engine in report.engines if engine not in drawn]:
        text += f" Without both figures, and so not drawn: {plural(len(left), 'engine')} ({listing(left, 6)})."
    return text
