"""A cell over time: the TTFT of its requests, and under it, on the same axis, what the server said of itself. Pure."""

import math
from typing import Any

import altair as alt

from dashboards.drawing import TIME, Rows, data, decades, finished
from dashboards.screens.benchmarks.view import Drawing
from dashboards.theme import DASHES, Palette
from reports.figures.captions import over_time_caption, over_time_words, told
from reports.measured.cells import Cell
from reports.measured.timelines import Series, Timeline

TTFT, PREEMPTIONS = "TTFT", "preemptions"
REQUESTS, SHARES = ("running", "waiting"), ("KV cache in use", "prefix cache hits")
_WIDE = 20.0  # a largest TTFT of so many times the smallest asks for a logarithmic axis
_LITTLE = 0.2  # shares below this are drawn on a scale of their own
_GAP = 0.06  # between two panels, as a share of the figure's height
_HEIGHTS = {TTFT: 1.35, "Requests": 1.0, "Share": 1.0}


def drawing(cell: Cell, line: Timeline) -> Drawing:
    """The content of the figure, a row for each point of each series."""
    known = [(TTFT, "s", line.ttft_s)]
    known += [(label, "requests" if label in REQUESTS else "share", series) for series, label in told(line)]
    known.append((PREEMPTIONS, "since the sample before", line.preemptions))
    rows = [row for name, unit, series in known for row in _rows(name, unit, series)]
    title = f"{cell.id} over time"
    return Drawing("over-time", title, over_time_caption(cell, line), over_time_words(cell, line), rows)


def _rows(name: str, unit: str, series: Series) -> Rows:
    return [
        {"series": name, "at_s": at_s, "value": value, "unit": unit}
        for at_s, value in zip(series.at_s, series.values, strict=True)
    ]


def chart(line: Timeline, rows: Rows, palette: Palette) -> Any:
    """Panels with one axis of time, each a part of one figure's height: figures put together would be too wide."""
    of = {name: [row for row in rows if row["series"] == name] for name in (TTFT, *REQUESTS, *SHARES, PREEMPTIONS)}
    panels = [TTFT] * bool(of[TTFT])
    panels += ["Requests"] * any(of[name] for name in REQUESTS) + ["Share"] * any(of[name] for name in SHARES)
    places = _places(panels)
    x = alt.X(
        "at_s:Q", title="Time since the load began", scale=alt.Scale(domain=[0, line.until_s or 1.0], nice=False),
        axis=alt.Axis(labelExpr=TIME, values=_ticks(line.until_s), labelOverlap=True, grid=False),
    )  # fmt: skip
    layers: list[Any] = []
    if line.window_s:
        start_s, end_s = line.window_s
        window = alt.Chart(data([{"from_s": max(0.0, start_s), "to_s": min(end_s, line.until_s)}]))
        layers.append(window.mark_rect(color=palette.shade, opacity=0.6).encode(x=alt.X("from_s:Q"), x2="to_s:Q"))
    # A grid of the axis itself would be as high as one panel.
    ruled = alt.Chart(data([{"at_s": at_s} for at_s in _ticks(line.until_s)]))
    layers.append(ruled.mark_rule(color=palette.grid).encode(x=x))
    if of[TTFT]:
        points = alt.Chart(data(of[TTFT])).mark_point(filled=True, size=16, opacity=1, color=palette.ink)
        tips = [alt.Tooltip("at_s:Q", title="sent (s)", format=",.4~r"), _tip("TTFT (s)")]
        layers.append(points.encode(x=x, y=_ttft(of[TTFT], places[TTFT]), tooltip=tips))
    for panel, names in (("Requests", REQUESTS), ("Share", SHARES)):
        present = [row for name in names for row in of[name]]
        if not present:
            continue
        high = max(row["value"] for row in present)
        y = (_requests if panel == "Requests" else _shares)(high, places[panel])
        lines = alt.Chart(data(present)).mark_line(
            strokeWidth=1.6, interpolate="step-after" if panel == "Requests" else "linear", clip=True
        )
        tips = [alt.Tooltip("series:N"), alt.Tooltip("at_s:Q", title="at (s)", format=",.4~r"), _tip("value")]
        looks = _looks([name for name in (*REQUESTS, *SHARES) if of[name]], palette)
        layers.append(lines.encode(x=x, y=y, **looks, tooltip=tips))
        if panel == "Requests" and of[PREEMPTIONS]:
            layers.append(_preempted(of[PREEMPTIONS], x, _requests_scale(high, places[panel]), palette))
    return finished(alt.layer(*layers).resolve_scale(y="independent"), 130 * len(panels) + 110)


