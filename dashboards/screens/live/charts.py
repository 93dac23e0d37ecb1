"""Figures of the Live page: values over time."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.drawing import TIME, Rows, data, finished
from dashboards.theme import DASHES, Palette

SECONDS = "seconds"  # the format of a time, which is written with the unit that suits it
NEAR = 0.25  # of a limit: from there on it is drawn


def over_time(
    rows: Rows,
    palette: Palette,
    *,
    title: str,
    series: Sequence[str],
    until: str,
    down: Rows = (),  # type: ignore[assignment]
    limit: float | None = None,
    slo: float | None = None,
    unit_format: str = ",.3~r",
) -> Any:
    """Lines over the last minutes: rows of at (ISO time), series, value; one colour and dash per series.

    The axis ends `until` now, also for a server that answered last some minutes ago: `down` shades since when it does
    not. `limit` is drawn as a line with its value where the values come near it. `slo`: what lies below is shaded;
    where all values are far below, the whole figure is.
    """
    span = range(len(series))
    colours = alt.Scale(domain=list(series), range=[palette.series[i % len(palette.series)] for i in span])
    dashes = alt.Scale(domain=list(series), range=[list(DASHES[i % len(DASHES)]) for i in span])
    legend = alt.Legend(title=None, orient="top", columns=0, labelLimit=240) if len(series) > 1 else None
    is_time = unit_format == SECONDS
    written = ",.3~r" if is_time else unit_format
    tips = [
        alt.Tooltip("at:T", format="%H:%M:%S", title="time"),
        alt.Tooltip("series:N"),
        alt.Tooltip("value:Q", format=written, title="seconds" if is_time else "value"),
    ]
    axis = alt.Axis(labelExpr=TIME, tickCount=5) if is_time else alt.Axis(format=unit_format, tickCount=5)
    most = max(row["value"] for row in rows)
    still = most == 0
    if limit is not None and most < limit * NEAR:
        limit = None  # so far above, it would press what happens into one line
    since = min(row["at"] for row in rows)
    when = alt.Scale(domain=[since, until if until > since else since])
    scale = alt.Scale(domain=[0, 1]) if still else alt.Scale(zero=True, nice=True)
    line = alt.Chart(data(rows)).mark_line(strokeWidth=1.8)
    lines = line.encode(
        x=alt.X("at:T", title=None, scale=when, axis=alt.Axis(format="%H:%M:%S", tickCount=5, labelOverlap=True)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=axis),
        color=alt.Color("series:N", scale=colours, legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=legend),
        detail="part:N",
        tooltip=tips,
    )
    layers = [lines]
    if slo is not None:
        layers[:0] = _objective(slo, most, palette)
    if down:
        gone = alt.Chart(data(list(down))).mark_rect(color=palette.bad, opacity=0.13)
        layers.insert(0, gone.encode(x=alt.X("from:T", scale=when), x2="to:T", tooltip=["series:N", "from:T"]))
        word = alt.Chart(data(list(down))).mark_text(text="no answer", align="left", dx=3, dy=8, color=palette.bad)
        layers.append(word.encode(x=alt.X("from:T", scale=when), y=alt.value(0)))
    if limit is not None:
        edge = data([{"limit": limit, "label": f"limit {limit:g}"}])
        layers.append(alt.Chart(edge).mark_rule(color=palette.bad, strokeDash=[4, 3]).encode(y="limit:Q"))
        named = alt.Chart(edge).mark_text(align="left", dx=3, dy=-6, color=palette.bad)
        layers.append(named.encode(y="limit:Q", x=alt.value(0), text="label:N"))
    return finished(alt.layer(*layers), 200)


def _objective(slo: float, most: float, palette: Palette) -> list[Any]:
    """The shade of what is within the objective, with its limit in words."""
    near = most >= slo * NEAR
    zone = alt.Chart(data([{"low": 0.0, "high": slo, "label": f"SLO ≤ {slo:g} s" + ("" if near else ": all of this")}]))
    shade = zone.mark_rect(color=palette.shade, opacity=1, aria=False)  # its words stand beside it
    where: dict[str, Any] = {"baseline": "top", "dy": 3} if near else {"baseline": "bottom", "dy": -4}
    word = zone.mark_text(align="right", dx=-4, color=palette.muted, **where)
    if near:
        return [shade.encode(y="low:Q", y2="high:Q"), word.encode(x=alt.value("width"), y="high:Q", text="label:N")]
    return [
        shade.encode(y=alt.value(0), y2=alt.value("height")),
        word.encode(x=alt.value("width"), y=alt.value("height"), text="label:N"),
    ]
