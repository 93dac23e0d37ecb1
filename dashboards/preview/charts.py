"""Panels as SVG, drawn by matplotlib. Colours are CSS variables of the page, so one drawing serves light and dark."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dashboards.grafana.panels import Panel
from dashboards.preview.source import Series, clock
from dashboards.preview.units import words
from dashboards.theme import DARK, LIGHT
from reports.figures.svg import TEXT_STAYS_TEXT, drawn, themed

SHOWN = 8  # as many lines as there are colours; more would not be told apart
RIGHT, TOP, BOTTOM = 18.0, 8.0, 20.0  # CSS pixels around what is drawn; at the left it depends on the labels
DIGIT = 6.2  # the width of a character on an axis, at 11 px
DAY_S = 86400.0  # matplotlib counts time in days

# On light and on dark. Amber is yellow as a ground; what is written on a ground is `on` it.
STATUS = {
    "green": (LIGHT.series[2], DARK.series[2]),
    "blue": (LIGHT.series[0], DARK.series[0]),
    "yellow": ("#b07500", "#e0b050"),
    "red": ("#b3261e", "#ff8577"),
    "amber": ("#e0a526", "#e0b050"),
    "on": ("#fefefe", "#10141a"),
    "on-amber": ("#1b2330", "#10141a"),
}
_VARIABLES = {
    **{light: f"--{name}" for name, (light, _) in STATUS.items()},
    **{colour: f"--s{index}" for index, colour in enumerate(LIGHT.series)},
    LIGHT.muted: "--muted",
    LIGHT.grid: "--grid",
}
_STYLE: dict[Any, Any] = {
    **TEXT_STAYS_TEXT,
    "font.size": 11,
    "axes.axisbelow": True,
    "grid.color": LIGHT.grid,
    "grid.linewidth": 1,
    "xtick.major.pad": 7,
    "xtick.labelcolor": LIGHT.muted,
    "ytick.labelcolor": LIGHT.muted,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0,
}
_LIMIT: dict[str, Any] = {"linewidth": 1.4, "dashes": (4.3, 2.9), "clip_on": False}

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The time shown, the step of its points, and the size of the drawing in CSS pixels."""

    start_s: float
    end_s: float
    step_s: float
    width: float
    height: float

    @property
    def days(self) -> Values:
        """The instant of each step."""
        steps = np.arange(round((self.end_s - self.start_s) / self.step_s) + 1, dtype=np.float64)
        return (self.start_s + self.step_s * steps) / DAY_S

    def values(self, series: Series) -> Values:
        """The value at each step; NaN where there is none, or none that has a place."""
        values = np.full(len(self.days), np.nan)
        for at_s, value in series.points:
            if math.isfinite(value):
                values[round((at_s - self.start_s) / self.step_s)] = value
        return values


@dataclass(frozen=True)
class Named:
    """A series with what the legend calls it; a `limit` is drawn as one."""

    name: str
    series: Series
    limit: bool = False


def line_chart(panel: Panel, series: Sequence[Named], frame: Frame) -> str:
    """Lines, or areas on top of each other where the panel is stacked; at most `SHOWN` of them.

    A gap in the points is a gap in the line.
    """
    tops = np.array([frame.values(one.series) for one in series])
    floors = np.zeros_like(tops)
    if panel.stacked:
        floors, tops = stacked(tops)
    limits = panel.limits.steps if panel.limits else ()
    ticks = _steps(panel, tops[np.isfinite(tops)].tolist(), [value for value, _ in limits])
    with mpl.rc_context(_STYLE):
        axes = _axes(frame, ticks, [words(value, panel.unit) for value in ticks])
        axes.set_ylim(ticks[0], ticks[-1])
        for value, name in limits:
            if ticks[0] <= value <= ticks[-1]:
                axes.axhline(value, color=STATUS[name][0], **_LIMIT)
        for one, colour, floor, top in zip(series, LIGHT.series, floors, tops, strict=False):
            if one.limit:
                axes.plot(frame.days, top, color=STATUS["red"][0], **_LIMIT)
                continue
            axes.plot(frame.days, top, color=colour, linewidth=1.8, clip_on=False)
            there = np.pad(np.isfinite(top), 1)
            alone = there[1:-1] & ~there[:-2] & ~there[2:]  # a line from nowhere to nowhere is seen as a dot only
            axes.plot(frame.days[alone], top[alone], color=colour, linestyle="none", marker="o", markersize=4)
            if panel.stacked or len(series) == 1:
                axes.fill_between(frame.days, floor + (not panel.stacked) * ticks[0], top, color=colour, alpha=0.16)
        return _finished(axes, panel, "Over time: " + ", ".join(one.name for one in series))


