"""Rates over a cell's window, and which requests met the limits on each."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.run.conversations import arrivals as arrivals_of
from bench.run.conversations import spans
from bench.run.stats.distributions import Floats
from bench.run.stats.gaps import batches
from bench.run.stats.latencies import answered_whole, column, latencies, tokens_after_first, uncounted


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
        last = end if load.get("requests") is not None else float(ended[-1])
        end = min(float(seconds), last)
    return (start, end) if end > start else None


def cut_by_time(load: dict[str, Any], sent: int | None) -> bool:
    """Whether a load's time was over before all of its requests were `sent`; False where it has no such limit."""
    asked = load.get("requests") if load.get("seconds") is not None else None
    return asked is not None and sent is not None and sent < asked


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


def window_rates(
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
        float(tokens[(instants > start) & (instants <= end)].sum()) for instants, _, tokens, _ in batches(ok)
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
        good = _due(ok, load, slo, done, start, end) & meets_slo(ok, slo, from_schedule=load["kind"] == "open")
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


def _due(
    ok: pa.Table, load: dict[str, Any], slo: dict[str, float], done: npt.NDArray[np.bool_], start_s: float, end_s: float
) -> npt.NDArray[np.bool_]:
    """Which answers goodput counts: under an open loop those that were due in the window, whenever they ended.

    Answers to the last arrivals end after the schedule; counted by their ends, a server that keeps up with 2.4 requests
    a second would seem to carry the less, the shorter the load. A limit on TTFT or E2E keeps out what a queue delays;
    without one an overloaded server would be credited with all it is asked for, so there the ends count, as `done` has
    them, and under a closed loop they do.
    """
    if load["kind"] != "open" or not slo.keys() & {"ttft_s", "e2e_s"}:
        return done
    scheduled = column(ok, "scheduled_s")
    return (scheduled >= start_s) & (scheduled < end_s)


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
