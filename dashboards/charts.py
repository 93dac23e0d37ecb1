"""Rows → figures. Vega draws them in the browser from what Streamlit brings along: nothing is fetched from elsewhere.

Engines differ by colour, marker and dash, in the order of the plan. Every axis names its unit.
"""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.theme import DASHES, SHAPES, Palette

Rows = list[dict[str, Any]]
TIME = (
    "datum.value == 0 ? '0' : abs(datum.value) < 0.000999 ? format(datum.value * 1000000, ',.3~r') + ' µs' : "
    "abs(datum.value) < 0.999 ? format(datum.value * 1000, ',.3~r') + ' ms' : format(datum.value, ',.3~r') + ' s'"
)
BYTES = (
    "datum.value == 0 ? '0' : abs(datum.value) < 1048576 ? format(datum.value / 1024, ',.3~r') + ' KiB' : "
    "abs(datum.value) < 1073741824 ? format(datum.value / 1048576, ',.3~r') + ' MiB' : "
    "format(datum.value / 1073741824, ',.3~r') + ' GiB'"
)
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)
MEMORY_PARTS = ("weights", "KV cache", "rest of the peak")


def data(rows: Rows) -> alt.InlineData:
    """`rows` inside the figure's own description."""
    return alt.InlineData(values=rows)


def finished(chart: Any, height: int = 320) -> Any:
    """`chart` at its height, with nothing of Vega's own menu that leads elsewhere."""
    return chart.properties(height=height, usermeta={"embedOptions": {"actions": False}})


def engine_scales(engines: Sequence[str], palette: Palette, title: str = "") -> dict[str, Any]:
    """Colour, shape and dash encodings for `engines`, sharing one legend."""
    count = len(engines)
    legend = alt.Legend(title=title or None, orient="top", columns=0, labelLimit=260, symbolSize=100)

    def scale(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(engines), range=[values[index % len(values)] for index in range(count)])

    return {
        "color": alt.Color("engine:N", scale=scale(palette.series), legend=legend),
        "shape": alt.Shape("engine:N", scale=scale(SHAPES), legend=legend),
        "dash": alt.StrokeDash("style:N", scale=scale([list(dash) for dash in DASHES]), legend=None),
        "line": alt.StrokeDash("engine:N", scale=scale([list(dash) for dash in DASHES]), legend=legend),
    }


def time_axis(field: str, title: str, values: list[float]) -> alt.X:
    """A time axis in seconds with ticks that name their unit; logarmithic when the values span more than 1:8."""
    low, high = min(values), max(values)
    axis = alt.Axis(labelExpr=TIME, title=title, tickCount=6, labelOverlap=True)
    if low > 0 and high / low > 8:
        scale = alt.Scale(type="log", domain=[low / 1.35, high * 1.35], nice=False)
    else:
        scale = alt.Scale(zero=low <= 0, domain=[low - (high - low) * 0.08, high + (high - low or high) * 0.08])
    return alt.X(field, type="quantitative", axis=axis, scale=scale)


def pareto(rows: Rows, engines: Sequence[str], palette: Palette, *, axis: str, limit_s: float | None) -> Any:
    """Output throughput against latency, the SLO shaded, the best trade-offs ringed, each point's load beside it."""
    scales = engine_scales(engines, palette)
    xs = [row["latency_s"] for row in rows] + ([limit_s] if limit_s else [])
    x = time_axis("latency_s", axis, xs)
    y = alt.Y("output_tok_s:Q", title="Output tokens/s", scale=alt.Scale(zero=True, nice=True))
    tips = [
        alt.Tooltip("engine:N", title="engine"),
        alt.Tooltip("load:N", title="load"),
        alt.Tooltip("output_tok_s:Q", title="output tokens/s", format=",.3~r"),
        alt.Tooltip("latency_s:Q", title="latency (s)", format=".3~r"),
        alt.Tooltip("repeats:Q", title="repeats"),
    ]
    known = alt.Chart(data(rows))
    layers: list[Any] = []
    if limit_s:
        zone = alt.Chart(data([{"from": min(xs) / 1.35, "to": limit_s}]))
        layers.append(zone.mark_rect(color=palette.shade, opacity=1).encode(x=alt.X("from:Q", title=axis), x2="to:Q"))
    layers.append(known.transform_calculate(style="datum.engine").mark_line(strokeWidth=1.8).encode(
        x=x, y=y, color=scales["color"], strokeDash=scales["dash"], detail="line:N", order="latency_s:Q"
    ))  # fmt: skip
    ringed = known.transform_filter("datum.best_trade_off").mark_point(
        size=260, shape="circle", filled=False, stroke=palette.ink, strokeWidth=1.2, opacity=1
    )
    layers.append(ringed.encode(x=x, y=y))
    layers.append(
        known.mark_point(size=80, filled=True, opacity=1, stroke=palette.paper, strokeWidth=0.6).encode(
            x=x, y=y, color=scales["color"], shape=scales["shape"], tooltip=tips
        )
    )
    layers.append(known.mark_text(dy=-15, fontSize=11, color=palette.ink).encode(x=x, y=y, text="at:N"))
    return finished(alt.layer(*layers), 360)


