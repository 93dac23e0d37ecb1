"""What each request's row says: its latencies, its tokens, whether it was answered."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.distributions import Floats


def column(requests: pa.Table, name: str) -> Floats:
    """A numeric column as float64; null becomes NaN."""
    return np.asarray(requests[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def ok_only(requests: pa.Table) -> pa.Table:
    """The rows that were answered in full."""
    if pc.all(pc.equal(requests["outcome"], "ok")).as_py():
        return requests  # a copy of a large table costs more than the look
    return requests.filter(pc.equal(requests["outcome"], "ok"))


def answered_whole(ok: pa.Table) -> bool:
    """Whether these rows' answers came in one piece (hidden states): there are no output tokens and no TTFT."""
    return bool(len(ok)) and ok["first_token_s"].null_count == len(ok) and ok["output_tokens"].null_count == len(ok)


def latencies(ok: pa.Table) -> dict[str, Floats]:
    """Per-request latencies of the rows `ok`: ttft_s, ttft_from_schedule_s, e2e_s, e2e_from_schedule_s, tpot_s.

    NaN where a request has none (no content chunk, a single token).
    """
    sent, scheduled = column(ok, "sent_s"), column(ok, "scheduled_s")
    first, last, ended = column(ok, "first_token_s"), column(ok, "last_token_s"), column(ok, "ended_s")
    after = tokens_after_first(ok)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(after > 0, (last - first) / after, np.nan)
    return {
        "ttft_s": first - sent,
        "ttft_from_schedule_s": first - scheduled,
        "tpot_s": tpot,
        "e2e_s": ended - sent,
        "e2e_from_schedule_s": ended - scheduled,
    }


def tokens_after_first(ok: pa.Table) -> Floats:
    """Per request, the output tokens after its first content chunk; NaN where the server gave no count.

    Records of runs from before this was recorded count the first chunk as one token.
    """
    tokens = column(ok, "output_tokens") - 1
    if "tokens_after_first" not in ok.column_names:
        return tokens
    after = column(ok, "tokens_after_first")
    return np.where(np.isnan(after), tokens, after)


def uncounted(ok: pa.Table) -> int:
    """How many of these streamed answers have no count of their output tokens."""
    return int(np.isnan(column(ok, "output_tokens"))[~np.isnan(column(ok, "first_token_s"))].sum())


def left_s(requests: pa.Table) -> Floats:
    """When each request left the client, but for the time to open its connection, the network's own; NaN: never."""
    return np.asarray(column(requests, "sent_s") - np.nan_to_num(column(requests, "connect_s")))
