"""Figures of the Capacity page: memory, context against requests, bounds, servers."""

from typing import Any

import altair as alt

from dashboards.drawing import BYTES, Rows, data, decades, finished
from dashboards.theme import Palette
from reports.figures.memory_bars import byte_ticks


def stack(rows: Rows, palette: Palette, *, budget_bytes: float, total_bytes: float) -> Any:
    """One GPU's memory as one bar, with the budget and the whole memory as lines."""
    parts = [row["part"] for row in rows]
    colours = alt.Scale(domain=parts, range=[palette.series[i] for i in (0, 7, 4, 3, 1)][: len(parts)])
    used = sum(row["bytes"] for row in rows)
    far = max(used, total_bytes) * 1.03
    x = alt.X(
        "sum(bytes):Q",
        title="Memory of one GPU",
        axis=alt.Axis(labelExpr=BYTES, values=byte_ticks(far)),
        scale=alt.Scale(domain=[0, far], nice=False),
        stack="zero",
    )
    tips = ["part:N", alt.Tooltip("bytes:Q", format=","), "why:N"]
    bar = alt.Chart(data(rows)).mark_bar(stroke=palette.paper, strokeWidth=1.5, height=54)
    legend = alt.Legend(title=None, orient="top", columns=0)
    bars = bar.encode(
        x=x,
        color=alt.Color("part:N", scale=colours, sort=parts, legend=legend),
        order=alt.Order("order:Q"),
        tooltip=tips,
    )
    marks = [{"at": budget_bytes, "what": "budget"}, {"at": total_bytes, "what": "all of it"}]
    lines = alt.Chart(data(marks)).mark_rule(color=palette.ink, strokeWidth=2)
    rules = lines.encode(x="at:Q", strokeDash=alt.StrokeDash("what:N", legend=None))
    words = alt.Chart(data(marks)).mark_text(dy=-40, align="right", dx=-4, color=palette.ink, fontSize=11)
    return finished(alt.layer(bars, rules, words.encode(x="at:Q", text="what:N")), 190)


def trade(rows: Rows, palette: Palette, *, context_tokens: int, concurrency: int) -> Any:
    """How many sequences of each length fit at once, with the band of the estimates; what is asked for as a cross."""
    x = alt.X(
        "context_tokens:Q", title="Context of each sequence (tokens)", scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(format=",", values=[row["context_tokens"] for row in rows], labelOverlap=True),
    )  # fmt: skip
    known = [{**row, "low": max(row["sequences_low"], 0.7)} for row in rows]
    ticks = decades([*(row["low"] for row in known), *(row["sequences_high"] for row in known), concurrency])
    y = alt.Y(
        "sequences_mode:Q",
        title="Sequences at once",
        scale=alt.Scale(
            type="log", domain=[min(ticks) * 0.8, max(row["sequences_high"] for row in rows) * 1.25], nice=False
        ),
        axis=alt.Axis(values=ticks, format=",~r"),
    )
    chart = alt.Chart(data([row for row in known if row["sequences_mode"]]))
    tips = [
        alt.Tooltip(f"{name}:Q", format=",")
        for name in ("context_tokens", "sequences_low", "sequences_mode", "sequences_high")
    ]
    band = alt.Chart(data(known)).mark_area(color=palette.series[0], opacity=0.18)
    line = chart.mark_line(color=palette.series[0], point=alt.OverlayMarkDef(size=45, color=palette.series[0]))
    asked = alt.Chart(data([{"context_tokens": context_tokens, "sequences_mode": concurrency}]))
    cross = asked.mark_point(shape="cross", size=170, filled=True, color=palette.series[1], opacity=1)
    return finished(
        alt.layer(
            band.encode(x=x, y=alt.Y("low:Q", title="Sequences at once"), y2="sequences_high:Q"),
            line.encode(x=x, y=y, tooltip=tips),
            cross.encode(x=x, y=y, tooltip=["context_tokens:Q", alt.Tooltip("sequences_mode:Q", title="asked for")]),
        )
    )


def bounds(rows: Rows, palette: Palette) -> Any:
    """The most output tokens per second at each batch size."""
    x = alt.X("batch:Q", title="Sequences in a batch", scale=alt.Scale(type="log", base=2, nice=False),
              axis=alt.Axis(values=[row["batch"] for row in rows]))  # fmt: skip
    y = alt.Y(
        "output_tok_s:Q",
        title="Output tokens/s at most",
        axis=alt.Axis(format=",.3~r", values=decades([row["output_tok_s"] for row in rows])),
        scale=alt.Scale(type="log", domain=[rows[0]["output_tok_s"] * 0.7, rows[-1]["output_tok_s"] * 1.3], nice=False),
    )
    tips = [
        "batch:Q",
        alt.Tooltip("output_tok_s:Q", format=",.3~r", title="all together, tokens/s"),
        alt.Tooltip("tok_s_each:Q", format=",.3~r", title="each, tokens/s"),
        alt.Tooltip("limited_by:N", title="limited by"),
    ]
    line = alt.Chart(data(rows)).mark_line(
        color=palette.series[0], point=alt.OverlayMarkDef(size=50, color=palette.series[0])
    )
    return finished(line.encode(x=x, y=y, tooltip=tips), 280)


def steps(rows: Rows, palette: Palette, *, peak_rps: float) -> Any:
    """Servers needed against the peak of the demand, the asked-for peak marked."""
    x = alt.X("peak_rps:Q", title="Peak of the demand (requests/s)", scale=alt.Scale(zero=True, nice=False))
    y = alt.Y("servers:Q", title="Servers", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(zero=True))
    line = alt.Chart(data(rows)).mark_line(color=palette.series[0], strokeWidth=2).encode(
        x=x, y=y, tooltip=[alt.Tooltip("peak_rps:Q", format=".3~r"), "servers:Q"]
    )  # fmt: skip
    mark = alt.Chart(data([{"peak_rps": peak_rps}])).mark_rule(
        color=palette.series[1], strokeDash=[5, 3], strokeWidth=1.5
    )
    return finished(alt.layer(line, mark.encode(x="peak_rps:Q")), 260)