def distribution(rows: Rows, engines: Sequence[str], palette: Palette, *, axis: str) -> Any:
    """Empirical distribution functions as stairs, one line per engine and repeat."""
    scales = engine_scales(engines, palette)
    x = time_axis("value_s", axis, [row["value_s"] for row in rows])
    y = alt.Y("share:Q", title="Share not above", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    tips = [
        alt.Tooltip("engine:N", title="engine"),
        alt.Tooltip("value_s:Q", title="value (s)", format=".3~r"),
        alt.Tooltip("share:Q", title="share not above", format=".1%"),
    ]
    line = alt.Chart(data(rows)).mark_line(strokeWidth=1.8, interpolate="linear")
    lines = line.encode(
        x=x, y=y, color=scales["color"], strokeDash=scales["line"], detail="repeat:N", order="share:Q", tooltip=tips
    )
    return finished(lines)


def memory(rows: Rows, palette: Palette, *, kind: str) -> Any:
    """Stacked bars: weights, KV cache, rest of the peak; the largest sample as a diamond."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    colours = alt.Scale(domain=list(MEMORY_PARTS), range=[palette.series[0], palette.series[1], palette.series[7]])
    legend = alt.Legend(title=None, orient="top")
    y = alt.Y("engine:N", sort=engines, title=None, axis=alt.Axis(labelLimit=180))
    highest = max(*_sums(rows).values(), *_peaks(rows).values(), 1.0)
    axis = alt.Axis(labelExpr=BYTES, values=byte_ticks(highest))
    tips = [alt.Tooltip("engine:N"), alt.Tooltip("part:N"), alt.Tooltip("bytes:Q", format=",", title="bytes")]
    bars = alt.Chart(data(rows)).mark_bar(stroke=palette.paper, strokeWidth=1.5)
    stacked = bars.encode(
        y=y,
        x=alt.X("sum(bytes):Q", title=kind, axis=axis, stack="zero"),
        color=alt.Color("part:N", scale=colours, legend=legend, sort=list(MEMORY_PARTS)),
        order=alt.Order("order:Q"),
        tooltip=tips,
    )
    peaks = [{"engine": engine, "peak_bytes": peak} for engine, peak in _peaks(rows).items()]
    if not peaks:
        return finished(stacked, 110 + 36 * len(engines))
    marks = alt.Chart(data(peaks)).mark_point(
        shape="diamond", size=80, filled=True, color=palette.ink, opacity=1, stroke=palette.paper
    )
    tip = [alt.Tooltip("engine:N"), alt.Tooltip("peak_bytes:Q", format=",", title="largest sample (bytes)")]
    return finished(alt.layer(stacked, marks.encode(y=y, x="peak_bytes:Q", tooltip=tip)), 110 + 36 * len(engines))


def byte_ticks(highest_bytes: float) -> list[float]:
    """At most eight ticks from 0, a power of two apart."""
    step = 2.0**10
    while highest_bytes / step > 7:
        step *= 2
    return [index * step for index in range(int(highest_bytes / step) + 1)]


def _sums(rows: Rows) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        sums[row["engine"]] = sums.get(row["engine"], 0.0) + row["bytes"]
    return sums


def _peaks(rows: Rows) -> dict[str, float]:
    return {row["engine"]: row["peak_bytes"] for row in rows if row["peak_bytes"] is not None}


def decades(values: Sequence[float], most: int = 7) -> list[float]:
    """Ticks for a logarithmic axis over `values`: 1, 2, 5 or 1, 3 or whole powers of ten, as many as are readable."""
    low, high = math.log10(min(values)), math.log10(max(values))
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
        found = [value for value in found if low - 0.02 <= math.log10(value) <= high + 0.02]
        if len(found) <= most:
            break
    return found


def over_time(rows: Rows, palette: Palette, *, title: str, series: Sequence[str], unit_format: str = ",.3~r") -> Any:
    """Lines over the last minutes: rows of at (ISO time), series, value; one colour and dash per series."""
    span = range(len(series))
    colours = alt.Scale(domain=list(series), range=[palette.series[i % len(palette.series)] for i in span])
    dashes = alt.Scale(domain=list(series), range=[list(DASHES[i % len(DASHES)]) for i in span])
    legend = alt.Legend(title=None, orient="top", columns=0, labelLimit=240) if len(series) > 1 else None
    tips = [
        alt.Tooltip("at:T", format="%H:%M:%S", title="time"),
        alt.Tooltip("series:N"),
        alt.Tooltip("value:Q", format=unit_format),
    ]
    still = max(row["value"] for row in rows) == 0
    scale = alt.Scale(domain=[0, 1]) if still else alt.Scale(zero=True, nice=True)
    line = alt.Chart(data(rows)).mark_line(strokeWidth=1.8)
    lines = line.encode(
        x=alt.X("at:T", title=None, axis=alt.Axis(format="%H:%M:%S", tickCount=5, labelOverlap=True)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format=unit_format, tickCount=5)),
        color=alt.Color("series:N", scale=colours, legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=legend),
        detail="part:N",
        tooltip=tips,
    )
    return finished(lines, 200)


def quality(rows: Rows, engines: Sequence[str], palette: Palette, *, axis: str) -> Any:
    """A quality measure against the best throughput, one mark per engine."""
    scales = engine_scales(engines, palette)
    marks = alt.Chart(data(rows)).mark_point(size=110, filled=True, opacity=1)
    chart = marks.encode(
        x=alt.X("quality:Q", title=axis),
        y=alt.Y("output_tok_s:Q", title="Output tokens/s"),
        color=scales["color"],
        shape=scales["shape"],
        tooltip=["engine:N", "quality:Q", "output_tok_s:Q"],
    )
    return finished(chart)


def changes(rows: Rows, palette: Palette) -> Any:
    """New ÷ old of one metric on a logarithmic axis about 1: filled where established, hollow where not."""
    known = [{**row, "what": f"{row['engine']} · {row['load']}"} for row in rows if row["change"]]
    order = [row["what"] for row in known]
    far = max([1.25, *(max(row["change"], 1 / row["change"]) for row in known)]) * 1.1
    x = alt.X(
        "change:Q",
        title="New ÷ old",
        scale=alt.Scale(type="log", domain=[1 / far, far], nice=False),
        axis=alt.Axis(format=".2~f", values=[tick for tick in RATIOS if 1 / far <= tick <= far]),
    )
    y = alt.Y("what:N", sort=order, title=None, axis=None)
    says = ["better", "worse", "not told apart"]
    legend = alt.Legend(title=None, orient="top")
    colour = alt.Color(
        "says:N",
        scale=alt.Scale(domain=says, range=[palette.series[2], palette.series[1], palette.muted]),
        legend=legend,
    )
    shape = alt.Shape(
        "says:N", scale=alt.Scale(domain=says, range=["triangle-up", "triangle-down", "circle"]), legend=legend
    )
    tips = ["engine:N", "load:N", "figure:N", alt.Tooltip("change:Q", format=".3~r", title="new ÷ old"), "says:N"]
    one = alt.Chart(data([{"change": 1}])).mark_rule(color=palette.muted).encode(x=alt.X("change:Q", title="New ÷ old"))
    layers = [one]
    for established in (True, False):
        part = [row for row in known if (row["says"] != says[2]) == established]
        if part:  # a layer without marks would be a picture without a name
            points = alt.Chart(data(part)).mark_point(yOffset=3, size=90, filled=established, opacity=1)
            layers.append(points.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips))
    names = alt.Chart(data([{"what": what} for what in order]))
    text = names.mark_text(align="left", baseline="middle", dy=-8, dx=2, fontSize=11, color=palette.ink)
    layers.append(text.encode(x=alt.value(0), y=y, text="what:N"))
    return finished(alt.layer(*layers), 120 + 32 * len(order))
