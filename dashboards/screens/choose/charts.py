"""Figures of the Choose page: quality against cost, and what a month costs each way."""

from typing import Any

import altair as alt

from dashboards.drawing import USD, Rows, data, decades, finished, names
from dashboards.theme import Palette


def trade(rows: Rows, palette: Palette) -> Any:
    """Quality against the rent for a million output tokens; what meets the requirements stands out."""
    kinds = ["meets the requirements", "rejected"]
    x = alt.X(
        "usd_per_mtok:Q",
        title="Rent for a million output tokens, at the speed or its bound",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(labelExpr=USD, values=decades([row["usd_per_mtok"] for row in rows])),
    )
    y = alt.Y("quality:Q", title="Right answers (MMLU)", scale=alt.Scale(zero=False), axis=alt.Axis(format=".0%"))
    legend = alt.Legend(title=None, orient="top")
    colours = alt.Scale(domain=kinds, range=[palette.series[2], palette.muted])
    shapes = alt.Scale(domain=kinds, range=["circle", "cross"])
    tips = [
        "candidate:N",
        alt.Tooltip("usd_per_mtok:Q", format="$,.3~r"),
        alt.Tooltip("quality:Q", format=".1%"),
        "why:N",
    ]
    drawn = alt.Chart(data(rows)).mark_point(size=55, opacity=0.85)
    return finished(
        drawn.encode(
            x=x,
            y=y,
            color=alt.Color("says:N", scale=colours, legend=legend),
            shape=alt.Shape("says:N", scale=shapes, legend=legend),
            tooltip=tips,
        ),
        300,
    )


def ways(rows: Rows, palette: Palette) -> Any:
    """What a month costs each way: the median as a point, the 5th to 95th percentile as a bar."""
    order = [row["way"] for row in rows]
    finite = [row for row in rows if max(row["usd_p5"], row["usd_p95"]) < float("inf") and row["usd_p5"] > 0]
    ends = [row[name] for row in finite for name in ("usd_p5", "usd_p95")]
    y = alt.Y("way:N", sort=order, title=None, axis=None)
    scale = alt.Scale(type="log", domain=[min(ends) / 1.5, max(ends) * 1.5], nice=False)
    axis = alt.Axis(labelExpr=USD, values=decades(ends))
    tips = ["way:N", *(alt.Tooltip(f"usd_{one}:Q", format="$,.3~r") for one in ("p5", "p50", "p95")), "basis:N"]
    chart = alt.Chart(data(finite))
    bars = chart.mark_rule(strokeWidth=6, color=palette.series[0], opacity=0.35).encode(
        x=alt.X("usd_p5:Q", title="USD a month", scale=scale, axis=axis), x2="usd_p95:Q", y=y, tooltip=tips
    )
    middle = chart.mark_point(filled=True, size=110, color=palette.series[0], opacity=1).encode(
        x=alt.X("usd_p50:Q", scale=scale), y=y, tooltip=tips
    )
    return finished(alt.layer(bars, middle, names([row["way"] for row in finite], "way", palette)), 60 + 50 * len(rows))
