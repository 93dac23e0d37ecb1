"""Records → numbers. Pure: every figure of a report is computed here, from the rows of `requests.parquet`.

Definitions (docs/definitions.md has them for readers):
  TTFT                 first content chunk read − request sent
  TTFT from schedule   first content chunk read − the instant the arrival process scheduled the request
  chunk gap            between two content chunks of one request
  ITL                  a chunk's gap spread over the tokens that the chunk carries: one value per token
                       (for both, chunks that one read brought are one: they came at the same instant)
  TPOT                 (last − first chunk) / (output tokens after the first chunk): one value per request
  E2E                  response ended − request sent
  window               closed loop: all users are busy (see `window`); open loop: the scheduled time
Only requests with outcome `ok` enter latencies and token counts; the others are counted beside them. What cannot be
known is absent, with the reason in `absent`: a token figure where the server did not count every answer's tokens, a
goodput whose limit is on such a figure, and every rate of a cell in which nothing was answered.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.conversations import are_turns, spans
from bench.run.conversations import arrivals as arrivals_of
from bench.run.delivery import delivery

Floats = npt.NDArray[np.float64]

# A percentile needs ten samples beyond it; the median is asked for five in all. With fewer it is absent, never a guess.
MIN_SAMPLES = {"p50": 5, "p90": 100, "p95": 200, "p99": 1000}
MOST_TURNS = 50  # of a conversation, that are told one by one
_QUANTILE = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def distribution(values: Floats) -> dict[str, float | int] | None:
    """n, mean, min, max, sd and those percentiles that `values` has enough samples for; None for no values.

    Reorders `values`: tens of millions of token gaps are not copied.
    """
    n = int(values.size)
    if n == 0:
        return None
    result: dict[str, float | int] = {
        "n": n,
        "mean": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
    if n > 1:
        squares = sum(
            float(np.square(part - result["mean"]).sum()) for part in np.array_split(values, n // 1_000_000 + 1)
        )
        result["sd"] = math.sqrt(squares / (n - 1))
    names = [name for name, needed in MIN_SAMPLES.items() if n >= needed]
    if names:
        points = np.quantile(values, [_QUANTILE[name] for name in names], overwrite_input=True)
        result.update({name: float(point) for name, point in zip(names, points, strict=True)})
    return result


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


def _batches(ok: pa.Table) -> Iterator[tuple[Floats, npt.NDArray[np.bool_], Floats, bool]]:
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
    for instants, first, tokens, said in _batches(ok_only(requests)):
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


def window(requests: pa.Table, load: dict[str, Any], from_s: float = 0.0) -> tuple[float, float] | None:
    """(start, end) in seconds from the cell's zero of the time that throughput is measured over.

    Open loop: from zero to the end of the schedule. Closed loop: from the instant all `concurrency` users have sent
    their first request to the instant the first of them finds nothing left to send. Starting and ending users, when
    the server carries less than the load that the cell is named after, thus stay out. Users of conversations are busy
    while they are in one, thinking included. Never before `from_s`: `requests` are then only those scheduled since.
    None if nothing ended.
    """
    sent, ended = np.sort(column(requests, "sent_s")), np.sort(column(requests, "ended_s"))
    sent, ended = sent[~np.isnan(sent)], ended[~np.isnan(ended)]
    if not sent.size or not ended.size:
        return None
    seconds = load.get("seconds")
    if load["kind"] == "open":
        end = float(seconds) if seconds else float(np.nanmax(column(arrivals_of(requests), "scheduled_s")))
        return (from_s, end) if end > from_s else None
    if (talks := spans(requests)) is not None:
        found = talks.window(int(load["concurrency"]))
        if found is None:
            return None
        start, end = max(from_s, found[0]), found[1]
        return (start, min(end, float(seconds)) if seconds else end) if end > start else None
    users = min(int(load["concurrency"]), sent.size)
    start = max(from_s, float(sent[users - 1]))
    end = float(ended[ended.size - users])  # the first end that no further request follows
    if seconds:
        end = min(float(seconds), float(ended[-1]))
    return (start, end) if end > start else None


def mean_in_flight(requests: pa.Table, start_s: float, end_s: float) -> float:
    """Requests in flight (sent, not ended), averaged over the window."""
    sent, ended = column(requests, "sent_s"), column(requests, "ended_s")
    busy = np.clip(ended, start_s, end_s) - np.clip(sent, start_s, end_s)
    return float(np.nansum(busy) / (end_s - start_s))


def meets_slo(ok: pa.Table, slo: dict[str, float], *, from_schedule: bool) -> npt.NDArray[np.bool_]:
    """For each row: did it meet every limit of `slo` (ttft_s, tpot_s, e2e_s)? Open-loop loads count from schedule.

    A request of one token has no TPOT and so cannot miss that limit, nor can an answer in one piece miss one of tokens.
    One whose tokens nobody counted meets no limit on TPOT here; `summarise` gives no goodput then.
    """
    values, whole = latencies(ok), answered_whole(ok)
    met = np.ones(len(ok), dtype=bool)
    for name, limit in slo.items():
        measured = values[f"{name[:-2]}_from_schedule_s" if from_schedule and name != "tpot_s" else name]
        cannot_miss = np.isnan(measured) & (whole | ((name == "tpot_s") & ~np.isnan(tokens_after_first(ok))))
        met &= (measured <= limit) | cannot_miss
    return met


def _window_rates(
    requests: pa.Table,
    ok: pa.Table,
    load: dict[str, Any],
    slo: dict[str, float] | None,
    absent_why: dict[str, str],
    from_s: float,
) -> dict[str, Any]:
    absent = dict.fromkeys(
        (
            "window_s",
            "mean_in_flight",
            "output_throughput_tok_s",
            "prompt_throughput_tok_s",
            "request_throughput_rps",
        ),
        None,
    )
    bounds = window(requests, load, from_s)
    if bounds is None:
        return {**absent, "goodput_rps": None}
    start, end = bounds
    length = end - start
    if not len(ok):
        absent_why.update(dict.fromkeys(absent, "no request was answered"))
        held = {"window_s": length, "mean_in_flight": mean_in_flight(requests, start, end)}
        return {**absent, **held, "goodput_rps": None}
    tokens_inside = sum(
        float(tokens[(instants > start) & (instants <= end)].sum()) for instants, _, tokens, _ in _batches(ok)
    )
    first, ended = column(ok, "first_token_s"), column(ok, "ended_s")
    done = (ended > start) & (ended <= end)
    whole = answered_whole(ok)
    prefilled = done if whole else (first > start) & (first <= end)
    goodput = None
    missing = uncounted(ok)
    why = f"the server gave no token count for {missing} of {len(ok)} answers"
    if missing:
        absent_why.update(dict.fromkeys(("output_throughput_tok_s", "output_tokens"), why))
    if slo and "tpot_s" in slo and missing:
        absent_why["goodput_rps"] = f"{why}, so their TPOT is not known"
    elif slo:
        good = done & meets_slo(ok, slo, from_schedule=load["kind"] == "open")
        goodput = float(good.sum() / length)
    talks = spans(requests)
    return {
        "window_s": length,
        "mean_in_flight": mean_in_flight(requests, start, end),
        **({} if talks is None else {"mean_conversations": talks.mean_under_way(start, end)}),
        "output_throughput_tok_s": None if whole or missing else tokens_inside / length,
        "prompt_throughput_tok_s": _prompt_rate(column(ok, "prompt_tokens"), prefilled, length, absent_why),
        "request_throughput_rps": float(done.sum() / length),
        "goodput_rps": goodput,
    }


def slo_share(requests: pa.Table, ok: pa.Table, load: dict[str, Any], slo: dict[str, float] | None) -> float | None:
    """Share of all requests that met every limit of `slo`; one that failed or was dropped met none.

    None where a limit is on a figure that is not known: see `summarise`.
    """
    if not slo or not len(requests) or ("tpot_s" in slo and uncounted(ok)):
        return None
    return float(meets_slo(ok, slo, from_schedule=load["kind"] == "open").sum() / len(requests))


def _prompt_rate(
    tokens: Floats, inside: npt.NDArray[np.bool_], length_s: float, absent_why: dict[str, str]
) -> float | None:
    if missing := int(np.isnan(tokens).sum()):
        absent_why["prompt_throughput_tok_s"] = f"the server did not count {missing} of {tokens.size} prompts"
        return None
    return float(tokens[inside].sum() / length_s)


def _total(ok: pa.Table, name: str) -> int | None:
    """The sum of a count; None when some answer has none: a part is no total."""
    return None if ok[name].null_count else pc.sum(ok[name]).as_py()


def _ended_by_model(ok: pa.Table) -> int | None:
    """How many answers the model ended before the tokens asked for; None where no finish_reason is recorded."""
    if "finish_reason" not in ok.column_names or ok["finish_reason"].null_count == len(ok):
        return None
    return int(pc.sum(pc.not_equal(ok["finish_reason"], "length")).as_py() or 0)


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


def left_s(requests: pa.Table) -> Floats:
    """When each request left the client, but for the time to open its connection, the network's own; NaN: never."""
    return np.asarray(column(requests, "sent_s") - np.nan_to_num(column(requests, "connect_s")))


