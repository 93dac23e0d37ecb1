"""The streaming client: requests as bytes on the wire, and what came back as records.

Nothing here raises because of what a server does: every request becomes a record with an outcome.

    target = target_of("http://127.0.0.1:8000")
    connection = Connection(target)
    request = stream.request(target, {"prompt": "Hello", "max_tokens": 8}, request_id="1", model="demo-1m")
    record = stream.complete(connection, request, scheduled_s=now(), timeout_s=60)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.client import clock, states, verdict
from bench.client.answer import Answer, answer, spoken
from bench.client.connection import Connection, Exchange
from bench.client.dialect import VLLM, Dialect, Route, dumps
from bench.client.events import response
from bench.client.target import Target, wire


@dataclass(frozen=True)
class Request:
    """One request, ready to send: the bytes on the wire and what its record says about it.

    `prompts`: of how many prompts it asks the hidden states; None for a completion, whose answer is streamed.
    `differences`: whether usage in a chunk counts that chunk alone. `reasons`: whether the server says why an answer
    ended. `keep_text`: whether the record holds what was generated, for a tokenizer to count. `conversation` and `turn`
    (from 1) say of what it is a part; the record then holds the answer's `content`, which the next turn carries on.
    """

    request_id: str
    scenario: str
    warmup: bool
    wire: bytes = field(repr=False)
    prompts: int | None = None
    differences: bool | None = None
    reasons: bool = True
    keep_text: bool = False
    conversation: str | None = None
    turn: int | None = None


def request(
    to: Target,
    prompt: Mapping[str, Any],
    *,
    request_id: str,
    model: str,
    endpoint: str = "completions",
    dialect: Dialect = VLLM,
    temperature: float = 0.0,
    ignore_eos: bool = True,
    extra_body: Mapping[str, Any] | None = None,
    keep_text: bool = False,
    conversation: str | None = None,
    turn: int | None = None,
) -> Request:
    """Encodes a prompts-file entry: a streaming completion, or a request for hidden states.

    ValueError when the entry does not fit the endpoint, or the endpoint is none of the dialect's.
    """
    scenario, warmup = str(prompt.get("scenario", "default")), bool(prompt.get("warmup"))
    if endpoint == "hidden_states":
        asked = states.body(prompt, model)
        sent = wire(to, "POST", states.PATH, dumps(asked), request_id)
        return Request(request_id, scenario, warmup, sent, prompts=len(asked["prompts"]))
    route = dialect.route(endpoint)
    if route is None:
        raise ValueError(f"This server has no endpoint for {endpoint}; it answers {', '.join(dialect.endpoints)}.")
    body = {
        **_asked(prompt, endpoint, route),
        **route.body(model, prompt["max_tokens"], temperature=temperature, ignore_eos=ignore_eos),
        **(prompt.get("parameters") or {}),  # a file's own: tools, sampling
        **(extra_body or {}),
    }
    sent = wire(to, "POST", route.path, dumps(body), request_id)
    differences = None if route.usage == "end" else route.usage == "difference"
    reasons = route.finish_reason
    return Request(
        request_id, scenario, warmup, sent, differences=differences, reasons=reasons, keep_text=keep_text,
        conversation=conversation, turn=turn,
    )  # fmt: skip


def _asked(prompt: Mapping[str, Any], endpoint: str, route: Route) -> dict[str, Any]:
    text = prompt.get("prompt")
    if endpoint == "chat":
        if "messages" in prompt:
            return {"messages": prompt["messages"]}
        if isinstance(text, str):
            return {"messages": [{"role": "user", "content": text}]}
        raise ValueError("A chat request needs `messages` or a text `prompt`; token ids have no chat form.")
    if "prompt" not in prompt:
        raise ValueError("A completion request needs a `prompt`: a text or a list of token ids.")
    if isinstance(text, list) and not route.token_ids:
        raise ValueError("This server takes text prompts only, no token ids.")
    return {"prompt": text}


def complete(connection: Connection, what: Request, *, scheduled_s: float, timeout_s: float) -> dict[str, Any]:
    """The record of one completion from its schedule to its end; never raises because of the server or the network."""
    return record(what, connection.exchange(what.wire, timeout_s), scheduled_s, connection.target.secrets)


def record(
    what: Request,
    exchange: Exchange,
    scheduled_s: float,
    secrets: tuple[str, ...] = (),
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """A line of the records file: absolute seconds, the server's token counts, and the outcome. Pure."""
    arrived = exchange.arrivals()
    came = response(exchange.framing, arrived.times_s)
    said: dict[str, Any]
    notes = set(came.notes)
    if what.prompts is not None:
        whole = states.read(came, what.prompts) if came.complete else states.States()
        outcome, kind, error = verdict.of_states(came, whole, exchange.failure)
        said = {"prompt_tokens": whole.prompt_tokens}
    else:
        read = answer(came.events or (), pause, differences=what.differences)
        outcome, kind, error = verdict.of_stream(came, read, exchange.failure, reasons=what.reasons)
        notes |= read.notes
        if outcome == "ok":
            notes |= _ends(read.done, read.finish_reason, bool(read.chunk_s), verdict.cut_short(came))
        said = {
            "first_token": read.chunk_s[0] if read.chunk_s else None,
            "last_token": read.chunk_s[-1] if read.chunk_s else None,
            "finish_reason": None if read.finish_reason is None else verdict.plain(read.finish_reason),
            "coalesced_reads": len(read.coalesced),
            "late_reads": _late_reads(arrived, exchange, read),
            **{name: getattr(read, name) for name in _COPIED},
            **({"text": read.text} if what.keep_text else {}),
            **({"content": spoken(came.events or ())} if what.turn is not None else {}),
        }
    return {
        **blank(what, scheduled_s),
        **said,
        "tokens_after_first": tokens_after_first(said) if what.prompts is None else None,
        "sent": exchange.sent_s,
        "connect_s": exchange.connect_s,
        "headers": came.head_s,
        "ended": arrived.times_s[-1] if exchange.framing.complete else exchange.ended_s,
        "clock": arrived.clock,
        "read_late_us": None if arrived.late_s is None else [round(late_s * 1e6) for late_s in arrived.late_s],
        "reads": exchange.framing.reads,
        "outcome": outcome,
        "http_status": came.status,
        "error_kind": kind,
        "error": None if error is None else verdict.plain(error, secrets),
        "retry_after_s": verdict.retry_after_s(came) if outcome == "rate_limited" else None,
        "notes": sorted(notes),
    }


