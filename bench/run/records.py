"""One record per request: the columns of `requests.parquet`, and the way there from a cell's JSONL.

While a cell runs, the Locust process appends one JSON object per ended request, with absolute seconds of the
machine's monotonic clock. At the cell's end they become Parquet with seconds from the cell's zero, so that a killed
process loses at most the requests in flight. Warm-up records stay behind in the JSONL: they are not measured.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("scenario", pa.string()),
        ("conversation", pa.string()),
        ("turn", pa.int32()),
        ("scheduled_s", pa.float64()),
        ("sent_s", pa.float64()),
        ("headers_s", pa.float64()),
        ("first_token_s", pa.float64()),
        ("last_token_s", pa.float64()),
        ("ended_s", pa.float64()),
        ("chunk_s", pa.list_(pa.float64())),
        ("chunk_tokens", pa.list_(pa.int32())),
        ("prompt_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("outcome", pa.string()),
        ("http_status", pa.int32()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("connect_s", pa.float64()),
        ("reads", pa.int32()),
        ("coalesced_reads", pa.int32()),
        ("merged_reads", pa.int32()),
        ("late_reads", pa.int32()),
        ("clock", pa.string()),
        ("read_late_s", pa.list_(pa.float32())),
        ("tokens_after_first", pa.float64()),
        ("finish_reason", pa.string()),
        ("retry_after_s", pa.float64()),
        ("notes", pa.list_(pa.string())),
    ]
)
# What the client notes about an answer that it took all the same.
NOTES = {
    "bom": "begin with a byte order mark",
    "content_type": "are event streams by content, not by content-type",
    "empty_data": "hold empty data lines",
    "foreign_event": "hold events that are not JSON",
    "done_twice": "say [DONE] twice",
    "usage_after_done": "count their tokens after [DONE]",
    "after_done": "go on after [DONE], without text",
    "no_done": "end without [DONE]",
    "no_finish_reason": "end without a finish_reason",
    "no_last_chunk": "end with [DONE] and a closed connection, without the last chunk of HTTP",
    "no_content": "hold no generated text",
    "unusable_count": "hold token counts that cannot be true",
}
_INSTANTS = ("scheduled", "sent", "headers", "first_token", "last_token", "ended")
_BATCH_ROWS = 20_000


def parse_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a torn last line (the writer was killed) is passed over."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def from_zero(record: dict[str, Any], zero_s: float) -> dict[str, Any]:
    """A row of `requests.parquet`: the record's instants as seconds from the cell's zero."""
    row = {name: record.get(name) for name in SCHEMA.names}
    for name in _INSTANTS:
        instant = record.get(name)
        row[f"{name}_s"] = None if instant is None else instant - zero_s
    row["chunk_s"] = [t - zero_s for t in record.get("chunk_s") or ()]
    late_us = record.get("read_late_us")
    row["read_late_s"] = None if late_us is None else [late * 1e-6 for late in late_us]
    return row


Amend = Callable[[dict[str, Any]], dict[str, Any]]


def write_parquet(sources: Iterable[Path], target: Path, zero_s: float, amend: Amend | None = None) -> int:
    """Write the measured records of `sources` (JSONL) to `target`; returns how many rows it holds.

    Works in batches, so memory does not grow with the run. The file appears whole or not at all. `amend` may change
    each record before it becomes a row.
    """
    partial = target.with_suffix(".partial")
    written = 0
    with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for source in sources:
            with source.open(encoding="utf-8") as lines:
                for record in parse_lines(lines):
                    if record.get("warmup"):
                        continue
                    rows.append(from_zero(amend(record) if amend else record, zero_s))
                    if len(rows) >= _BATCH_ROWS:
                        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                        written += len(rows)
                        rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        written += len(rows)
    partial.replace(target)
    return written
