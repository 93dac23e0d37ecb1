"""Figures of the Benchmarks page: trade-offs, distributions, memory, quality."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.drawing import BYTES, Rows, data, engine_scales, finished, time_axis
from dashboards.theme import Palette
from reports.figures.memory_bars import byte_ticks

FAR = 3.0  # times the highest measured throughput: a roofline beyond it asks for a logarithmic axis
MEMORY_PARTS = ("weights", "KV cache", "rest of the peak")


def pareto(
    rows: Rows,
    engines: Sequence[str],
    palette: Palette,
    *,
    axis: str,
    limit_s: float | None,
    up: str = "Output tokens/s",
    bounds: Rows = (),  # type: ignore[assignment]
) -> Any:
    """Throughput against latency, the SLO shaded, the best trade-offs ringed, each point's load beside it.

    `bounds` are points of the roofline. Where they lie far above, the axis is logarithmic, lest they press all else
    into one line.
    """
    scales = engine_scales(engines, palette)
    xs = [row["latency_s"] for row in rows] + ([limit_s] if limit_s else [])
    x = time_axis("latency_s", axis, xs)
    highest, least = max(row["up"] for row in rows), min(row["up"] for row in rows)
    far = bool(bounds) and max(row["bound_tok_s"] for row in bounds) > FAR * highest and least > 0
    scale = alt.Scale(type="log", nice=True) if far else alt.Scale(zero=True, nice=True)
    y = alt.Y("up:Q", title=up, scale=scale, axis=alt.Axis(format=",.3~r"))
    tips = [
        alt.Tooltip("engine:N", title="engine"),
        alt.Tooltip("load:N", title="load"),
        alt.Tooltip("output_tok_s:Q", title="output tokens/s", format=",.3~r"),
        alt.Tooltip("latency_s:Q", title="latency (s)", format=".3~r"),
        alt.Tooltip("repeats:Q", title="repeats"),
    ]
    if any("goodput_rps" in row for row in rows):
        tips.insert(3, alt.Tooltip("goodput_rps:Q", title="goodput (requests/s)", format=",.3~r"))
        tips.insert(4, alt.Tooltip("slo_share:Q", title="within the SLO", format=".1%"))
    known = alt.Chart(data(rows))
    layers: list[Any] = []
    if limit_s:
        zone = alt.Chart(data([{"from": min(xs) / 1.35, "to": limit_s, "says": "within the SLO"}]))
        layers.append(zone.mark_rect(color=palette.shade, opacity=1).encode(x=alt.X("from:Q", title=axis), x2="to:Q"))
        word = zone.mark_text(align="right", baseline="top", dx=-4, dy=4, fontSize=11, color=palette.muted)
        layers.append(word.encode(x=alt.X("to:Q", title=axis), y=alt.value(0), text="says:N"))
    if bounds:
        roof = alt.Chart(data(list(bounds)))
        at = alt.Y("bound_tok_s:Q", scale=scale, title=up)
        tip = ["engine:N", "load:N", alt.Tooltip("bound_tok_s:Q", title="roofline (tokens/s)", format=",.3~r")]
        dashed = roof.mark_line(strokeDash=[3, 3], strokeWidth=1.2, opacity=0.8)
        layers.append(dashed.encode(x=x, y=at, color=scales["color"], detail="line:N", order="latency_s:Q"))
        ticks = roof.mark_point(shape="stroke", size=160, strokeWidth=2, opacity=1)
        layers.append(ticks.encode(x=x, y=at, color=scales["color"], tooltip=tip))
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


def quality(rows: Rows, engines: Sequence[str], palette: Palette) -> Any:
    """ΔNLL with its interval against the best throughput, one mark per engine, the baseline as a rule at 0."""
    scales = engine_scales(engines, palette)
    x = alt.X("output_tok_s:Q", title="Best output tokens/s", scale=alt.Scale(zero=True, nice=True))
    title = "ΔNLL, nats a token"
    y = alt.Y("delta_nll:Q", title=title, axis=alt.Axis(format=".3~g"))
    known = alt.Chart(data(rows))
    tips = ["engine:N", "delta_nll:Q", "output_tok_s:Q", "says:N"]
    zero = alt.Chart(data([{"delta_nll": 0.0}])).mark_rule(color=palette.muted, strokeDash=[4, 3])
    bars = known.transform_filter("isValid(datum.delta_nll_low)").mark_rule(strokeWidth=1.8)
    marks = known.mark_point(size=110, filled=True, opacity=1)
    return finished(
        alt.layer(
            zero.encode(y=y),
            bars.encode(x=x, y=alt.Y("delta_nll_low:Q", title=title), y2="delta_nll_high", color=scales["color"]),
            marks.encode(x=x, y=y, color=scales["color"], shape=scales["shape"], tooltip=tips),
        )
    )


def energy(rows: Rows, engines: Sequence[str], palette: Palette) -> Any:
    """Joules per output token over the load, a line per engine and kind of load."""
    scales = engine_scales(engines, palette)
    order = list(dict.fromkeys(row["load"] for row in sorted(rows, key=lambda row: (row["kind"], row["level"] or 0.0))))
    x = alt.X("load:N", title=None, sort=order, axis=alt.Axis(labelAngle=0, labelLimit=150, labelOverlap=True))
    y = alt.Y("joules_per_output_token:Q", title="J per output token", scale=alt.Scale(zero=True, nice=True))
    tips = ["engine:N", "load:N", alt.Tooltip("joules_per_output_token:Q", format=",.3~r"), "repeats:Q"]
    known = alt.Chart(data(rows))
    lines = known.transform_calculate(style="datum.engine").mark_line(strokeWidth=1.8)
    marks = known.mark_point(size=80, filled=True, opacity=1)
    return finished(
        alt.layer(
            lines.encode(x=x, y=y, color=scales["color"], strokeDash=scales["dash"], detail="kind:N"),
            marks.encode(x=x, y=y, color=scales["color"], shape=scales["shape"], tooltip=tips),
        )
    )