_COPIED = (
    "chunk_s",
    "chunk_tokens",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "merged_reads",
    "usage",
)


def tokens_after_first(record: Mapping[str, Any]) -> float | None:
    """How many output tokens came after the first content chunk and what came with it; None where the server gave no
    count.

    Where it did not say how many each chunk carries, they are spread evenly over the chunks.
    """
    tokens, chunk_s = record["output_tokens"], record["chunk_s"]
    if tokens is None or not chunk_s:
        return None
    first = chunk_s.count(chunk_s[0])
    with_first = sum(record["chunk_tokens"][:first]) if record["chunk_tokens"] else tokens * first / len(chunk_s)
    return float(tokens - with_first)


def _late_reads(arrived: clock.Arrivals, exchange: Exchange, read: Answer) -> int | None:
    """In how many of the reads that held several chunks the client was late; None when that is not known."""
    sizes = dict.fromkeys(read.coalesced, 0)
    for piece in exchange.framing.pieces if sizes else ():
        if piece.read in sizes:
            sizes[piece.read] += len(piece.data)
    first, last = (read.chunk_s[0], read.chunk_s[-1]) if read.chunk_s else (0.0, 0.0)
    later = len(read.chunk_s) - read.chunk_s.count(first)
    gap_s = (last - first) / later if later else (last - (exchange.sent_s or last)) / max(1, len(read.chunk_s))
    return clock.late_reads(arrived, sizes, gap_s)


def _ends(done: bool, finish_reason: str | None, content: bool, cut: bool) -> set[str]:
    """What was unusual about the end of a good answer."""
    unusual = {
        "no_done": not done,
        "no_finish_reason": finish_reason is None,
        "no_content": not content,
        "no_last_chunk": cut,
    }
    return {name for name, there in unusual.items() if there}


def blank(what: Request, scheduled_s: float, outcome: str = "dropped") -> dict[str, Any]:
    """The record of a request that was scheduled and never sent."""
    times = dict.fromkeys(("sent", "connect_s", "headers", "first_token", "last_token", "ended"))
    counts = (
        "chunk_tokens",
        "tokens_after_first",
        "prompt_tokens",
        "cached_tokens",
        "output_tokens",
        "finish_reason",
        "retry_after_s",
    )
    return {
        "request_id": what.request_id,
        "scenario": what.scenario,
        "warmup": what.warmup,
        "conversation": what.conversation,
        "turn": what.turn,
        "scheduled": scheduled_s,
        **times,
        "chunk_s": [],
        **dict.fromkeys(counts),
        **dict.fromkeys(("clock", "read_late_us", "late_reads")),
        "reads": 0,
        "coalesced_reads": 0,
        "merged_reads": 0,
        "outcome": outcome,
        "http_status": None,
        "error_kind": None,
        "error": None,
        "notes": [],
    }
