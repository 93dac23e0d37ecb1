"""Figures of many runs over time as one SVG: a small panel for each, its level as a line, changes of level marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from inputs.quantities import TIME, scaled, trimmed
from reports.figures.drawing import ENGINES, INK, MUTED, STYLE
from reports.figures.svg import drawn

MOST_PANELS = 24
_COLUMNS = 3
_WIDTH_IN, _HEIGHT_IN = 2.55, 1.75
_BETTER, _WORSE = ENGINES[2], ENGINES[1]


@dataclass(frozen=True)
class Step:
    """A change of level: the place of its first run, the change in words, whether it is for the worse."""

    at: int
    words: str
    worse: bool


@dataclass(frozen=True)
class Panel:
    """One figure over the runs; `values` has one entry a run, None where there is none. `levels`: before the first
    step, between steps, and after the last."""

    title: str
    unit: str
    values: Sequence[float | None]
    levels: Sequence[float]
    steps: Sequence[Step]

    @property
    def words(self) -> str:
        said = "; ".join(f"{step.words} from run {step.at + 1} on" for step in self.steps)
        return f"{self.title}: {said or 'no change of level'}."


def timeline(panels: Sequence[Panel], dates: Sequence[str]) -> str:
    """The panels as one SVG, those with changes first; `dates` are the runs'. At most MOST_PANELS, and it says so."""
    order = sorted(panels, key=lambda panel: not panel.steps)
    shown = order[:MOST_PANELS]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(columns * _WIDTH_IN, rows * _HEIGHT_IN), layout="constrained")
        FigureCanvasSVG(figure)
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, place in zip(shown, places, strict=False):
            _draw(panel, place, dates)
        for place in places[len(shown) :]:
            place.set_axis_off()
        left = len(order) - len(shown)
        more = f" {left} figures without changes are not drawn." if left else ""
        words = f"{len(dates)} runs. " + " ".join(panel.words for panel in shown) + more
        return drawn(figure, "history", "Figures over time", words)


def _draw(panel: Panel, axes: Axes, dates: Sequence[str]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=7.5)
    known = [(i, value) for i, value in enumerate(panel.values) if value is not None]
    axes.plot(*zip(*known, strict=True), linestyle="none", marker="o", markersize=3, color=MUTED)
    bounds = [0, *(step.at for step in panel.steps), len(panel.values)]
    for level, start, end in zip(panel.levels, bounds, bounds[1:], strict=False):
        axes.plot([start - 0.3, end - 0.7], [level, level], color=ENGINES[0], linewidth=1.6)
    for step, level in zip(panel.steps, panel.levels[1:], strict=True):
        colour, marker = (_WORSE, "v") if step.worse else (_BETTER, "^")
        axes.axvline(step.at - 0.5, color=colour, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.plot([step.at], [level], marker=marker, markersize=6, color=colour)
        end = step.at > len(panel.values) / 2
        axes.annotate(
            step.words,
            (step.at - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if end else 2, -7),
            textcoords="offset points",
            ha="right" if end else "left",
            fontsize=7,
            color=INK,
        )
    low, high = min(value for _, value in known), max(value for _, value in known)
    room = (high - low or abs(high) or 1.0) * 0.35
    axes.set_ylim(low - room / 2, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, panel.unit)))
    last = len(dates) - 1
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_xticks([0, last] if last else [0], [date[:10] for date in ((dates[0], dates[last]) if last else dates)])
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left" if label is axes.get_xticklabels()[0] else "right")
    axes.tick_params(labelsize=7)


def _tick(value: float, unit: str) -> str:
    if unit != "s":
        return trimmed(value, 4)
    return scaled(value, TIME[3:], lambda amount: trimmed(amount, 4)) if value > 0 else "0"