def _delivery(requests: pa.Table, load: dict[str, Any]) -> dict[str, Any] | None:
    """How an open load's arrivals were delivered (bench.run.delivery), and how late requests left the client."""
    if load["kind"] != "open":
        return None
    late = left_s(requests) - column(requests, "scheduled_s")
    came = arrivals_of(requests)
    found = delivery(column(came, "scheduled_s"), left_s(came), load)
    return {**found, "lateness_s": distribution(late[~np.isnan(late)])}


def by_turn(requests: pa.Table) -> list[dict[str, Any]] | None:
    """For each turn of a conversation (1 is the first) what became of it; None where requests are no turns.

    `requests` and `ok` count; latencies are distributions; prompt and cached tokens are means over the answers whose
    tokens the server counted, `cached_share` is the part of those prompts that it had in its prefix cache.
    """
    if not are_turns(requests):
        return None
    ok, found = ok_only(requests), []
    turn, of_ok = column(requests, "turn"), column(ok, "turn")
    values = latencies(ok)
    prompt, cached = column(ok, "prompt_tokens"), column(ok, "cached_tokens")
    for number in range(1, min(int(np.nanmax(turn)), MOST_TURNS) + 1):
        here = of_ok == number
        ttft, e2e = values["ttft_s"][here], values["e2e_s"][here]
        said = here & ~np.isnan(prompt)
        both = said & ~np.isnan(cached)
        found.append(
            {
                "turn": number,
                "requests": int((turn == number).sum()),
                "ok": int(here.sum()),
                "ttft_s": distribution(ttft[~np.isnan(ttft)]),
                "e2e_s": distribution(e2e[~np.isnan(e2e)]),
                "prompt_tokens_mean": float(prompt[said].mean()) if said.any() else None,
                "cached_tokens_mean": float(cached[both].mean()) if both.any() else None,
                "cached_share": float(cached[both].sum() / prompt[both].sum()) if prompt[both].sum() > 0 else None,
            }
        )
    return found


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


