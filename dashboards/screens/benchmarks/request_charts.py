"""Figures of searches and of single requests: points over the level, all requests of a cell, one as a strip."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.drawing import TIME, Rows, data, decades, engine_scales, finished
from dashboards.screens.benchmarks.searched import INVALID, MET, MISSED, OVER, Searched
from dashboards.theme import Palette

PICKED = "picked"
PHASES = (
    "waited in the client", "until the response's head", "until the first token", "answering", "until its end",
)  # fmt: skip
_VERDICT_SHAPES = {MET: "circle", MISSED: "cross", INVALID: "diamond"}


def search(found: Searched, engines: Sequence[str], palette: Palette, *, goodput: bool) -> Any:
    """The limiting figure, or the goodput, of every point over its level, and where the capacity lies."""
    field = "goodput_rps" if goodput else "value"
    known = [row[field] for row in found.points if row[field] is not None and row[field] > 0]
    high = max([*known, *([] if goodput else [found.limit])], default=1.0)
    wide = not goodput and found.is_time and bool(known) and high / min(known) > 8
    top = high * (2.0 if wide else 1.15)
    rows = [{**row, "drawn": _drawn(row, field, top, goodput)} for row in found.points]
    rows = [row for row in rows if row["drawn"] is not None]
    scales = engine_scales(engines, palette)
    levels = [row["level"] for row in found.points]
    x = alt.X(
        "level:Q", title=OVER[found.over], axis=alt.Axis(format=",.3~r", tickCount=6, labelOverlap=True),
        scale=alt.Scale(type="log", domain=[min(levels) / 1.15, max(levels) * 1.15], nice=False),
    )  # fmt: skip
    words: dict[str, Any] = (
        {"labelExpr": TIME} if found.is_time and not goodput else {"format": ",.3~r" if goodput else ".2~%"}
    )
    scale = alt.Scale(type="log", domain=[min(known) / 1.4, top]) if wide else alt.Scale(domain=[0, top], nice=False)
    title = "Goodput, requests/s" if goodput else found.condition
    ticks: dict[str, Any] = {"values": decades([min(known), top], 6)} if wide else {"tickCount": 5}
    y = alt.Y("drawn:Q", title=title, scale=scale, axis=alt.Axis(**ticks, **words))
    layers: list[Any] = []
    if found.intervals:
        band = alt.Chart(data(found.intervals)).mark_rect(color=palette.shade, opacity=1)
        layers.append(band.encode(x=alt.X("low:Q", title=OVER[found.over]), x2="high:Q"))
        middle = alt.Chart(data(found.intervals)).mark_rule(strokeDash=[2, 2])
        tip = [alt.Tooltip(f"{name}:Q", format=",.3~r") for name in ("low", "value", "high")]
        layers.append(middle.encode(x="value:Q", color=scales["color"], tooltip=["engine:N", *tip]))
    if not goodput:
        edge = alt.Chart(data([{"drawn": found.limit, "says": "the SLO"}]))
        layers.append(edge.mark_rule(color=palette.bad, strokeDash=[4, 3]).encode(y=y))
        named = edge.mark_text(align="left", dx=3, dy=-6, color=palette.bad)
        layers.append(named.encode(y=y, x=alt.value(0), text="says:N"))
    legend = alt.Legend(
        title=None, orient="top", columns=0, symbolFillColor=palette.muted, symbolStrokeColor=palette.muted
    )
    shape = alt.Shape(
        "says:N", legend=legend,
        scale=alt.Scale(domain=list(_VERDICT_SHAPES), range=list(_VERDICT_SHAPES.values())),
    )  # fmt: skip
    tips = [
        "engine:N",
        alt.Tooltip("level:Q", format=",.3~r"),
        alt.Tooltip("says:N", title="verdict"),
        alt.Tooltip("value:Q", title=found.condition, format=",.3~r"),
        alt.Tooltip("goodput_rps:Q", title="goodput (requests/s)", format=",.3~r"),
        "why:N",
    ]
    marks = alt.Chart(data(rows)).mark_point(size=80, filled=True, opacity=1, stroke=palette.paper, strokeWidth=0.5)
    layers.append(marks.encode(x=x, y=y, color=scales["color"], shape=shape, tooltip=tips))
    return finished(alt.layer(*layers).resolve_scale(shape="independent"), 300)


def _drawn(row: dict[str, Any], field: str, top: float, goodput: bool) -> float | None:
    """Where a point stands: one that was ended early at the upper edge."""
    if row[field] is not None:
        return float(row[field])
    return top if row["says"] == MISSED and not goodput else None


def requests(rows: Rows, palette: Palette, *, title: str) -> Any:
    """Every request of a cell: when it was sent, how long it took. A click picks one."""
    # Streamlit hands on what is picked only from a figure of one layer.
    picked = alt.selection_point(name=PICKED, fields=["request_id"], on="click", clear="dblclick")
    kinds = ["as most", "far out"]
    says = alt.Scale(domain=kinds, range=[palette.series[0], palette.bad])
    shapes = alt.Scale(domain=kinds, range=["circle", "diamond"])
    legend = alt.Legend(title=None, orient="top")
    marks = alt.Chart(data(rows)).mark_point(size=55, filled=True, opacity=0.85, cursor="pointer")
    chart = marks.encode(
        x=alt.X(
            "sent_s:Q", title="Sent, seconds after the load began", scale=alt.Scale(nice=False),
            axis=alt.Axis(tickCount=8, format=",.4~r", labelOverlap=True),
        ),
        y=alt.Y("value_s:Q", title=title, axis=alt.Axis(labelExpr=TIME, tickCount=6), scale=alt.Scale(zero=True)),
        color=alt.Color("says:N", scale=says, legend=legend),
        shape=alt.Shape("says:N", scale=shapes, legend=legend),
        tooltip=[
            alt.Tooltip("request_id:N"), alt.Tooltip("value_s:Q", title="seconds", format=",.3~r"),
            alt.Tooltip("output_tokens:Q"),
        ],
    )  # fmt: skip
    return finished(chart.add_params(picked), 280)


def strip(phases: Rows, chunks: Rows, palette: Palette) -> Any:
    """One request: its phases as a bar, below it a tick for every chunk."""
    end = max([row["to_s"] for row in phases] + [row["at_s"] for row in chunks] + [1e-9])
    x = alt.X(
        "from_s:Q", title="Since it was due", scale=alt.Scale(domain=[0, end * 1.01], nice=False),
        axis=alt.Axis(labelExpr=TIME, tickCount=6, labelOverlap=True),
    )  # fmt: skip
    lanes = alt.Y("lane:N", sort=["phases", "chunks"], title=None, axis=alt.Axis(labelLimit=90))
    colours = alt.Scale(domain=list(PHASES), range=[palette.series[i] for i in (5, 0, 1, 2, 7)])
    bars = alt.Chart(data([{**row, "lane": "phases"} for row in phases])).mark_bar(
        height=22, stroke=palette.paper, strokeWidth=1
    )
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=200)
    tips = [alt.Tooltip("phase:N"), alt.Tooltip("took_s:Q", title="seconds", format=",.3~r")]
    layers = [
        bars.encode(x=x, x2="to_s:Q", y=lanes, color=alt.Color("phase:N", scale=colours, legend=legend), tooltip=tips)
    ]
    if chunks:
        ticks = alt.Chart(data([{**row, "lane": "chunks"} for row in chunks])).mark_tick(
            thickness=1.5, height=22, color=palette.ink
        )
        of = ["chunk:Q", alt.Tooltip("at_s:Q", title="arrived (s)", format=",.4~r"),
              alt.Tooltip("gap_s:Q", title="gap (s)", format=",.3~r"), "tokens:Q"]  # fmt: skip
        layers.append(ticks.encode(x=alt.X("at_s:Q", title="Since it was due"), y=lanes, tooltip=of))
    return finished(alt.layer(*layers), 170)
