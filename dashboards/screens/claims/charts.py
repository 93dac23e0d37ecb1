"""Figures of the Claims page: a claimed ratio, step by step."""

from typing import Any

import altair as alt

from dashboards.drawing import Rows, data, decades, finished, names
from dashboards.theme import Palette


def walk(rows: Rows, palette: Palette) -> Any:
    """“N times cheaper”, mended step by step, on a logarithmic axis about 1."""
    order = [row["step"] for row in rows]
    y = alt.Y("step:N", sort=order, title=None, axis=None)
    ratios = [row["ratio"] for row in rows if row["ratio"] > 0]
    ends = [min(*ratios, 1.0), max(*ratios, 1.0)]
    x = alt.X(
        "ratio:Q",
        title="API cost over own cost (below 1, the API wins)",
        axis=alt.Axis(format=",.3~r", values=decades(ends)),
        scale=alt.Scale(type="log", domain=[ends[0] / 1.6, ends[1] * 2.5], nice=False),
    )
    tips = ["what:N", alt.Tooltip("ratio:Q", format=",.3~r")]
    chart = alt.Chart(data(rows))
    line = chart.mark_line(color=palette.muted, strokeDash=[3, 3]).encode(x=x, y=y, order="order:Q")
    points = chart.mark_point(filled=True, size=110, color=palette.series[0], opacity=1).encode(x=x, y=y, tooltip=tips)
    labelled = chart.transform_calculate(label="format(datum.ratio, ',.3~r') + ' ×'")
    words = labelled.mark_text(align="left", dx=10, color=palette.ink).encode(x=x, y=y, text="label:N")
    one = alt.Chart(data([{"ratio": 1}])).mark_rule(color=palette.series[1]).encode(x="ratio:Q")
    return finished(alt.layer(one, line, points, words, names(order, "step", palette)), 80 + 44 * len(rows))
