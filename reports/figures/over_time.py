"""A cell over time as SVG: the TTFT of its requests, and on the same axis of time what the server said of itself."""

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from inputs.quantities import TIME, scaled, trimmed
from reports.figures.captions import over_time_caption, over_time_words, told
from reports.figures.drawing import ENGINES, INK, MUTED, SHADE, STYLE, Picture, axes_of, figure_of, line_of, saved
from reports.measured.cells import Cell, Report
from reports.measured.timelines import Series, Timeline

MOST = 4  # timelines in a report
_LITTLE = 0.2  # shares below this are drawn on a scale of their own
_WIDTH_IN, _LEFT_IN = 7.6, 0.72
_RUNNING, _WAITING, _KV, _HITS = ENGINES[0], ENGINES[1], ENGINES[2], ENGINES[3]


def most_loaded(report: Report) -> list[Cell]:
    """Of each engine the cell with the most requests in flight of which a timeline is known; MOST at most."""
    found = []
    for engine in report.engines:
        cells = [
            cell for cell in report.of_engine(engine) if cell.shown and cell.over_time and cell.over_time.of_server
        ]
        if cells:
            found.append(max(cells, key=lambda cell: cell.value("mean_in_flight") or 0.0))
    return found[:MOST]


def over_time(cell: Cell, line: Timeline) -> Picture:
    """The timeline of a cell: TTFT above, requests in the server below, and where it tells, shares of its caches."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        shares = bool(line.kv_usage or line.prefix_hits)
        handles: list[Artist] = [line_of("TTFT of a request", linestyle="none", marker="o", markersize=3, color=INK)]
        for series, colour, dash, label in _lines(line):
            if series:
                handles.append(line_of(label, color=colour, linestyle=dash))
        if line.preemptions:
            handles.append(line_of("preemptions", linestyle="none", marker="v", markersize=5, color=_WAITING))
        heights = [1.35, 0.95, *([0.95] if shares else [])]
        figure, _ = figure_of(_WIDTH_IN, sum(heights) + 0.16 * len(heights) + 0.48, handles)
        bottom, panels = 0.48, []
        for height in reversed(heights):
            panels.append(axes_of(figure, _LEFT_IN, bottom, _WIDTH_IN - _LEFT_IN - 0.15, height))
            bottom += height + 0.16
        panels.reverse()
        for axes in panels:
            if line.window_s:
                axes.axvspan(*line.window_s, color=SHADE, zorder=0.1)
            axes.set_xlim(0, line.until_s or 1.0)
            axes.xaxis.set_major_locator(MaxNLocator(8))
            axes.tick_params(labelbottom=axes is panels[-1])
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{trimmed(value, 4)} s" if value else "0"))
        panels[-1].set_xlabel("Time since the load began")
        _ttft(panels[0], line.ttft_s)
        _requests(panels[1], line)
        if shares:
            _shares(panels[2], line)
        title = f"{cell.id} over time"
        return saved(figure, f"over-time-{cell.id}", title, over_time_words(cell, line), over_time_caption(cell, line))


def _lines(line: Timeline) -> tuple[tuple[Series, str, object, str], ...]:
    looks = ((_RUNNING, "-"), (_WAITING, (0, (5, 1.6))), (_KV, "-"), (_HITS, (0, (1.2, 1.2))))
    return tuple((series, *look, label) for (series, label), look in zip(told(line), looks, strict=True))


def _ttft(axes: Axes, series: Series) -> None:
    axes.set_ylabel("TTFT")
    axes.plot(series.at_s, series.values, linestyle="none", marker="o", markersize=2.4, color=INK)
    low, high = min(series.values, default=0.0), max(series.values, default=1.0)
    if low > 0 and high / low > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if high / low > 60 else (1.0, 3.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / 1.4, high * 1.4)
    else:
        axes.set_ylim(0, high * 1.12 or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: scaled(value, TIME[3:], lambda part: trimmed(part, 3)) if value > 0 else "0")
    )


def _requests(axes: Axes, line: Timeline) -> None:
    axes.set_ylabel("Requests")
    for series, colour, dash, _ in _lines(line)[:2]:
        if series:
            axes.plot(series.at_s, series.values, drawstyle="steps-post", linewidth=1.3, color=colour, linestyle=dash)
    highest = max([*line.running.values, *line.waiting.values], default=1.0)
    axes.set_ylim(0, 1.15 * highest or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    if line.preemptions:
        at_top = [1.08 * highest or 0.9] * len(line.preemptions.at_s)
        axes.plot(line.preemptions.at_s, at_top, linestyle="none", marker="v", markersize=5, color=_WAITING)


def _shares(axes: Axes, line: Timeline) -> None:
    axes.set_ylabel("Share", color=INK)
    for series, colour, dash, _ in _lines(line)[2:]:
        if series:
            axes.plot(series.at_s, series.values, linewidth=1.3, color=colour, linestyle=dash)
    highest = max([*line.kv_usage.values, *line.prefix_hits.values], default=0.0)
    if 0 < highest < _LITTLE:
        axes.set_ylim(0, 1.25 * highest)
        axes.yaxis.set_major_locator(MaxNLocator(3))
    else:
        axes.axhline(1.0, color=MUTED, linewidth=0.7)
        axes.set_ylim(0, 1.08)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{trimmed(100 * value, 2)} %"))
