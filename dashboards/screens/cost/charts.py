"""Figures of the Cost page: utilization, demand, what each assumption moves."""

from typing import Any

import altair as alt

from dashboards.drawing import TOKENS, USD, Rows, data, decades, finished, names
from dashboards.theme import Palette


def utilization(rows: Rows, palette: Palette, *, api: Rows, actual: float | None) -> Any:
    """Own cost per million tokens against utilization, both logarithmic, with the API's price as a line."""
    x = alt.X("utilization:Q", title="Utilization", scale=alt.Scale(type="log", domain=[0.001, 1], nice=False),
              axis=alt.Axis(values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], format="~%"))  # fmt: skip
    ends = [row[name] for row in rows for name in ("usd_p5", "usd_p95")] + [row["usd_per_mtok"] for row in api]
    y = alt.Y(
        "usd_per_mtok:Q",
        title="USD per million tokens",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(labelExpr=USD, values=decades(ends)),
    )
    tips = [alt.Tooltip("utilization:Q", format=".2%"), alt.Tooltip("usd_per_mtok:Q", format="$,.3~r")]
    band = (
        alt.Chart(data(rows))
        .mark_area(color=palette.series[0], opacity=0.16)
        .encode(x=x, y=alt.Y("usd_p5:Q", title="USD per million tokens"), y2="usd_p95:Q")
    )
    own = alt.Chart(data(rows)).mark_line(color=palette.series[0], strokeWidth=2).encode(x=x, y=y, tooltip=tips)
    lines = alt.Chart(data(api)).mark_rule(color=palette.series[1], strokeDash=[6, 3], strokeWidth=1.6)
    names = alt.Chart(data([{**row, "utilization": 1} for row in api])).mark_text(
        align="right", dy=-8, dx=-4, color=palette.series[1], fontSize=11
    )
    layers = [band, own, lines.encode(y=y, tooltip=["name:N", alt.Tooltip("usd_per_mtok:Q", format="$,.3~r")]),
              names.encode(x=x, y=y, text="name:N")]  # fmt: skip
    if actual:
        here = alt.Chart(data([{"utilization": min(1.0, max(0.001, actual))}]))
        layers.append(here.mark_rule(color=palette.ink, strokeDash=[2, 3]).encode(x=x))
    return finished(alt.layer(*layers), 320)


def demand(rows: Rows, palette: Palette, *, asked_tokens: float, even: Rows) -> Any:
    """Monthly cost against demand: medians with the 5th to 95th percentile, the asked-for demand and the break-even."""
    ways = ["own hardware", "API"]
    scale = alt.Scale(domain=ways, range=[palette.series[0], palette.series[1]])
    legend = alt.Legend(title=None, orient="top")
    x = alt.X("tokens_per_month:Q", title="Tokens a month", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(labelExpr=TOKENS, values=decades([r["tokens_per_month"] for r in rows], 9)))  # fmt: skip
    ends = [row[name] for row in rows for name in ("usd_p5", "usd_p95") if row[name]]
    y = alt.Y(
        "usd_p50:Q",
        title="USD a month",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(labelExpr=USD, values=decades(ends)),
    )
    chart = alt.Chart(data([row for row in rows if row["usd_p50"]]))
    whole = alt.Chart(data([row for row in rows if row["usd_p5"] and row["usd_p95"]]))
    band = whole.mark_area(opacity=0.16).encode(
        x=x,
        y=alt.Y("usd_p5:Q", title="USD a month"),
        y2="usd_p95:Q",
        color=alt.Color("way:N", scale=scale, legend=legend),
    )
    tips = ["way:N", alt.Tooltip("tokens_per_month:Q", format=".3~s"), *(
        alt.Tooltip(f"usd_{p}:Q", format="$,.3~r") for p in ("p5", "p50", "p95")
    )]  # fmt: skip
    line = chart.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=alt.Color("way:N", scale=scale, legend=legend), tooltip=tips,
        strokeDash=alt.StrokeDash("way:N", scale=alt.Scale(domain=ways, range=[[1, 0], [6, 3]]), legend=legend),
    )  # fmt: skip
    marks = [{"tokens_per_month": asked_tokens, "what": "asked for"}]
    marks += [{"tokens_per_month": one["p50"], "what": "break-even"} for one in even]
    closed = [one for one in even if one["p95"]]  # a layer without any row is a warning in the browser's console
    spread = alt.Chart(data(closed)).mark_rect(color=palette.ink, opacity=0.07)
    rules = alt.Chart(data(marks)).mark_rule(color=palette.ink, strokeDash=[2, 3]).encode(x=x)
    words = alt.Chart(data(marks)).mark_text(align="left", dx=4, baseline="top", color=palette.ink, fontSize=11)
    return finished(
        alt.layer(
            *([spread.encode(x=alt.X("p5:Q"), x2="p95:Q")] if closed else []),
            band,
            line,
            rules,
            words.encode(x=x, y=alt.value(4), text="what:N"),
        ),
        340,
    )


def tornado(rows: Rows, palette: Palette, *, centre_usd: float) -> Any:
    """What each assumption alone moves the monthly saving by: bars from its low to its high, its name above."""
    order = [row["assumption"] for row in rows]
    long = [
        {
            "assumption": row["assumption"],
            "end": end,
            "value": row[end],
            "saving_usd": row[f"saving_at_{end}_usd"],
            "centre": centre_usd,
        }
        for row in rows
        for end in ("low", "high")
        if row[f"saving_at_{end}_usd"] is not None
    ]
    scale = alt.Scale(domain=["low", "high"], range=[palette.series[0], palette.series[1]])
    colour = alt.Color("end:N", scale=scale, legend=alt.Legend(title="the assumption at its", orient="top"))
    y = alt.Y("assumption:N", sort=order, title=None, axis=None)
    x = alt.X(
        "saving_usd:Q",
        title="Saved by own hardware, USD a month",
        axis=alt.Axis(labelExpr=USD, tickCount=6, labelOverlap=True),
        scale=alt.Scale(zero=False),
    )
    tips = ["assumption:N", "end:N", "value:N", alt.Tooltip("saving_usd:Q", format="$,.3~r", title="saving a month")]
    bars = (
        alt.Chart(data(long)).mark_bar(height=11, yOffset=7).encode(y=y, x=x, x2="centre:Q", color=colour, tooltip=tips)
    )
    centre = alt.Chart(data([{"saving_usd": centre_usd}])).mark_rule(color=palette.ink).encode(x="saving_usd:Q")
    return finished(alt.layer(bars, centre, names(order, "assumption", palette)), 130 + 34 * len(order))
