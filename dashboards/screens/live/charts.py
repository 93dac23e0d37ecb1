"""Figures of the Live page: values over time."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.drawing import Rows, data, finished
from dashboards.theme import DASHES, Palette


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
