"""The lines over time of the Live page, of servers that run and of a replay."""

import streamlit as st

from dashboards import layout
from dashboards.screens.live import charts, view
from dashboards.screens.live.sources import Seen
from monitoring.alerting.thresholds import Thresholds
from monitoring.alerting.thresholds import load as load_thresholds

FIGURES = (
    ("output", "Output tokens per second", "Output tokens/s", ",.3~r"),
    ("ttft", "Mean time to first token (TTFT)", "TTFT", charts.SECONDS),
    ("running", "Requests running", "Requests", ",.3~r"),
    ("waiting", "Requests waiting", "Requests", ",.3~r"),
    ("kv", "KV cache in use", "Share of the cache", ".2~%"),
    ("itl", "Mean inter-token latency (ITL)", "ITL", charts.SECONDS),
)
GPU_FIGURES = (
    ("temperature_celsius", "GPU temperature", "°C", ",.3~r"),
    ("memory_used_bytes", "GPU memory in use", "Share of the memory", ".2~%"),
    ("power_watts", "GPU power", "W", ",.3~r"),
    ("utilization_ratio", "GPU busy", "Share of the time", ".2~%"),
)
HOW = (
    " A gap in a line, and the shaded part: no answer. Dashed, where values come near it: the limit of an alert. "
    "Green: within the SLO."
)


@st.cache_resource
def thresholds() -> Thresholds:
    """The limits of alerts and health."""
    return load_thresholds()


def drawn(servers: list[Seen], now_s: float, caption: str) -> None:
    """What these servers did, up to `now_s`; a figure that has no values is left out."""
    names = [one.address for one in servers]
    found = [(entry, view.course(servers, entry[0])) for entry in FIGURES]
    if any(rows for _, rows in found):
        layout.note(caption + HOW)
    _columns(found, names, now_s, view.outages(servers, now_s))


def gpus_drawn(exporters: list[Seen], now_s: float) -> None:
    """What the GPUs of these exporters did."""
    found = [(entry, view.gpu_course(exporters, entry[0])) for entry in GPU_FIGURES]
    names = list(dict.fromkeys(row["series"] for _, rows in found for row in rows))
    _columns(found, names, now_s, view.outages(exporters, now_s))


def _columns(
    found: list[tuple[tuple[str, str, str, str], view.Rows]],
    names: list[str],
    now_s: float,
    down: view.Rows,
) -> None:
    known = [(entry, rows) for entry, rows in found if rows]
    for index in range(0, len(known), 2):
        for column, (entry, rows) in zip(st.columns(2), known[index : index + 2], strict=False):
            with column:
                _figure(entry, rows, names, now_s, down)


def _figure(entry: tuple[str, str, str, str], rows: view.Rows, names: list[str], now_s: float, down: view.Rows) -> None:
    what, title, axis, form = entry
    layout.figure(
        charts.over_time(
            rows,
            layout.palette(),
            title=axis,
            series=names,
            until=view.instant(now_s),
            down=down,
            limit=view.limit(what, thresholds()),
            slo=view.slo(what, thresholds()),
            unit_format=form,
        ),
        rows,
        name=f"live-{what}",
        title=title,
        caption="",
        words=f"{title} of {', '.join(names)}.",
    )
