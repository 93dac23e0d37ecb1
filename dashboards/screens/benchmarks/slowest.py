"""The requests of one cell: how long each took, which are far out, and one of them from its schedule to its end. Pure.

Instants are seconds from the cell's zero, as `requests.parquet` has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from bench.run.stats.latencies import column, latencies
from inputs.quantities import MISSING, count, plural, seconds

Rows = list[dict[str, Any]]
METRICS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E latency"}
COLUMNS = (
    "request_id", "outcome", "scheduled_s", "sent_s", "first_token_s", "last_token_s", "ended_s", "output_tokens",
    "tokens_after_first",
)  # fmt: skip
LISTED = 20  # of the slowest, and of those without an answer
POINTS = 1_000  # that are drawn; the slowest of them are always among them
FAR_OUT = 3.0  # times the interquartile range above the third quartile: Tukey's “far out”
AUTOMATIC = 200_000  # requests that are read without being asked for


@dataclass(frozen=True)
class Requests:
    """The requests of a cell by one latency: points of a figure, and those that are worth a look, the slowest first."""

    points: Rows
    listed: tuple[str, ...]
    labels: dict[str, str]
    far_out: int
    answered: int
    limit_s: float | None


def requests(table: pa.Table, metric: str) -> Requests:
    """What a cell's rows (COLUMNS) say of each request."""
    ids, outcomes = table["request_id"].to_pylist(), table["outcome"].to_pylist()
    values, sent = latencies(table)[metric], column(table, "sent_s")
    answered = np.array([outcome == "ok" for outcome in outcomes], dtype=bool) & ~np.isnan(values)
    known = np.flatnonzero(answered)
    slowest = known[np.argsort(-values[known], kind="stable")]
    limit_s = _far_out_s(values[known])
    drawn = np.union1d(slowest[: POINTS // 5], known[:: max(1, -(-known.size // (POINTS * 4 // 5)))])
    points = [
        {
            "request_id": ids[i],
            "sent_s": float(sent[i]),
            "value_s": float(values[i]),
            "output_tokens": table["output_tokens"][i].as_py(),
            "says": "far out" if limit_s is not None and values[i] > limit_s else "as most",
        }
        for i in map(int, drawn)
    ]
    lost = [i for i, outcome in enumerate(outcomes) if outcome != "ok"][:LISTED]
    labels = {
        ids[i]: f"{METRICS[metric]} {seconds(float(values[i]))}, sent at {seconds(float(sent[i]))} ({ids[i]})"
        for i in map(int, slowest[:LISTED])
    }
    labels |= {ids[i]: f"{str(outcomes[i]).replace('_', ' ')} ({ids[i]})" for i in lost}
    far = 0 if limit_s is None else int((values[known] > limit_s).sum())
    return Requests(points, tuple(labels), labels, far, int(known.size), limit_s)


def _far_out_s(values: Any) -> float | None:
    if values.size < 8:
        return None
    first, third = np.percentile(values, [25, 75])
    return float(third + FAR_OUT * (third - first))


def caption(found: Requests, metric: str) -> str:
    """The caption of the figure of all requests."""
    text = f"Each point is a request: when it was sent (to the right), its {METRICS[metric]} (upwards)."
    if found.limit_s is not None:
        beyond = f"beyond {seconds(found.limit_s)}, three interquartile ranges above the third quartile"
        text += f" Far out: {count(found.far_out)} of {count(found.answered)}, {beyond}."
    if len(found.points) < found.answered:
        text += f" Drawn are {count(len(found.points))} of them, the slowest among them."
    return text + " Choose one, here or in the list, to see it from its schedule to its last chunk."


@dataclass(frozen=True)
class Strip:
    """One request: its phases, its chunks as they arrived, and what is to be said of it.

    Phases and chunks are in seconds since the request was due, so that a wait in the client shows.
    """

    phases: Rows
    chunks: Rows
    facts: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]


def strip(row: Mapping[str, Any]) -> Strip:
    """One row of `requests.parquet` as a strip."""
    due = row.get("scheduled_s")
    zero = due if due is not None else row.get("sent_s") or 0.0
    marks = [
        ("waited in the client", zero, row.get("sent_s")),
        ("until the response's head", row.get("sent_s"), row.get("headers_s")),
        ("until the first token", row.get("headers_s") or row.get("sent_s"), row.get("first_token_s")),
        ("answering", row.get("first_token_s"), row.get("last_token_s")),
        ("until its end", row.get("last_token_s") or row.get("headers_s") or row.get("sent_s"), row.get("ended_s")),
    ]
    phases = [
        {"phase": name, "from_s": start - zero, "to_s": end - zero, "took_s": end - start}
        for name, start, end in marks
        if start is not None and end is not None and end >= start
    ]
    arrived = [at - zero for at in row.get("chunk_s") or ()]
    tokens = row.get("chunk_tokens") or [None] * len(arrived)
    gaps = [None, *(after - before for before, after in pairwise(arrived))]
    chunks = [
        {"chunk": i + 1, "at_s": at, "gap_s": gap, "tokens": of}
        for i, (at, gap, of) in enumerate(zip(arrived, gaps, tokens, strict=False))
    ]
    return Strip(phases, chunks, _facts(row, chunks), tuple(_remarks(row, chunks)))


def _between(row: Mapping[str, Any], start: str, end: str) -> float | None:
    a, b = row.get(start), row.get(end)
    return None if a is None or b is None else float(b - a)


def _facts(row: Mapping[str, Any], chunks: Rows) -> tuple[tuple[str, str, str], ...]:
    longest = max((chunk["gap_s"] for chunk in chunks if chunk["gap_s"] is not None), default=None)
    return (
        ("Sent after it was due", seconds(_between(row, "scheduled_s", "sent_s")), ""),
        ("TTFT", seconds(_between(row, "sent_s", "first_token_s")), ""),
        ("E2E latency", seconds(_between(row, "sent_s", "ended_s")), str(row.get("outcome") or MISSING)),
        ("Longest gap", seconds(longest), "between two chunks"),
        ("Prompt", count(row.get("prompt_tokens")), _cached(row.get("cached_tokens"))),
        ("Answer", count(row.get("output_tokens")), f"tokens in {count(len(chunks))} chunks"),
    )


def _cached(tokens: int | None) -> str:
    return "tokens" if tokens is None else f"tokens, {count(tokens)} cached"


def _remarks(row: Mapping[str, Any], chunks: Rows) -> list[str]:
    said = []
    late = [value for value in row.get("read_late_s") or () if value is not None]
    if row.get("clock") == "kernel":
        said.append("Chunks stand where the kernel had taken them up.")
        if late:
            said.append(
                f"The client read them later: in the median by {seconds(float(np.median(late)))}, at most by "
                f"{seconds(float(max(late)))}, in {count(len(late))} reads."
            )
    elif row.get("clock") == "read":
        said.append("Chunks stand where the client read them: the kernel did not stamp this connection.")
    elif chunks:
        said.append("This run was made before the kernel's times were kept: chunks stand where the client read them.")
    if connected := row.get("connect_s"):
        said.append(f"Opening the connection took {seconds(connected)} of the time before it was sent.")
    together = sum(1 for chunk in chunks if chunk["gap_s"] == 0)
    if together:
        said.append(f"{plural(together, 'chunk')} arrived together with the one before.")
    if row.get("error"):
        said.append(f"It ended with: {row['error']}")
    return said


def words(found: Strip) -> str:
    """The strip for those who do not see it."""
    phases = "; ".join(f"{row['phase']}: {seconds(row['took_s'])}" for row in found.phases)
    return f"{phases}. {count(len(found.chunks))} chunks."
