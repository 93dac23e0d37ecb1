"""A played day as a picture: replicas, what waits and who misses the objective, one line an autoscaler."""

import io
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from deploy.scaling.simulation import Played, World
from inputs.quantities import seconds, trimmed

WINDOW_MINUTES = 20
INK, MUTED, GRID = "#1b2430", "#566170", "#d5dae1"
COLOURS = ("#0b62a4", "#b8480a", "#7b3fa0", "#0e7a4e", "#8a5a00", "#b0245e")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (8, 2, 2, 2)), (0, (3, 1)))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "neural-bridge",  # the same day gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
}


def svg(world: World, days: Mapping[str, Played]) -> str:
    """Demand above replicas, waiting requests and the share that missed the objective, over the hours."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(8.6, 8.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(4, 1, sharex=True, height_ratios=(1, 1.3, 1.2, 1.2))
        first = next(iter(days.values()))
        hours = [minute / 60 for minute in range(len(first.minutes["arrivals"]))]
        _demand(axes[0], world, hours, first)
        for index, (name, played) in enumerate(days.items()):
            line = {
                "color": COLOURS[index % len(COLOURS)],
                "linestyle": DASHES[index % len(DASHES)],
                "linewidth": 1.2 if index else 2.4,
                "zorder": 2 if index else 3,
            }
            axes[1].step(hours, played.minutes["replicas"], where="post", label=name, **line)
            axes[2].step(hours, _highest(played.minutes["waiting"]), where="post", **line)
            axes[3].plot(hours, [100 * one / played.requests for one in played.minutes["missed"]], **line)
        axes[1].set_ylabel("replicas wanted")
        axes[1].set_ylim(bottom=0)
        axes[2].set_ylabel(f"requests waiting,\nmost in {WINDOW_MINUTES} min")
        axes[2].set_ylim(bottom=0)
        axes[3].set_ylabel(f"TTFT above {seconds(world.replica.ttft_limit_s)}\nor refused, % of the day")
        axes[3].set_xlabel("hours")
        axes[3].set_xlim(0, hours[-1] if hours else 1)
        figure.legend(loc="outside upper center", ncols=3)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Title": "A day under several autoscalers"})
    return text.getvalue()


def _highest(values: list[float]) -> list[float]:
    """Each minute's value replaced by the highest of its window: a saw's teeth hide what stands behind them."""
    starts = range(0, len(values), WINDOW_MINUTES)
    return [max(values[at : at + WINDOW_MINUTES]) for at in starts for _ in values[at : at + WINDOW_MINUTES]]


def _demand(axis: Axes, world: World, hours: list[float], played: Played) -> None:
    axis.plot(hours, played.minutes["arrivals"], color=INK, linewidth=1)
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)
    capacity = world.replica.capacity_rps
    axis.axhline(capacity, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axis.annotate(
        f"one replica carries {trimmed(capacity)}/s",
        (0, capacity),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
    )