def summarise(
    requests: pa.Table, load: dict[str, Any], slo: dict[str, float] | None = None, *, from_s: float = 0.0
) -> dict[str, Any]:
    """The `metrics` of a cell from its measured rows: counts, rates over the window, and latency distributions.

    `from_s`: the rows are those scheduled since then (without a warm-up), and so the window begins there.
    """
    ok = ok_only(requests)
    outcomes = {item["values"]: item["counts"] for item in pc.value_counts(requests["outcome"]).to_pylist()}
    dropped, aborted = outcomes.get("dropped", 0), outcomes.get("aborted", 0)
    values = latencies(ok)
    gaps, itl = token_gaps(requests)
    absent_why: dict[str, str] = {}
    summary: dict[str, Any] = {
        "requests": {
            "total": len(requests),
            "ok": len(ok),
            "failed": len(requests) - len(ok) - dropped - aborted,
            "dropped": dropped,
            "aborted": aborted,
            "by_outcome": outcomes,
        },
        **_window_rates(requests, ok, load, slo, absent_why, from_s),
        "slo": slo,
        "slo_share": slo_share(requests, ok, load, slo),
        "prompt_tokens": _total(ok, "prompt_tokens"),
        "output_tokens": _total(ok, "output_tokens"),
        "cached_tokens": _total(ok, "cached_tokens"),
        "uncounted": uncounted(ok),
        "ended_by_model": _ended_by_model(ok),
        "causes": causes(requests),
        "notes": noted(requests),
        "turns": by_turn(requests),
        "delivery": _delivery(requests, load),
        "reads": reads(requests),
        "absent": absent_why,
    }
    for name, seconds in values.items():
        summary[name] = distribution(seconds[~np.isnan(seconds)])
    if load["kind"] == "closed":  # no schedule to be late against: a user sends when it is free
        summary.update(ttft_from_schedule_s=None, e2e_from_schedule_s=None)
    summary["chunk_gap_s"] = distribution(gaps)
    summary["itl_s"] = summary["chunk_gap_s"] if itl is gaps else None if itl is None else distribution(itl)
    if itl is None and gaps.size:
        absent_why["itl_s"] = "the server does not say how many tokens each chunk carries"
    if summary["tpot_s"] is None and summary["uncounted"]:
        absent_why["tpot_s"] = "the server gave no token counts"
    return summary
