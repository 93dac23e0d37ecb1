"""`nbridge health` for a person: a verdict, its reasons, and the figures, on one screen."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from inputs.quantities import GIB, TIME, scaled, trimmed
from monitoring.health.figures import PERCENTILES
from monitoring.health.verdict import some

_COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_LATENCIES = {"ttft": "first token", "itl": "between tokens", "queue": "in the queue", "e2e": "whole request"}


def page(document: Mapping[str, Any]) -> RenderableType:
    """The document of a health check as something rich can print."""
    colour = _COLOURS[document["status"]]
    head = Text(f" {document['status'].upper()} ", style=f"bold white on {colour}")
    title = Text.assemble(head, " ", str(document["server"]))
    if document.get("model"):
        title.append(f"  {document['model']}", style="bold")
    parts: list[RenderableType] = []
    if document["reasons"]:
        parts += [_listed(document["reasons"], "✗", colour)]
    facts = _facts(document)
    if facts.row_count:
        parts += [Text(), facts] if parts else [facts]
    if latency := document.get("latency"):
        parts += [Text(), _latency(latency)]
    if gpus := document.get("gpu"):
        parts += [Text(), _gpus(gpus)]
    if document["notes"]:
        parts += [Text(), _listed(document["notes"], "·", "dim")]
    return Panel(Group(*parts), title=title, title_align="left", border_style=colour, padding=(1, 2))


def seconds(value: float) -> str:
    """A duration for a person: 340 µs, 21 ms, 1.25 s, 3 min, 2 h, 4 days."""
    if value < 0.9995:
        return scaled(value, TIME[3:], trimmed)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if value < limit:
            return f"{trimmed(value / size)} {unit}"
    return f"{value / 86400:.0f} days"


def _listed(texts: list[str], mark: str, style: str) -> Table:
    table = Table.grid(padding=(0, 1))
    for text in texts:
        table.add_row(Text(mark, style=style), Text(text, style=style if style == "dim" else "bold"))
    return table


def _facts(document: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    for name, words in (
        ("up for", seconds(document["uptime_s"]) if "uptime_s" in document else ""),
        ("canary", _canary(document.get("canary"))),
        ("now", _engine(document.get("engine", {}))),
        ("speed", _speed(document.get("engine", {}))),
        ("ended", _ended(document)),
        ("since start", _since_start(document.get("requests", {}))),
    ):
        if words:
            table.add_row(name, Text(words))
    return table


def _canary(canary: Mapping[str, Any] | None) -> str:
    if canary is None:
        return ""
    return f"one token in {seconds(canary['latency_s'])}" if canary["up"] else f"failed: {canary['reason']}"


def _engine(engine: Mapping[str, Any]) -> str:
    words = [f"{some(engine['running'])} running"] if "running" in engine else []
    words += [f"{engine['waiting']:,} waiting"] if "waiting" in engine else []
    if "kv_cache_usage_ratio" in engine:
        words.append(f"KV cache {engine['kv_cache_usage_ratio']:.0%} full")
    return ", ".join(words)


def _speed(engine: Mapping[str, Any]) -> str:
    words = []
    if "output_tokens_per_s" in engine:
        words.append(f"{trimmed(engine['output_tokens_per_s'], 4)} output tokens/s")
    if "prompt_tokens_per_s" in engine:
        words.append(f"{trimmed(engine['prompt_tokens_per_s'], 4)} prompt tokens/s")
    if "prefix_cache_hit_ratio" in engine:
        words.append(f"{engine['prefix_cache_hit_ratio']:.0%} of them cached")
    if engine.get("preemptions"):
        words.append(f"{engine['preemptions']} preemptions")
    return ", ".join(words)


def _ended(document: Mapping[str, Any]) -> str:
    ended = document.get("requests", {}).get("window")
    if not ended:
        return ""
    words = [f"{some(ended['finished'])} in {document['window_s']:.0f} s ({trimmed(document['requests']['qps'])}/s)"]
    for name, said in (("failed", "failed"), ("aborted", "given up by the client"), ("rejected", "turned away")):
        if ended.get(name):
            words.append(f"{ended[name]:,} {said}")
    if ended.get("http_5xx"):
        words.append(f"{ended['http_5xx']:,} answers of HTTP 5xx")
    return ", ".join(words)


def _since_start(requests: Mapping[str, Any]) -> str:
    if "total" not in requests:
        return ""
    words = [f"{some(requests['total'])}", f"{requests['successful']:,} successful"]
    words += [f"{requests['failed']:,} failed"] if requests["failed"] else []
    words += [f"{requests['aborted']:,} given up by the client"] if requests["aborted"] else []
    return ", ".join(words)


def _latency(latency: Mapping[str, Any]) -> Group:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column("latency", no_wrap=True)
    for name in ("count", "mean", *PERCENTILES):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, words in _LATENCIES.items():
        if found := latency.get(kind):
            percentiles = [_percentile(found, name) for name in PERCENTILES]
            table.add_row(words, f"{found['count']:,}", seconds(found["mean_s"]), *percentiles)
    return Group(table, Text(f"from {latency['from']}", style="dim"))


def _percentile(found: Mapping[str, Any], name: str) -> str:
    if f"{name}_s" in found:
        return seconds(found[f"{name}_s"])
    if f"{name}_more_than_s" not in found:
        return "–"
    lower, upper = found[f"{name}_more_than_s"], found.get(f"{name}_at_most_s")
    if upper is None:
        return f"> {seconds(lower)}"
    if not lower:
        return f"≤ {seconds(upper)}"
    (low, unit), high = seconds(lower).split(), seconds(upper)
    return f"{low} to {high}" if high.endswith(f" {unit}") else f"{low} {unit} to {high}"


def _gpus(gpus: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for name in ("GPU", "", "busy", "memory", "temperature", "power"):
        table.add_column(name, justify="left" if name in ("GPU", "") else "right")
    for gpu in gpus:
        memory = ""
        if "memory_used_bytes" in gpu and "memory_total_bytes" in gpu:
            memory = f"{gpu['memory_used_bytes'] / GIB:.1f} of {gpu['memory_total_bytes'] / GIB:.0f} GiB"
        table.add_row(
            gpu["gpu"],
            gpu.get("name", "") if gpu["up"] else "lost",
            f"{gpu['utilization_ratio']:.0%}" if "utilization_ratio" in gpu else "",
            memory,
            f"{gpu['temperature_celsius']:.0f} °C" if "temperature_celsius" in gpu else "",
            f"{gpu['power_watts']:.0f} W" if "power_watts" in gpu else "",
        )
    return table
