"""What was recorded beside a load's requests, as part of a cell's `metrics`: the server's pages, and timed samples."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.energy import energy
from bench.run.stats.growth import Total
from bench.run.stats.ttft_parts import ttft_parts
from bench.run.stats.window import window

_MEMORY = {"server_peak_bytes": ("process", "memory_bytes"), "gpu_used_peak_bytes": ("gpu", "memory_used_bytes")}


def beside_load(
    requests: pa.Table,
    load: dict[str, Any],
    summary: dict[str, Any],
    pages: tuple[Total | None, Total | None],
    samples: pa.Table | None,
) -> dict[str, Any]:
    """`memory`, `ttft_parts` and `energy` of a cell; `summary` is what its requests gave (bench.run.stats.summary)."""
    rate, window_s = summary["output_throughput_tok_s"], summary["window_s"]
    tokens = None if rate is None or window_s is None else rate * window_s
    return {
        "memory": _peaks(samples),
        "ttft_parts": ttft_parts(requests, *pages),
        "energy": energy(samples, window(requests, load) if len(requests) else None, tokens),
    }


def _peaks(samples: pa.Table | None) -> dict[str, int | None]:
    """The highest sampled memory in bytes of the server's processes and of the GPUs, added up per instant."""
    found: dict[str, int | None] = dict.fromkeys(_MEMORY)
    if samples is None:
        return found
    for name, (source, series) in _MEMORY.items():
        chosen = samples.filter(pc.and_(pc.equal(samples["source"], source), pc.equal(samples["name"], series)))
        totals = chosen.group_by("t_s").aggregate([("value", "sum")])
        found[name] = round(pc.max(totals["value_sum"]).as_py()) if totals.num_rows else None
    return found
