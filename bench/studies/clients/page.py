"""The cells of all rounds as one table, and what was reached of the goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.studies.clients.points import ALL, MAIN, Point

Cell = dict[str, Any]
NAMES = {
    "nbridge": "**nbridge bench**",
    "raw": "asyncio + uvloop, bare",
    "aiohttp": "aiohttp",
    "aiohttp-uvloop": "aiohttp + uvloop",
    "httpx": "httpx",
    "fasthttp": "Locust's FastHttpUser",
    "vllm": "vllm bench serve",
    "guidellm": "GuideLLM",
    "aiperf": "AIPerf",
}
PEERS = ("vllm", "guidellm", "aiperf")
MOST_CPU_US, MOST_ITL_ERROR, MOST_LATENESS_S = 40.0, 0.01, 0.005
MOST_BIAS_S = {MAIN[0]: 0.0003, MAIN[1]: 0.001, MAIN[2]: 0.001}

# What is compared: key → how a cell says it
FIGURES: dict[str, Callable[[Cell], float | None]] = {
    "cpu_us": lambda cell: cell["client_cpu_us_per_chunk"],
    "bias_median_s": lambda cell: cell["ttft_bias"]["median_s"],
    "bias_mean_s": lambda cell: cell["ttft_bias"]["mean_s"],
    "itl_error": lambda cell: cell["itl_error"],
    "coalesced": lambda cell: cell["coalesced"],
    "lost": lambda cell: cell["requests"]["asked"] - cell["requests"]["ok"],
}


def point_of(cell: Cell) -> Point:
    return Point(cell["users"], cell["per_event"], cell["busy"])


def values(cells: Iterable[Cell], client: str, point: Point, figure: str) -> list[float]:
    """A figure's values over the rounds; none where the client does not say it or failed."""
    found = []
    for cell in cells:
        if cell["client"] == client and "error" not in cell and point_of(cell) == point:
            value = FIGURES[figure](cell)
            if value is not None:
                found.append(value)
    return found


def middle(cells: Sequence[Cell], client: str, point: Point, figure: str) -> float | None:
    """The median over the rounds."""
    found = values(cells, client, point, figure)
    return statistics.median(found) if found else None


def goals(cells: Sequence[Cell], late: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each goal with its figure; `met` is None where it was not measured."""
    found: list[dict[str, Any]] = []

    def ours(point: Point, figure: str) -> float | None:
        return middle(cells, "nbridge", point, figure)

    def add(what: str, value: float | None, unit: str, limit: float | None, *, strict: bool = False) -> None:
        met = None
        if value is not None and limit is not None:
            met = abs(value) < limit if strict else abs(value) <= limit
        found.append({"goal": what, "value": value, "unit": unit, "limit": limit, "met": met})

    for point in MAIN[:2]:
        add(f"CPU per chunk, {point}", ours(point, "cpu_us"), "µs", MOST_CPU_US)
        rival = [value for kind in ("aiohttp", "aiohttp-uvloop") if (value := middle(cells, kind, point, "cpu_us"))]
        add(f"… below aiohttp's, {point}", ours(point, "cpu_us"), "µs", min(rival, default=None), strict=True)
    for point, limit in MOST_BIAS_S.items():
        add(f"TTFT bias, median, {point}", ours(point, "bias_median_s"), "s", limit)
    for point in (MAIN[0], MAIN[3]):
        add(f"mean ITL's error, {point}", ours(point, "itl_error"), "share", MOST_ITL_ERROR)
    for figure, what, unit in (
        ("cpu_us", "CPU per chunk", "µs"),
        ("bias_median_s", "TTFT bias, median", "s"),
        ("itl_error", "mean ITL's error", "share"),
    ):
        for point in MAIN:
            rivals = [abs(value) for peer in PEERS if (value := middle(cells, peer, point, figure)) is not None]
            best = min(rivals, default=None)
            add(f"{what}: ahead of every peer, {point}", ours(point, figure), unit, best, strict=True)
    lates = [cell["says"]["dispatch_lateness_p99_s"] for cell in late if "error" not in cell]
    add("dispatch lateness p99 at 200 requests/s", statistics.median(lates) if lates else None, "s", MOST_LATENESS_S)
    return found


def page(cells: Sequence[Cell], late: Sequence[Cell]) -> str:
    """The tables, as Markdown."""
    parts = ["## Goals\n", _goals(goals(cells, late))]
    for point in ALL:
        rows = [client for client in NAMES if any(c["client"] == client and point_of(c) == point for c in cells)]
        if rows:
            parts += [f"\n## {_title(point)}\n", _table(cells, rows, point)]
    return "\n".join(parts) + "\n"


def _title(point: Point) -> str:
    tokens = "1 token" if point.per_event == 1 else f"{point.per_event} tokens"
    beside = "beside one spinning process per core" if point.busy else "nothing else running"
    return f"{point.users:,} user{'s' if point.users > 1 else ''}, {tokens} a chunk, {beside}"


def _table(cells: Sequence[Cell], rows: Sequence[str], point: Point) -> str:
    lines = [
        "| client | CPU per chunk, µs | TTFT bias, median, ms | TTFT bias, mean, ms | mean ITL's error | reads with "
        "several chunks | lost of asked | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for client in rows:
        here = [cell for cell in cells if cell["client"] == client and point_of(cell) == point]
        failed = [cell["error"] for cell in here if "error" in cell]
        if len(failed) == len(here):
            lines.append(f"| {NAMES[client]} | failed: {failed[0].replace('|', '/')} | | | | | | {len(here)} |")
            continue
        shown = [
            spread(values(here, client, point, "cpu_us"), 1, 1),
            spread(values(here, client, point, "bias_median_s"), 1000, 2, sign=True),
            spread(values(here, client, point, "bias_mean_s"), 1000, 2, sign=True),
            spread(values(here, client, point, "itl_error"), 100, 1, " %", sign=True),
            spread(values(here, client, point, "coalesced"), 100, 1, " %"),
        ]
        lost = sum(values(here, client, point, "lost"))
        rounds = f"{len(here) - len(failed)}" + (f" of {len(here)}" if failed else "")
        lines.append(
            f"| {NAMES[client]} | {' | '.join(shown)} | {lost:.0f} of {point.requests * (len(here) - len(failed)):,} "
            f"| {rounds} |"
        )
    return "\n".join(lines)


def spread(found: Sequence[float], scale: float, digits: int, unit: str = "", *, sign: bool = False) -> str:
    """The median, and from two values on the least and the greatest."""
    if not found:
        return "–"
    kind = f"{'+' if sign else ''}.{digits}f"
    text = f"{statistics.median(found) * scale:{kind}}{unit}"
    if len(found) > 1:
        text += f" ({min(found) * scale:{kind}} to {max(found) * scale:{kind}})"
    return text.replace("-", "−")


def _goals(found: Sequence[dict[str, Any]]) -> str:
    lines = ["| goal | measured | limit | |", "|---|---|---|---|"]
    for one in found:
        word = {True: "reached", False: "**missed**", None: "not measured"}[one["met"]]
        lines.append(f"| {one['goal']} | {_value(one['value'], one)} | {_value(one['limit'], one)} | {word} |")
    return "\n".join(lines)


def _value(value: float | None, goal: dict[str, Any]) -> str:
    if value is None:
        return "–"
    match goal["unit"]:
        case "s":
            return f"{value * 1000:.2f} ms".replace("-", "−")
        case "share":
            return f"{value * 100:.2f} %".replace("-", "−")
        case unit:
            return f"{value:.1f} {unit}"
