"""Panels as SVG. Colours are CSS classes of the page, so one drawing serves light and dark."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from dashboards.grafana.panels import Panel
from dashboards.preview.scale import Axis, clock, round_steps, round_times
from dashboards.preview.source import Series
from dashboards.preview.units import words

SHOWN = 8  # as many lines as there are colours; more would not be told apart
RIGHT, TOP, BOTTOM = 10.0, 8.0, 20.0
DIGIT = 6.2  # the width of a character on an axis, at 11 px


Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Frame:
    """The time shown, the step of its points, the size of the drawing in CSS pixels, and where its axis is."""

    start_s: float
    end_s: float
    step_s: float
    width: float
    height: float
    left: float = 0.0

    @property
    def across(self) -> Axis:
        return Axis(self.start_s, self.end_s, self.left, self.width - RIGHT)

    def beside(self, labels: Iterable[str]) -> "Frame":
        """The same with room for `labels` at the left."""
        return replace(self, left=14 + DIGIT * max(map(len, labels), default=0))


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
    shown = [(index, one.series.points, one.limit) for index, one in enumerate(series)]
    if panel.stacked:
        shown = list(_stacked(shown))
    values = [value for _, points, _ in shown for _, value in points if math.isfinite(value)]
    highest = max(values, default=1.0)
    limits = [value for value, _ in panel.limits.steps] if panel.limits else []
    near = [value for value in limits if value <= highest * 1.6]
    low = panel.minimum if panel.minimum is not None else min(values, default=0.0)
    high = panel.maximum if panel.maximum is not None else max([highest, *near])
    steps = round_steps(low, high if high > low else low + 1, binary=panel.unit == "bytes")
    ticks = [(value, words(value, panel.unit)) for value in steps]
    frame = frame.beside(text for _, text in ticks)
    up = Axis(steps[0], steps[-1], frame.height - BOTTOM, TOP)
    parts = [_grid(frame, up, ticks)]
    if panel.limits:
        parts += [
            f'<path class="limit {colour}" d="M{frame.left:g} {up.place(value)}H{frame.width - RIGHT:g}"/>'
            for value, colour in panel.limits.steps
            if steps[0] <= value <= steps[-1]
        ]
    below: dict[float, float] = {}
    areas, strokes = [], []
    for index, points, limit in shown:
        kind = "limit red" if limit else f"line s{index}"
        for run in _runs(points, frame.step_s):
            top = [(frame.across.place(at_s), up.place(value)) for at_s, value in run]
            if (panel.stacked or len(shown) == 1) and not limit:
                floor = [(frame.across.place(at_s), up.place(below.get(at_s, steps[0]))) for at_s, _ in reversed(run)]
                areas.append(f'<path class="area s{index}" d="M{_path(top)}L{_path(floor)}Z"/>')
            if len(top) == 1:
                strokes.append(f'<circle class="dot s{index}" cx="{top[0][0]}" cy="{top[0][1]}" r="2"/>')
            else:
                strokes.append(f'<path class="{kind}" d="M{_path(top)}"/>')
        if panel.stacked:
            below |= dict(points)
    return _svg(panel, frame, [*parts, *reversed(areas), *strokes])


def heat_chart(panel: Panel, series: Sequence[Named], frame: Frame) -> str:
    """A histogram over time: one row a bucket, darker for more observations. Empty buckets at the ends are left out."""
    bounds = sorted((_bound(one.series.labels.get("le", "")), dict(one.series.points)) for one in series)
    times = sorted({at_s for _, points in bounds for at_s in points})
    cells: dict[tuple[int, float], float] = {}
    for at_s in times:
        before = 0.0
        for index, (_, points) in enumerate(bounds):
            within = points.get(at_s, before)
            cells[index, at_s] = max(0.0, within - before)
            before = within
    used = [index for (index, _), count in cells.items() if count > 0]
    if not used:
        return ""
    first, last = max(0, min(used) - 1), min(len(bounds) - 1, max(used) + 1)
    frame = frame.beside(words(bound, panel.unit) for bound, _ in bounds[first : last + 1])
    up = Axis(first, last + 1, frame.height - BOTTOM, TOP)
    most = max(cells.values())
    height = abs(up.place(1) - up.place(0))
    across = frame.across
    width = max(1.0, across.place(frame.start_s + frame.step_s) - across.place(frame.start_s))
    every = max(1, math.ceil((last + 1 - first) * 13 / (frame.height - TOP - BOTTOM)))
    parts = []
    for index in range(first, last + 1):
        y = up.place(index + 1)
        if (index - first) % every == 0 and math.isfinite(bounds[index][0]):
            text = words(bounds[index][0], panel.unit)
            parts.append(f'<text class="axis end" x="{frame.left - 6:g}" y="{y + 4:.1f}">{text}</text>')
            parts.append(f'<path class="grid" d="M{frame.left:g} {y}H{frame.width - RIGHT:g}"/>')
        for at_s in times:
            if count := cells[index, at_s]:
                x = across.place(at_s - frame.step_s)
                shade = 0.12 + 0.88 * math.sqrt(count / most)
                size = f'x="{max(x, frame.left):g}" y="{y + 0.5:.2f}" width="{width:.2f}" height="{height - 1:.2f}"'
                parts.append(f'<rect class="heat" {size} fill-opacity="{shade:.2f}"/>')
    return _svg(panel, frame, [*parts, *_times(frame)])


def state_chart(panel: Panel, series: Sequence[Named], frame: Frame) -> str:
    """A bar for each series over time, coloured and named by its value; nothing where it has none."""
    names = {value: (text, colour) for value, text, colour in panel.names}
    frame = frame.beside(one.name for one in series)
    across = frame.across
    tall = min(26.0, (frame.height - TOP - BOTTOM) / len(series))
    parts = []
    for row, one in enumerate(series):
        y = TOP + row * tall
        parts.append(
            f'<text class="axis end" x="{frame.left - 8:.1f}" y="{y + tall / 2 + 4:.1f}">{escape(one.name)}</text>'
        )
        for start_s, end_s, value in _spans(one.series.points, frame.step_s):
            text, colour = names.get(value, (f"{value:g}", "blue"))
            x, until = across.place(max(start_s, frame.start_s)), across.place(end_s)
            width = max(2.0, until - x)
            size = f'x="{x}" y="{y + 2:.1f}" width="{width:.2f}" height="{tall - 4:.1f}"'
            clocks = " to ".join(clock(at_s) for at_s in (max(start_s, frame.start_s), end_s))
            title = f"<title>{escape(one.name)}: {text}, {clocks}</title>"
            parts.append(f'<rect class="state {colour}" {size} rx="2">{title}</rect>')
            if width > 7 * len(text) + 10:
                parts.append(f'<text class="said {colour}" x="{x + 6:.1f}" y="{y + tall / 2 + 4:.1f}">{text}</text>')
    return _svg(panel, frame, [*parts, *_times(frame)])


def _svg(panel: Panel, frame: Frame, parts: Sequence[str]) -> str:
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(panel.title)}">{"".join(parts)}</svg>'


def _grid(frame: Frame, up: Axis, ticks: Sequence[tuple[float, str]]) -> str:
    lines = []
    for value, text in ticks:
        y = up.place(value)
        lines.append(f'<path class="grid" d="M{frame.left:g} {y}H{frame.width - RIGHT:g}"/>')
        lines.append(f'<text class="axis end" x="{frame.left - 6:g}" y="{y + 4:.1f}">{text}</text>')
    return "".join([*lines, *_times(frame)])


def _times(frame: Frame) -> list[str]:
    across = frame.across
    wanted = max(2, int((across.end - across.start) / 90))
    return [
        f'<text class="axis middle" x="{across.place(at_s)}" y="{frame.height - 5:g}">{text}</text>'
        for at_s, text in round_times(frame.start_s, frame.end_s, wanted)
        if across.start + 14 <= across.place(at_s) <= across.end - 12
    ]


def _stacked(series: Sequence[tuple[int, Points, bool]]) -> Iterator[tuple[int, Points, bool]]:
    """Each series on top of those before it; one that is 0 throughout has no area and would hide the one below."""
    total: dict[float, float] = {}
    for index, points, limit in series:
        if not any(value for _, value in points):
            continue
        for at_s, value in points:
            total[at_s] = total.get(at_s, 0.0) + value
        yield index, tuple((at_s, total[at_s]) for at_s, _ in points), limit


def _runs(points: Sequence[tuple[float, float]], step_s: float) -> Iterator[list[tuple[float, float]]]:
    """The points in stretches without a gap."""
    run: list[tuple[float, float]] = []
    for at_s, value in points:
        if run and (at_s - run[-1][0] > 1.5 * step_s or not math.isfinite(value)):
            yield run
            run = []
        if math.isfinite(value):
            run.append((at_s, value))
    if run:
        yield run


def _spans(points: Sequence[tuple[float, float]], step_s: float) -> Iterator[tuple[float, float, float]]:
    """(start, end, value) of stretches with one value; each point stands for the step that ends with it."""
    span: tuple[float, float, float] | None = None
    for at_s, value in points:
        if span and value == span[2] and at_s - span[1] <= 1.5 * step_s:
            span = (span[0], at_s, value)
            continue
        if span:
            yield span
        span = (at_s - step_s, at_s, value)
    if span:
        yield span


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:g} {y:g}" for x, y in places)


def _bound(le: str) -> float:
    return math.inf if le == "+Inf" else float(le)
