"""Figures of the Compare page: what changed, with its interval, and one figure over many runs."""

from typing import Any

import altair as alt

from dashboards.drawing import TIME, Rows, data, finished
from dashboards.theme import Palette

_SAYS = ("better", "worse", "no change shown", "too few repeats")
_PERCENT = "(datum.value > 0 ? '+' : datum.value < 0 ? '−' : '') + format(abs(datum.value), '.3~p')"


def changes(rows: Rows, threshold: float, palette: Palette) -> Any:
    """The change of one figure with its interval, a row for each engine and load (of several runs for each of them, one
    below the other), beside the practical threshold."""
    parts = ("engine", "load", "run")
    known = [{**row, "what": " · ".join(str(row[part]) for part in parts if part in row)} for row in rows
             if row["change"] is not None]  # fmt: skip
    places = list(dict.fromkeys((row["engine"], row["load"]) for row in known))
    known.sort(key=lambda row: places.index((row["engine"], row["load"])))
    order = [row["what"] for row in known]
    ends = [abs(value) for row in known for value in (row["change"], row["low"], row["high"]) if value is not None]
    far = max([2 * threshold, *ends]) * 1.15
    x = alt.X(
        "change:Q",
        title="Change from old to new",
        scale=alt.Scale(domain=[-far, far], nice=False),
        axis=alt.Axis(labelExpr=_PERCENT, tickCount=7),
    )
    y = alt.Y("what:N", sort=order, title=None, axis=None)
    colours = [palette.series[2], palette.series[1], palette.muted, palette.muted]
    shapes = ["triangle-up", "triangle-down", "circle", "diamond"]
    colour = alt.Color(
        "says:N", scale=alt.Scale(domain=list(_SAYS), range=colours), legend=alt.Legend(title=None, orient="top")
    )
    shape = alt.Shape(
        "says:N", scale=alt.Scale(domain=list(_SAYS), range=shapes), legend=alt.Legend(title=None, orient="top")
    )
    tips = ["engine:N", "load:N", "figure:N", alt.Tooltip("change:Q", format="+.3~p"), "says:N"]
    band = alt.Chart(data([{"low": -threshold, "high": threshold}])).mark_rect(color=palette.grid, opacity=0.45)
    zero = alt.Chart(data([{"change": 0}])).mark_rule(color=palette.muted)
    layers = [band.encode(x=alt.X("low:Q"), x2="high:Q"), zero.encode(x=x)]
    if bars := [row for row in known if row["low"] is not None]:
        layers.append(
            alt.Chart(data(bars))
            .mark_rule(strokeWidth=2, yOffset=3)
            .encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=colour)
        )
    points = alt.Chart(data(known)).mark_point(yOffset=3, size=80, filled=True, opacity=1)
    layers.append(points.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips))
    names = alt.Chart(data([{"what": what} for what in order]))
    text = names.mark_text(align="left", baseline="middle", dy=-9, dx=2, fontSize=11, color=palette.ink)
    layers.append(text.encode(x=alt.value(0), y=y, text="what:N"))
    return finished(alt.layer(*layers), 120 + 32 * len(order))


def history(rows: Rows, marks: Rows, title: str, *, is_time: bool, palette: Palette) -> Any:
    """One figure over the runs: a point each, the level as a line, a rule where the level changed."""
    values = [row["value"] for row in rows] + [row["level"] for row in rows]
    room = (max(values) - min(values) or abs(max(values)) or 1.0) * 0.15
    scale = alt.Scale(domain=[min(values) - room, max(values) + room], nice=False, zero=False)
    axis = alt.Axis(title=title, labelExpr=TIME) if is_time else alt.Axis(title=title, format=",.4~r")
    x = alt.X("run:Q", title="Run, oldest first", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(zero=False))
    drawn = alt.Chart(data(rows))
    layers = []
    if marks:
        rules = alt.Chart(data(marks)).mark_rule(strokeDash=[4, 3], strokeWidth=1.5)
        worse = alt.Scale(domain=["better", "worse"], range=[palette.series[2], palette.series[1]])
        colour = alt.Color("says:N", scale=worse, legend=alt.Legend(title="Level changed", orient="top"))
        layers.append(rules.encode(x=alt.X("at:Q"), color=colour))
        label = alt.Chart(data(marks)).mark_text(align="left", dx=4, dy=2, baseline="top", color=palette.ink)
        layers.append(label.encode(x=alt.X("at:Q"), y=alt.value(0), text="change:N"))
    tips = ["run_id:N", "created:N", alt.Tooltip("value:Q", format=".4~r")]
    levels = drawn.mark_line(color=palette.series[0], strokeWidth=2)
    layers.append(levels.encode(x=x, y=alt.Y("level:Q", scale=scale, axis=axis), detail="part:N"))
    points = drawn.mark_point(filled=True, size=45, color=palette.muted, opacity=1)
    layers.append(points.encode(x=x, y=alt.Y("value:Q", scale=scale, axis=axis), tooltip=tips))
    return finished(alt.layer(*layers), 300)
