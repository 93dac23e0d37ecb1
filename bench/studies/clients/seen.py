"""What a client saw of the golden server, and how it compares with what the server says it sent. Pure."""

from __future__ import annotations

import bisect
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Entry = Mapping[str, Any]
PROMPT = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_EVENT = re.compile(rb"data: (\{.*\})")


@dataclass(frozen=True)
class Request:
    """One request as a client reports it; `ttft_s` from the client's own start of the request."""

    request_id: str | None
    ok: bool
    ttft_s: float | None = None
    decode_s: float | None = None
    tokens_after_first: float | None = None
    reads: int | None = None
    coalesced: int | None = None


@dataclass(frozen=True)
class Seen:
    """A load as a client reports it. `itl_mean_s`: the mean that it prints; None where it prints none."""

    requests: tuple[Request, ...]
    itl_mean_s: float | None


@dataclass(frozen=True)
class Answer:
    """What a bare client has of one request: when it began to send it, and its reads with their times."""

    sent_s: float
    reads: Sequence[tuple[float, bytes]]
    complete: bool


def asked(tokens: int) -> dict[str, Any]:
    """What every client of ours asks."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    return {"model": "golden", "prompt": PROMPT, "max_tokens": tokens, "stream": True, "stream_options": options}


def read_stream(request_id: str, answer: Answer) -> dict[str, Any]:
    """One answer as a bare client reports it, read when it has ended.

    Every event is found and its JSON is read, as a tool must that counts tokens; an event came with the read that
    brought its last byte.
    """
    reads, sent_s = answer.reads, answer.sent_s
    data = b"".join(read for _, read in reads)
    ends, total = [], 0
    for _, read in reads:
        total += len(read)
        ends.append(total)
    first_s = last_s = 0.0
    first_tokens = tokens = coalesced = 0
    before = -1
    for found in _EVENT.finditer(data):
        event = json.loads(found[1])
        if not event.get("choices") or not _has_text(event["choices"][0]):
            continue
        index = bisect.bisect_left(ends, found.end())
        coalesced += index == before
        before, last_s = index, reads[index][0]
        told = (event.get("usage") or {}).get("completion_tokens")  # a proxy may leave it out
        tokens = tokens + 1 if told is None else told
        if not first_tokens:
            first_s, first_tokens = last_s, tokens
    ok = answer.complete and b"data: [DONE]" in data and tokens > 0
    return asdict(
        Request(request_id, ok, first_s - sent_s, last_s - first_s, tokens - first_tokens, len(reads), coalesced)
        if ok
        else Request(request_id, False)
    )


def _has_text(choice: Mapping[str, Any]) -> bool:
    """Whether a choice carries a token: proxies add empty ones at both ends."""
    return bool(choice.get("text") or (choice.get("delta") or {}).get("content"))


def from_lines(lines: Sequence[str]) -> Seen:
    """What a bare client wrote, one request a line."""
    requests = tuple(Request(**json.loads(line)) for line in lines)
    whole = [request for request in requests if request.ok and request.tokens_after_first]
    decode_s = sum(request.decode_s or 0.0 for request in whole)
    tokens = sum(request.tokens_after_first or 0.0 for request in whole)
    return Seen(requests, decode_s / tokens if tokens else None)


def main_part(log: Sequence[Entry], requests: int) -> list[Entry]:
    """The log's entries of the load itself: the last `requests` that came; before them come probes and warm-up."""
    return sorted(log, key=lambda entry: float(entry["received_s"]))[-requests:]


def window(entries: Sequence[Entry]) -> tuple[float, float]:
    """From the first request's arrival to the last one's end, in absolute seconds."""
    return min(entry["received_s"] for entry in entries), max(entry["ended_s"] for entry in entries)


def compare(seen: Seen, entries: Sequence[Entry], asked: int) -> dict[str, Any]:
    """The figures of one cell, without processor time.

    TTFT bias: what the client reports less what the server says (first event sent − request received), of the same
    request where the client names it (by its X-Request-Id or by the answer's id), else the difference of the two
    distributions' median and mean.
    """
    answered = [entry for entry in entries if entry["events"]]
    true = {entry["request_id"]: _ttft(entry) for entry in answered}
    true |= {f"golden-{entry['request']}": _ttft(entry) for entry in answered}
    ok = [request for request in seen.requests if request.ok and request.ttft_s is not None]
    ttft = [request.ttft_s for request in ok if request.ttft_s is not None]
    pairs = [
        request.ttft_s - true[request.request_id]
        for request in ok
        if request.request_id in true and request.ttft_s is not None
    ]
    matched = bool(pairs) and len(pairs) == len(ok)
    bias: dict[str, float | None] = {"median_s": None, "mean_s": None, "p99_s": None}
    if matched:
        p99 = statistics.quantiles(pairs, n=100, method="inclusive")[98] if len(pairs) >= 100 else None
        bias = {"median_s": statistics.median(pairs), "mean_s": statistics.fmean(pairs), "p99_s": p99}
    elif ttft and true:
        theirs = [_ttft(entry) for entry in answered]
        bias["median_s"] = statistics.median(ttft) - statistics.median(theirs)
        bias["mean_s"] = statistics.fmean(ttft) - statistics.fmean(theirs)
    itl = true_itl_s(entries)
    reads = [request.reads for request in ok if request.reads is not None]
    return {
        "ttft_bias": bias | {"by": "request" if matched else "distribution"},
        "itl_mean_s": seen.itl_mean_s,
        "itl_truth_s": itl,
        "itl_error": None if seen.itl_mean_s is None or not itl else seen.itl_mean_s / itl - 1,
        "coalesced": sum(request.coalesced or 0 for request in ok) / sum(reads) if reads else None,
        "requests": {"asked": asked, "ok": len(ok), "served": sum(entry["end"] == "whole" for entry in entries)},
        "chunks": sum(len(entry["events"]) for entry in entries),
        "server_late_s": statistics.median(entry["late_s"] for entry in entries),
        "server_blocked": sum(entry["blocked"] for entry in entries),
    }


def true_itl_s(entries: Sequence[Entry]) -> float | None:
    """The mean time per token behind the first event, over all tokens that the server sent."""
    spans = [(entry["events"][-1][0] - entry["events"][0][0], entry) for entry in entries if len(entry["events"]) > 1]
    tokens = sum(entry["tokens"] - entry["events"][0][1] for _, entry in spans)
    return sum(span_s for span_s, _ in spans) / tokens if tokens else None


def _ttft(entry: Entry) -> float:
    return float(entry["events"][0][0] - entry["received_s"])


def spent_s(samples: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """Processor time between two instants, from (instant, total so far) samples, interpolated at both ends."""
    return _at(samples, end_s) - _at(samples, begin_s)


def _at(samples: Sequence[tuple[float, float]], at_s: float) -> float:
    index = bisect.bisect_left(samples, (at_s, 0.0))
    if index == 0 or index == len(samples):
        return samples[min(index, len(samples) - 1)][1]
    (before_s, before), (after_s, after) = samples[index - 1], samples[index]
    return before + (after - before) * (at_s - before_s) / (after_s - before_s)
