"""What the figures of a report have in common: colours, markers, axes, a legend on top, and the way to SVG."""

from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from inputs.quantities import TIME, scaled, trimmed
from reports.figures.labels import columns_that_fit
from reports.figures.svg import TEXT_STAYS_TEXT, drawn
from reports.measured.cells import Report

INK, MUTED, GRID, PAPER, SHADE = "#1b2430", "#566170", "#d5dae1", "#ffffff", "#dfeee4"
ENGINES = ("#0b62a4", "#b8480a", "#0e7a4e", "#7b3fa0", "#8a5a00", "#b0245e", "#0b7385", "#4b5563")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h", "<", ">")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (8, 2, 2, 2, 2, 2)))
VARIABLES = {
    INK: "--fig-ink",
    MUTED: "--fig-muted",
    GRID: "--fig-grid",
    PAPER: "--fig-paper",
    SHADE: "--fig-shade",
    **{colour: f"--fig-{index}" for index, colour in enumerate(ENGINES)},
}
STYLE = {
    **TEXT_STAYS_TEXT,
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "hatch.linewidth": 0.7,
    "hatch.color": PAPER,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
}
RING: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 0.9}
DIAMOND: dict[str, Any] = {"marker": "D", "color": INK, "markeredgecolor": PAPER}


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without suffix, what it shows in words, the SVG, and its width in points."""

    name: str
    title: str
    description: str
    caption: str
    svg: str
    width_pt: float

    @property
    def wide(self) -> bool:
        """Too wide to stand beside another one."""
        return self.width_pt > 420


def style_of(report: Report, engine: str) -> dict[str, Any]:
    """An engine's colour, marker and dash: the same in every figure of a report."""
    index = report.engines.index(engine)
    return {
        "color": ENGINES[index % len(ENGINES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def figure_of(width_in: float, plot_in: float, handles: list[Artist]) -> tuple[Figure, float]:
    """A figure with a legend on top of a plot `plot_in` high, and its height in inches."""
    lengths = [0.7 + 0.075 * len(str(handle.get_label())) for handle in handles]
    columns = columns_that_fit(lengths, width_in)
    height_in = plot_in + 0.12 + 0.19 * -(-len(handles) // columns)
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasSVG(figure)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        handlelength=2.8,
        columnspacing=1.6,
        labelspacing=0.35,
        borderaxespad=0.3,
    )
    return figure, height_in


def axes_of(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    total_w, total_h = figure.get_size_inches()
    return figure.add_axes((left / total_w, bottom / total_h, width / total_w, height / total_h))


def saved(figure: Figure, name: str, title: str, description: str, caption: str) -> Picture:
    """The figure as a picture of the report."""
    svg = drawn(figure, name, title, description)
    return Picture(name, title, description, caption, svg, float(figure.get_size_inches()[0]) * 72)


def line_of(label: str, **style: Any) -> Line2D:
    """A line for the legend."""
    handle = Line2D([], [], markersize=style.pop("markersize", 5.5), linewidth=1.4, **style)
    handle.set_label(label.lstrip("_") or "engine")  # matplotlib hides labels that begin with an underscore
    return handle


def time_axis(axes: Axes, low_s: float, high_s: float) -> None:
    """A time axis from `low_s` to `high_s` with ticks that name their unit; logarithmic when it spans more than 1:8."""
    if low_s > 0 and high_s / low_s > 8:
        axes.set_xscale("log")
        span = high_s / low_s
        subs = (1.0,) if span > 2000 else (1.0, 3.0) if span > 60 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.set_xlim(low_s, high_s)


def _tick(value_s: float) -> str:
    if value_s <= 0:
        return "0"
    return scaled(value_s, TIME[3:], lambda value: trimmed(value, 4))
