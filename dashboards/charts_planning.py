"""Rows of the planning pages → figures: memory, bounds, servers, cost, claims."""

from typing import Any

import altair as alt

from dashboards.charts import BYTES, Rows, byte_ticks, data, decades, finished
from dashboards.theme import Palette

_SIZE = "(abs(datum.value) < 1000 ? format(abs(datum.value), ',.3~r') : format(abs(datum.value), ',.3~s'))"
USD = f"(datum.value < 0 ? '−$' : '$') + {_SIZE}"
TOKENS = "format(datum.value, '.3~s')"


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


def utilization(rows: Rows, palette: Palette, *, api: Rows, actual: float | None) -> Any:
    """Own cost per million tokens against utilization, both logarithmic, with the API's price as a line."""
    x = alt.X("utilization:Q", title="Utilization", scale=alt.Scale(type="log", domain=[0.001, 1], nice=False),
              axis=alt.Axis(values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], format="~%"))  # fmt: skip
    y = alt.Y(
        "usd_per_mtok:Q",
        title="USD per million tokens",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(labelExpr=USD, values=decades([row["usd_per_mtok"] for row in [*rows, *api]])),
    )
    tips = [alt.Tooltip("utilization:Q", format=".2%"), alt.Tooltip("usd_per_mtok:Q", format="$,.3~r")]
    own = alt.Chart(data(rows)).mark_line(color=palette.series[0], strokeWidth=2).encode(x=x, y=y, tooltip=tips)
    lines = alt.Chart(data(api)).mark_rule(color=palette.series[1], strokeDash=[6, 3], strokeWidth=1.6)
    names = alt.Chart(data([{**row, "utilization": 1} for row in api])).mark_text(
        align="right", dy=-8, dx=-4, color=palette.series[1], fontSize=11
    )
    layers = [own, lines.encode(y=y, tooltip=["name:N", alt.Tooltip("usd_per_mtok:Q", format="$,.3~r")]),
              names.encode(x=x, y=y, text="name:N")]  # fmt: skip
    if actual:
        here = alt.Chart(data([{"utilization": min(1.0, max(0.001, actual))}]))
        layers.append(here.mark_rule(color=palette.ink, strokeDash=[2, 3]).encode(x=x))
    return finished(alt.layer(*layers), 320)


def demand(rows: Rows, palette: Palette, *, asked_tokens: float, even_tokens: float | None) -> Any:
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
    if even_tokens:
        marks.append({"tokens_per_month": even_tokens, "what": "break-even"})
    rules = alt.Chart(data(marks)).mark_rule(color=palette.ink, strokeDash=[2, 3]).encode(x=x)
    words = alt.Chart(data(marks)).mark_text(align="left", dx=4, baseline="top", color=palette.ink, fontSize=11)
    return finished(alt.layer(band, line, rules, words.encode(x=x, y=alt.value(4), text="what:N")), 340)


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
    return finished(alt.layer(bars, centre, _names(order, "assumption", palette)), 130 + 34 * len(order))


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
    return finished(alt.layer(one, line, points, words, _names(order, "step", palette)), 80 + 44 * len(rows))


def _names(order: list[str], field: str, palette: Palette) -> Any:
    """The rows' names above their bars: on a narrow screen an axis would leave no room for the bars."""
    names = alt.Chart(data([{field: name} for name in order]))
    text = names.mark_text(align="left", baseline="middle", dy=-9, dx=2, fontSize=11, color=palette.ink)
    return text.encode(x=alt.value(0), y=alt.Y(f"{field}:N", sort=order, axis=None), text=f"{field}:N")
