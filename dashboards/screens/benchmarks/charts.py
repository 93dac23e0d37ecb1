"""Figures of the Benchmarks page: trade-offs, distributions, memory, quality."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.drawing import BYTES, Rows, data, engine_scales, finished, time_axis
from dashboards.theme import Palette
from reports.figures.memory_bars import byte_ticks

MEMORY_PARTS = ("weights", "KV cache", "rest of the peak")


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


def _sums(rows: Rows) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        sums[row["engine"]] = sums.get(row["engine"], 0.0) + row["bytes"]
    return sums


def _peaks(rows: Rows) -> dict[str, float]:
    return {row["engine"]: row["peak_bytes"] for row in rows if row["peak_bytes"] is not None}


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
