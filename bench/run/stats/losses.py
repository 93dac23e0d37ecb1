"""Why requests were not answered, and what the client noted of those that were."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_WORDS = 120


def causes(requests: pa.Table) -> list[dict[str, Any]]:
    """Why requests were not answered, the most frequent first: outcome, error_kind, the error's words with every
    number as #, how many and which share of all, and the longest Retry-After where the server gave one."""
    lost = requests.filter(pc.not_equal(requests["outcome"], "ok"))
    found: dict[tuple[Any, ...], list[float]] = {}
    waits = lost["retry_after_s"].to_pylist() if "retry_after_s" in lost.column_names else [None] * len(lost)
    named = (lost[name].to_pylist() for name in ("outcome", "error_kind", "error"))
    for outcome, kind, words, wait_s in zip(*named, waits, strict=True):
        key = (outcome, kind, None if words is None else re.sub(r"\d+", "#", words)[:_WORDS])
        found.setdefault(key, []).append(-1.0 if wait_s is None else wait_s)
    return [
        {
            "outcome": outcome,
            "error_kind": kind,
            "error": words,
            "requests": len(waited),
            "share": len(waited) / len(requests),
            "retry_after_s": max(waited) if max(waited) >= 0 else None,
        }
        for (outcome, kind, words), waited in sorted(found.items(), key=lambda item: -len(item[1]))
    ][:20]


def noted(requests: pa.Table) -> dict[str, int]:
    """How many answers each of the client's notes (bench.run.records.NOTES) was made about."""
    if "notes" not in requests.column_names:
        return {}
    counts = pc.value_counts(pc.list_flatten(requests["notes"])).to_pylist()
    return {item["values"]: item["counts"] for item in counts}