def _places(panels: list[str]) -> dict[str, list[Any]]:
    """Where each panel lies, as the range of its scale: a share of the height that is left when axes have theirs."""
    room = 1.0 - _GAP * (len(panels) - 1)
    whole = sum(_HEIGHTS[panel] for panel in panels)
    found, top = {}, 0.0
    for panel in panels:
        bottom = top + room * _HEIGHTS[panel] / whole
        found[panel] = [alt.ExprRef(f"height * {bottom:.4f}"), alt.ExprRef(f"height * {top:.4f}")]
        top = bottom + _GAP
    return found


def _ticks(until_s: float, most: int = 8) -> list[float]:
    """Instants 1, 2 or 5 of a power of ten apart, from 0 on."""
    power = 10.0 ** math.floor(math.log10(until_s / most)) if until_s > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10, 20) if until_s <= m * power * most)
    return [step * i for i in range(int(until_s / step) + 1)]


def _looks(present: list[str], palette: Palette) -> dict[str, Any]:
    """Colour and dash of the server's lines, the same whichever of them are there."""
    every = (*REQUESTS, *SHARES)
    colours = [palette.series[every.index(name)] for name in present]
    dashes = [list(DASHES[every.index(name)]) for name in present]
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=200)
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=present, range=colours), legend=legend),
        "strokeDash": alt.StrokeDash("series:N", scale=alt.Scale(domain=present, range=dashes), legend=legend),
    }


def _tip(title: str) -> alt.Tooltip:
    return alt.Tooltip("value:Q", title=title, format=",.3~r")


def _axis(title: str, **more: Any) -> alt.Axis:
    # On the left, each beside its own panel: Vega-Lite would put every second one on the right.
    return alt.Axis(title=title, orient="left", minExtent=44, **more)


def _ttft(rows: Rows, place: list[Any]) -> alt.Y:
    values = [row["value"] for row in rows]
    low, high = min(values), max(values)
    if low > 0 and high / low > _WIDE:
        domain = [low / 1.4, high * 1.4]
        axis = _axis(TTFT, labelExpr=TIME, values=decades(domain, 4))
        return alt.Y("value:Q", axis=axis, scale=alt.Scale(type="log", domain=domain, range=place, nice=False))
    scale = alt.Scale(domain=[0, high * 1.12 or 1.0], range=place, nice=False)
    return alt.Y("value:Q", axis=_axis(TTFT, labelExpr=TIME, tickCount=4), scale=scale)


def _requests(high: float, place: list[Any]) -> alt.Y:
    axis = _axis("Requests", format="d", tickCount=3, tickMinStep=1)
    return alt.Y("value:Q", axis=axis, scale=_requests_scale(high, place))


def _requests_scale(high: float, place: list[Any]) -> alt.Scale:
    return alt.Scale(domain=[0, 1.15 * high or 1.0], range=place, nice=False)


def _shares(high: float, place: list[Any]) -> alt.Y:
    little = 0 < high < _LITTLE
    scale = alt.Scale(domain=[0, 1.25 * high if little else 1.08], range=place, nice=False)
    ticks: dict[str, Any] = {"tickCount": 3} if little else {"values": [0, 0.5, 1.0]}
    return alt.Y("value:Q", axis=_axis("Share", format=".2~%", **ticks), scale=scale)


def _preempted(rows: Rows, x: alt.X, scale: alt.Scale, palette: Palette) -> Any:
    """A mark at the panel's upper edge for each sample before which requests were preempted."""
    marks = alt.Chart(data([{**row, "top": 0.94 * scale.domain[1]} for row in rows])).mark_point(
        shape="triangle-down", filled=True, size=60, opacity=1, color=palette.bad
    )
    tips = [alt.Tooltip("at_s:Q", title="at (s)", format=",.4~r"), _tip("preemptions")]
    return marks.encode(x=x, y=alt.Y("top:Q", axis=None, scale=scale), tooltip=tips)