def heat_chart(panel: Panel, series: Sequence[Named], frame: Frame) -> str:
    """A histogram over time: one row a bucket, darker for more observations. Empty buckets at the ends are left out."""
    buckets = sorted((_bound(one.series.labels.get("le", "")), index) for index, one in enumerate(series))
    # A bucket counts all below its bound; one that says nothing at an instant holds what the one below holds.
    within = [np.zeros_like(frame.days), *(frame.values(series[index].series) for _, index in buckets)]
    inside = np.diff(np.fmax.accumulate(within), axis=0)
    used = np.flatnonzero(inside.any(axis=1))
    if not len(used):
        return ""
    first, last = max(0, int(used[0]) - 1), min(len(buckets) - 1, int(used[-1]) + 1)
    every = max(1, math.ceil((last + 1 - first) * 13 / (frame.height - TOP - BOTTOM)))
    bounds = {row + 1.0: buckets[row][0] for row in range(first, last + 1, every) if math.isfinite(buckets[row][0])}
    with mpl.rc_context(_STYLE):
        axes = _axes(frame, list(bounds), [words(bound, panel.unit) for bound in bounds.values()])
        axes.set_ylim(first, last + 1)
        step = frame.step_s / DAY_S
        for row in used:
            filled = np.flatnonzero(inside[row])
            shades = 0.12 + 0.88 * np.sqrt(inside[row][filled] / inside.max())
            colours = [(LIGHT.series[0], round(float(shade), 2)) for shade in shades]
            axes.broken_barh([(day - step, step) for day in frame.days[filled]], (row, 0.95), facecolors=colours)
        return _finished(axes, panel, f"{len(buckets)} buckets over time")


def state_chart(panel: Panel, series: Sequence[Named], frame: Frame) -> str:
    """A bar for each series over time, coloured and named by its value; nothing where it has none."""
    names = {value: (text, colour) for value, text, colour in panel.names}
    said = []
    with mpl.rc_context(_STYLE):
        axes = _axes(frame, range(len(series)), [one.name for one in series])
        axes.grid(visible=False)
        axes.set_ylim(max(len(series), axes.bbox.height / 26) - 0.5, -0.5)  # a bar is at most 26 pixels high
        day = axes.bbox.width * DAY_S / (frame.end_s - frame.start_s)  # in pixels
        for row, one in enumerate(series):
            for value, start, end in _spans(frame.values(one.series), frame):
                text, colour = names.get(value, (f"{value:g}", "blue"))
                ground, ink = ("amber", "on-amber") if colour == "yellow" else (colour, "on")
                axes.barh(row, max(2 / day, end - start), left=start, height=0.84, color=STATUS[ground][0])
                if (end - start) * day > 7 * len(text) + 10:
                    axes.text(start + 6 / day, row, text, color=STATUS[ink][0], weight="bold", va="center")
                said.append(f"{one.name}: {text}, {clock(start * DAY_S)} to {clock(end * DAY_S)}")
        return _finished(axes, panel, "; ".join(said))


def stacked(values: Values) -> tuple[Values, Values]:
    """The lower and the upper edge of each series (a row of `values`) when it stands on those before it.

    One that is 0 throughout has no area and would hide the line below: its upper edge is NaN.
    """
    heights = np.nan_to_num(values)
    tops = heights.cumsum(axis=0)
    return tops - heights, np.where(np.isnan(values) | ~heights.any(axis=1, keepdims=True), np.nan, tops)


def _steps(panel: Panel, values: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Round values that cover all `values`, and the limits that they come near; bytes are round in their own unit."""
    highest = max(values, default=1.0)
    low = panel.minimum if panel.minimum is not None else min(values, default=0.0)
    near = [value for value in limits if value <= highest * 1.6]
    high = panel.maximum if panel.maximum is not None else max([highest, *near])
    if high <= low:
        high = low + 1
    size = 1024.0 ** max(0, math.floor(math.log(high, 1024))) if panel.unit == "bytes" and high > 0 else 1.0
    ticks = np.asarray(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low / size, high / size))
    return [round(float(value) * size, 12) for value in ticks]


def _axes(frame: Frame, ticks: Sequence[float], labels: Sequence[str]) -> Axes:
    """Axes over the time of `frame`, with room for the labels at the left; a point of matplotlib is a pixel here."""
    figure = Figure(figsize=(frame.width / 72, frame.height / 72), dpi=72, frameon=False)
    FigureCanvasSVG(figure)
    left = 14 + DIGIT * max(map(len, labels), default=0)
    across, up = frame.width - left - RIGHT, frame.height - TOP - BOTTOM
    place = (left / frame.width, BOTTOM / frame.height, across / frame.width, up / frame.height)
    axes = figure.add_axes(place, frameon=False)
    axes.set_yticks(ticks, labels)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.set_xlim(frame.start_s / DAY_S, frame.end_s / DAY_S)
    locator = AutoDateLocator(minticks=2, maxticks=max(3, int(across / 75)))  # type: ignore[no-untyped-call]
    # Year, month, day, hour, minute, second: matplotlib's own ":30" says too little beside nothing else.
    forms = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
    axes.xaxis.set_major_locator(locator)
    clocks = ConciseDateFormatter(locator, formats=forms, zero_formats=forms, show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(clocks)
    return axes


def _finished(axes: Axes, panel: Panel, description: str) -> str:
    name = re.sub(r"\W+", "-", panel.title.lower())
    return themed(drawn(cast("Figure", axes.figure), name, panel.title, description), _VARIABLES)


def _spans(values: Values, frame: Frame) -> Iterator[tuple[float, float, float]]:
    """(value, first day, last day) of stretches with one value; each point stands for the step that ends with it."""
    for value, run in itertools.groupby(range(len(values)), key=lambda index: float(values[index])):
        if math.isfinite(value):
            steps = list(run)
            yield value, max(frame.days[0], frame.days[steps[0]] - frame.step_s / DAY_S), frame.days[steps[-1]]


def _bound(le: str) -> float:
    return math.inf if le == "+Inf" else float(le)
