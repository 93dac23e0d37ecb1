"""Which rows of which step belong to which request: the bookkeeping between vLLM's scheduler and the captured states.

A prompt may be computed in several steps (chunked prefill), beside any others, from the middle on (prefix cache) and
more than once (preemption). So nothing here goes by the order of a batch: rows are taken by request and by absolute
position. What cannot be answered becomes a failure marker, never zeros.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from serve.hidden_states.protocol import FINAL_NORM, KEY, POOLINGS

# A failure travels as an integer tensor of one value, which no state can be.
HOLE, NO_TAP, INTERNAL = 1, 2, 3
FAILURES = {
    HOLE: "a part of the prompt was never computed, because the prefix cache held it",
    NO_TAP: "the model did not deliver this layer",
    INTERNAL: "the capture failed; the server's log has the reason",
}


@dataclass(slots=True)
class Wanted:
    """What one request asked for, and what of it has been seen: positions [0, seen) of its prompt."""

    taps: tuple[int, ...]
    pooling: str
    prompt_tokens: int
    seen: int = 0
    kept: Tensor | None = None
    failure: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Positions [start, end) of a prompt that one step computes; `ends` when they include the prompt's last."""

    wanted: Wanted
    start: int
    end: int
    ends: bool


@dataclass(slots=True)
class Ledger:
    """The living requests that want states, by request id."""

    requests: dict[str, Wanted] = field(default_factory=dict)

    def add(self, request_id: str, extra_args: Mapping[str, Any] | None, prompt_tokens: int) -> None:
        """Note a request when its `extra_args` ask for states in a form that is understood; a known one stays."""
        wish = extra_args.get(KEY) if extra_args else None
        if not isinstance(wish, dict) or request_id in self.requests:
            return
        taps: Any = wish.get("taps")
        pooling = wish.get("pooling")
        understood = isinstance(taps, (list, tuple)) and taps and all(type(tap) is int for tap in taps)
        if understood and pooling in POOLINGS:
            self.requests[request_id] = Wanted(tuple(taps), pooling, prompt_tokens)

    def forget(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self.requests.pop(request_id, None)

    def plan(self, starts: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, Span]:
        """The spans of a step that computes `counts` tokens of each request from position `starts` on.

        Pooling "last" needs only the step that computes the prompt's last token.
        """
        spans = {}
        for request_id, wanted in self.requests.items():
            count, start = counts.get(request_id, 0), starts.get(request_id)
            if not count or start is None or start >= wanted.prompt_tokens:
                continue
            ends = start + count >= wanted.prompt_tokens
            if ends or wanted.pooling != "last":
                spans[request_id] = Span(wanted, start, min(start + count, wanted.prompt_tokens), ends)
        return spans


def taps_of(spans: Mapping[str, Span]) -> tuple[int, ...]:
    """The taps that a step has to compute, in ascending order; the final norm is the model's output anyway."""
    return tuple(sorted({tap for span in spans.values() for tap in span.wanted.taps if tap != FINAL_NORM}))


def failure(code: int) -> Tensor:
    return torch.tensor([code], dtype=torch.int32)


def collect(
    spans: Mapping[str, Span], first_rows: Mapping[str, int], sources: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """The states of the requests whose prompts end in this step, by request id.

    `first_rows` is where each request's tokens begin in the step's batch, `sources` the step's rows [tokens, hidden]
    by tap. Shapes: [layers, hidden], or [layers, prompt tokens, hidden] for pooling "all"; a failure marker otherwise.
    """
    done: dict[str, Tensor] = {}
    whole: list[str] = []
    for request_id, span in spans.items():
        wanted = span.wanted
        if any(tap not in sources for tap in wanted.taps):
            wanted.failure = wanted.failure or NO_TAP
        if wanted.failure is None and wanted.pooling == "last":
            whole.append(request_id)
        elif wanted.failure is None:
            _keep(span, first_rows[request_id], sources)
        if span.ends and wanted.failure is not None:
            done[request_id] = failure(wanted.failure)
        elif span.ends and wanted.pooling != "last" and wanted.kept is not None:
            mean = wanted.pooling == "mean"
            done[request_id] = wanted.kept / wanted.prompt_tokens if mean else wanted.kept
    return done | _last_rows({request_id: spans[request_id] for request_id in whole}, first_rows, sources)


def _last_rows(
    spans: Mapping[str, Span], first_rows: Mapping[str, int], sources: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """One gather per tap for all prompts that end in this step."""
    if not spans:
        return {}
    rows = [first_rows[request_id] + span.end - span.start - 1 for request_id, span in spans.items()]
    taps = {tap for span in spans.values() for tap in span.wanted.taps}
    index = torch.tensor(rows, device=next(iter(sources.values())).device)
    gathered = {tap: sources[tap].index_select(0, index) for tap in taps}
    return {
        request_id: torch.stack([gathered[tap][place] for tap in span.wanted.taps])
        for place, (request_id, span) in enumerate(spans.items())
    }


def _keep(span: Span, first_row: int, sources: Mapping[int, Tensor]) -> None:
    """Add a span's rows to what is kept; positions seen before a preemption are not taken twice."""
    wanted = span.wanted
    if span.start > wanted.seen:
        wanted.failure, wanted.kept = HOLE, None
        return
    if span.end <= wanted.seen:
        return
    first, last = first_row + wanted.seen - span.start, first_row + span.end - span.start
    rows = torch.stack([sources[tap][first:last] for tap in wanted.taps])
    if wanted.pooling == "mean":
        total = rows.float().sum(1)
        wanted.kept = total if wanted.kept is None else wanted.kept + total
    else:
        if wanted.kept is None:
            shape = (len(wanted.taps), wanted.prompt_tokens, rows.shape[-1])
            wanted.kept = torch.empty(shape, dtype=rows.dtype)
        # Every row is overwritten before the tensor is handed out: the spans leave no position between them.
        wanted.kept[:, wanted.seen : span.end] = rows.to("cpu")
    wanted.seen = span.end
