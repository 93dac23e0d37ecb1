"""By whose clock chunks arrived, and how truly it is known when."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.distributions import distribution


def reads(requests: pa.Table) -> dict[str, Any] | None:
    """By whose clock chunks arrived, and how truly it is known when; None for runs from before this was recorded.

    `kernel_share`: share of the requests that were answered with anything whose arrivals are the kernel's. Of those,
    `late_s` is how much later the client read than the bytes had come (one value per read), `late_share` the
    share of reads with several chunks in which the client was late, so that only the last one's arrival is known, and
    `together_share` the share of those that the sender had sent together. Of the others `unknown_share` is the share
    of reads with several chunks: nothing tells which of the two they were.
    """
    if "clock" not in requests.column_names:
        return None
    heard = requests.filter(pc.is_valid(requests["clock"]))
    stamped = heard.filter(pc.equal(heard["clock"], "kernel"))
    late_s = np.array(pc.list_flatten(stamped["read_late_s"]).to_numpy(), dtype=np.float64)
    late = _share_of_reads(stamped, "late_reads")
    coalesced = _share_of_reads(stamped, "coalesced_reads")
    return {
        "kernel_share": len(stamped) / len(heard) if len(heard) else None,
        "late_s": distribution(late_s),
        "late_share": late,
        "together_share": None if late is None or coalesced is None else coalesced - late,
        "unknown_share": _share_of_reads(heard.filter(pc.equal(heard["clock"], "read")), "coalesced_reads"),
    }


def _share_of_reads(requests: pa.Table, name: str) -> float | None:
    total = pc.sum(requests["reads"]).as_py()
    return (pc.sum(requests[name]).as_py() or 0) / total if total else None
