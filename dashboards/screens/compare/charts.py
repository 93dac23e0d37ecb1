"""Figures of the Compare page: what changed."""

from typing import Any

import altair as alt

from dashboards.drawing import Rows, data, finished
from dashboards.theme import Palette

RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)


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
