"""The time to the first token taken apart, as stacked bars: a panel for each load, a bar for each engine. SVG."""

import statistics
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.run.stats.ttft_parts import NO_PAGE
from inputs.quantities import TIME, scaled, seconds, trimmed
from reports.figures.drawing import ENGINES, INK, PAPER, STYLE, Picture, axes_of, figure_of, saved
from reports.measured.cells import Cell, Json, Report
from reports.measured.loads import Load
from reports.measured.repeats import measured_pairs
from reports.names import listing, short_names, shortened

MOST_BARS = 24
# (part of metrics.ttft_parts, colour, hatching, name), in the order of time
PARTS = (
    ("client_s", ENGINES[7], "", "in the client"),
    ("connect_s", ENGINES[4], "....", "connecting"),
    ("network_s", ENGINES[5], "xxxx", "network and unexplained"),
    ("server_s", ENGINES[3], "\\\\", "server, beside queue and prefill"),
    ("queue_s", ENGINES[1], "////", "queue"),
    ("prefill_s", ENGINES[0], "", "prefill"),
    ("undivided_s", ENGINES[6], "----", "not told apart"),
)
_WIDTH_IN, _BAR_IN = 7.6, 0.32


@dataclass(frozen=True)
class Bar:
    """The parts in seconds of one engine's mean TTFT from schedule under one load, means over `repeats` repeats; parts
    that are not known are absent. `unknown`: why the server's are; `negative`: parts that came out below zero."""

    engine: str
    load: Load
    repeats: int
    parts: dict[str, float]
    unknown: str | None
    negative: tuple[str, ...]
    note: str | None

    @property
    def total_s(self) -> float:
        return sum(self.parts.values())

    def words(self) -> str:
        """The bar for readers who do not see it."""
        said = [f"{name} {seconds(self.parts[part])}" for part, _, _, name in PARTS if part in self.parts]
        return f"{shortened(self.engine, 40)}, {self.load.label}: {seconds(self.total_s)} in all; {', '.join(said)}"


def bars(report: Report) -> list[Bar]:
    """A bar for every engine and load whose TTFT is known in parts, loads from light to heavy."""
    found = []
    for engine, load in measured_pairs(report):
        told = [parts for cell in report.repeats(engine, load) if (parts := _parts(cell))]
        if not told:
            continue
        known = [part for part, *_ in PARTS if all(one.get(part) is not None for one in told)]
        found.append(
            Bar(
                engine,
                load,
                len(told),
                {part: statistics.fmean(one[part] for one in told) for part in known},
                next((one["unknown"] for one in told if one.get("unknown")), None),
                tuple(dict.fromkeys(part for one in told for part in one.get("below_zero") or ())),
                next((one["note"] for one in told if one.get("note")), None),
            )
        )
    return sorted(found, key=lambda bar: report.loads.index(bar.load))


def _parts(cell: Cell) -> Json | None:
    found = (cell.metrics or {}).get("ttft_parts")
    return found if isinstance(found, dict) else None


def first_token(report: Report) -> tuple[Picture | None, tuple[str, ...]]:
    """The figure, and what has to be said beside it: parts that are not known, or negative.

    Bars of which none is divided say no more than the table of latencies: then there is no figure, and where no server
    had a page nothing to say either.
    """
    found = bars(report)
    if all("undivided_s" in bar.parts for bar in found):
        return None, _said([bar for bar in found if bar.unknown != NO_PAGE or bar.negative])
    shown = found[-MOST_BARS:]  # the heaviest loads
    loads = list(dict.fromkeys(bar.load for bar in shown))
    names = short_names(report.engines, 26)
    present = [one for one in PARTS if any(bar.parts.get(one[0]) for bar in shown)]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        handles: list[Artist] = [Patch(facecolor=c, hatch=h, edgecolor=PAPER, label=name) for _, c, h, name in present]
        heights = [0.12 + _BAR_IN * sum(bar.load == load for bar in shown) for load in loads]
        figure, _ = figure_of(_WIDTH_IN, sum(heights) + 0.56 * len(loads), handles)
        left = 0.25 + 0.078 * max(len(names[bar.engine]) for bar in shown)
        bottom = sum(heights) + 0.56 * len(loads)
        for load, height in zip(loads, heights, strict=True):
            bottom -= height + 0.26
            axes = axes_of(figure, left, bottom, _WIDTH_IN - left - 0.85, height)
            _panel(axes, [bar for bar in shown if bar.load == load], names)
            axes.set_title(shortened(load.label, 60), loc="left", pad=3)
            bottom -= 0.30
        words = ". ".join(bar.words() for bar in shown)
        title = "Where the time to the first token goes"
        picture = saved(figure, "first-token", title, f"{words}.", _caption(report, found, shown))
    return picture, _said(found)


def _panel(axes: Axes, of_load: list[Bar], names: dict[str, str]) -> None:
    highest = max(max(bar.total_s, 0.0) for bar in of_load) or 1e-3
    lowest = 0.0
    for row, bar in enumerate(of_load):
        end, below = 0.0, 0.0
        for part, colour, hatch, _ in PARTS:
            width = bar.parts.get(part)
            if not width:
                continue
            start = end if width > 0 else below
            axes.barh(row, width, left=start, height=0.6, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.6)
            end, below = (end + width, below) if width > 0 else (end, below + width)
        lowest = min(lowest, below)
        axes.text(end + highest * 0.012, row, seconds(bar.total_s), va="center", fontsize=8)
    axes.set_yticks(range(len(of_load)), [names[bar.engine] for bar in of_load])
    axes.set_ylim(len(of_load) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(lowest * 1.1, highest * 1.02)
    if lowest < 0:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value_s: float) -> str:
    return scaled(value_s, TIME[3:], lambda value: trimmed(value, 3)) if value_s else "0"


def _caption(report: Report, found: list[Bar], shown: list[Bar]) -> str:
    text = (
        "Mean time from when a request was due to its first token. Client and network by the client's records, the "
        "rest by the sums of the server's histograms over exactly the measured requests. Every load has its own scale."
    )
    if any(bar.repeats > 1 for bar in shown):
        text += " Means over the repeats."
    if len(found) > len(shown):
        text += f" {len(found) - len(shown)} bars of lighter loads are not drawn; the table has them."
    absent = [cell.id for cell in report.cells if not cell.measured]
    if absent:
        text += f" Without a valid measurement, and so not drawn: {listing(absent, 6)}."
    return text


def _said(found: list[Bar]) -> tuple[str, ...]:
    """What is not known and why, and what came out below zero, each reason once."""
    reasons: dict[str, list[str]] = {}
    for bar in found:
        where = f"{shortened(bar.engine, 40)} at {bar.load.label}"
        if bar.unknown:
            reasons.setdefault(f"not told apart, because {bar.unknown}", []).append(where)
        if bar.negative:
            parts = [f"{name} {seconds(bar.parts[part])}" for part, *_, name in PARTS if part in bar.negative]
            reasons.setdefault(
                f"below zero ({', '.join(parts)}): client and server measured other requests, or by clocks that do not "
                "agree; the parts are not to be relied on",
                [],
            ).append(where)
        if bar.note:
            reasons.setdefault(bar.note, []).append(where)
    return tuple(f"{listing(where, 4)}: {reason}." for reason, where in reasons.items())
