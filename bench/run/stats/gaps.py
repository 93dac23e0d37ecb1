"""The content chunks of many requests: their instants, their tokens, and the time between them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.distributions import Floats
from bench.run.stats.latencies import ok_only


def batches(ok: pa.Table) -> Iterator[tuple[Floats, npt.NDArray[np.bool_], Floats, bool]]:
    """(instants of content chunks, which of them is its request's first, tokens carried, did the server count them).

    In batches of rows, so that a run of a million requests fits into memory. Where the server did not count tokens per
    chunk, a request's output tokens are spread evenly over its chunks: good enough for throughput, not for ITL. Chunks
    of one instant, which one read brought, are taken together (but for runs from before clocks were recorded).
    """
    together = "clock" in ok.column_names
    for batch in ok.select(["chunk_s", "chunk_tokens", "output_tokens"]).to_batches(max_chunksize=50_000):
        chunks, carried = batch.column(0), batch.column(1)
        counts = pc.fill_null(pc.list_value_length(chunks), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        instants = chunks.flatten().to_numpy(zero_copy_only=False)
        first = np.zeros(instants.size, dtype=bool)
        first[(np.cumsum(counts) - counts)[counts > 0]] = True
        said = carried.null_count == 0
        if said:
            tokens = carried.flatten().to_numpy(zero_copy_only=False)
        else:
            output = batch.column(2).cast(pa.float64()).to_numpy(zero_copy_only=False)
            tokens = np.repeat(np.nan_to_num(output) / np.maximum(counts, 1), counts)
        if together and instants.size:
            apart = np.flatnonzero(first | (np.diff(instants, prepend=np.nan) != 0))
            instants, first, tokens = instants[apart], first[apart], np.add.reduceat(tokens, apart)
        yield instants, first, tokens, said


def token_gaps(requests: pa.Table) -> tuple[Floats, Floats | None]:
    """(chunk gaps, ITLs) in seconds over all `ok` rows; no ITLs when the server did not count tokens per chunk."""
    all_gaps: list[Floats] = []
    all_carried: list[npt.NDArray[np.int64]] = []
    counted = True
    for instants, first, tokens, said in batches(ok_only(requests)):
        if not instants.size:
            continue
        inner = ~first  # a request's first chunk closes no gap
        all_gaps.append(np.diff(instants, prepend=instants[0])[inner])
        counted &= said
        if counted:
            all_carried.append(np.asarray(tokens[inner], dtype=np.int64))
    if not all_gaps:
        return np.empty(0), None
    gaps = np.concatenate(all_gaps)
    if not counted:
        return gaps, None
    if all((carried == 1).all() for carried in all_carried):
        return gaps, gaps
    carried = np.maximum(np.concatenate(all_carried), 1)
    return gaps, np.repeat(gaps / carried, carried)
