"""The streaming client: requests as bytes on the wire, and what came back as records.

Nothing here raises because of what a server does: every request becomes a record with an outcome.

    target = target_of("http://127.0.0.1:8000")
    connection = Connection(target)
    request = stream.request(target, {"prompt": "Hello", "max_tokens": 8}, request_id="1", model="demo-1m")
    record = stream.complete(connection, request, scheduled_s=now(), timeout_s=60)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.load import sse, states
from bench.load.connection import Connection, Exchange, Target, wire

ERROR_CHARACTERS = 500

Verdict = tuple[str, str | None, str | None]  # outcome, error_kind, error


@dataclass(frozen=True)
class Request:
    """One request, ready to send: the bytes on the wire and what its record says about it.

    `prompts`: of how many prompts it asks the hidden states; None for a completion, whose answer is streamed.
    """

    request_id: str
    scenario: str
    warmup: bool
    wire: bytes = field(repr=False)
    prompts: int | None = None


def request(
    to: Target,
    prompt: dict[str, Any],
    *,
    request_id: str,
    model: str,
    endpoint: str = "completions",
    temperature: float = 0.0,
    ignore_eos: bool = True,
) -> Request:
    """Encodes a prompts-file entry: a streaming completion, or a request for hidden states.

    ValueError when the entry does not fit the endpoint.
    """
    scenario, warmup = str(prompt.get("scenario", "default")), bool(prompt.get("warmup"))
    if endpoint == "hidden_states":
        asked = states.body(prompt, model)
        sent = wire(to, "POST", states.PATH, json.dumps(asked, separators=(",", ":")).encode(), request_id)
        return Request(request_id, scenario, warmup, sent, prompts=len(asked["prompts"]))
    body: dict[str, Any] = {"model": model}
    if endpoint == "chat":
        messages = prompt.get("messages")
        if messages is None:
            if not isinstance(prompt.get("prompt"), str):
                raise ValueError("A chat request needs `messages` or a text `prompt`; token ids have no chat form.")
            messages = [{"role": "user", "content": prompt["prompt"]}]
        body["messages"] = messages
    elif "prompt" in prompt:
        body["prompt"] = prompt["prompt"]
    else:
        raise ValueError("A completion request needs a `prompt`: a text or a list of token ids.")
    body["max_tokens"] = prompt["max_tokens"]
    body["temperature"] = temperature
    body |= prompt.get("parameters") or {}  # a file's own: tools, sampling
    if ignore_eos:
        body["ignore_eos"] = True
    body["stream"] = True
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    path = "/v1/chat/completions" if endpoint == "chat" else "/v1/completions"
    sent = wire(to, "POST", path, json.dumps(body, separators=(",", ":")).encode(), request_id)
    return Request(request_id, scenario, warmup, sent)


def complete(connection: Connection, what: Request, *, scheduled_s: float, timeout_s: float) -> dict[str, Any]:
    """The record of one completion from its schedule to its end; never raises because of the server or the network."""
    return record(what, connection.exchange(what.wire, timeout_s), scheduled_s, connection.target.api_key)


def record(
    what: Request,
    exchange: Exchange,
    scheduled_s: float,
    api_key: str | None = None,
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """A line of the records file: absolute seconds, the server's token counts, and the outcome. Pure."""
    response = sse.response(exchange.framing, exchange.times_s)
    said: dict[str, Any]
    if what.prompts is not None:
        whole = states.read(response, what.prompts) if response.complete else states.States()
        outcome, kind, error = _judge_whole(response, whole, exchange.failure)
        said = {"prompt_tokens": whole.prompt_tokens}
    else:
        answer = sse.answer(response.events, pause)
        outcome, kind, error = _judge(response, answer, exchange.failure)
        said = {
            "first_token": answer.chunk_s[0] if answer.chunk_s else None,
            "last_token": answer.chunk_s[-1] if answer.chunk_s else None,
            "chunk_s": answer.chunk_s,
            "chunk_tokens": answer.chunk_tokens,
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
            "coalesced_reads": answer.coalesced_reads,
        }
    if error is not None:
        # A server may quote the key it was given; a record never holds it.
        error = (error.replace(api_key, "***") if api_key else error)[:ERROR_CHARACTERS]
    return {
        **blank(what, scheduled_s),
        **said,
        "sent": exchange.sent_s,
        "connect_s": exchange.connect_s,
        "headers": response.head_s,
        "ended": exchange.ended_s,
        "reads": exchange.framing.reads,
        "outcome": outcome,
        "http_status": response.status,
        "error_kind": kind,
        "error": error,
    }


def blank(what: Request, scheduled_s: float, outcome: str = "dropped") -> dict[str, Any]:
    """The record of a request that was scheduled and never sent."""
    times = dict.fromkeys(("sent", "connect_s", "headers", "first_token", "last_token", "ended"))
    return {
        "request_id": what.request_id,
        "scenario": what.scenario,
        "warmup": what.warmup,
        "scheduled": scheduled_s,
        **times,
        "chunk_s": [],
        **dict.fromkeys(("chunk_tokens", "prompt_tokens", "cached_tokens", "output_tokens")),
        "reads": 0,
        "coalesced_reads": 0,
        "outcome": outcome,
        "http_status": None,
        "error_kind": None,
        "error": None,
    }


def _judge(response: sse.Response, answer: sse.Answer, failure: Verdict | None) -> Verdict:
    """(outcome, error_kind, error) of a stream from what arrived and how the connection ended; the first cause wins."""
    verdict: Verdict
    if refused := _refused(response, failure):
        verdict = refused
    elif answer.error_kind == "stream_error":
        verdict = "http_error", "stream_error", answer.error
    elif broken := _broken(response, failure):
        verdict = broken
    elif _media(response) != "text/event-stream":
        said = _said(response.body) or "an answer in one piece"
        verdict = "protocol_error", "not_sse", f"The answer is not an event stream ({_shown_media(response)}): {said}"
    elif answer.error_kind is not None:
        verdict = "protocol_error", answer.error_kind, answer.error
    elif response.extra:
        verdict = _trailing(response)
    elif not answer.done or not answer.finished:
        missing = "[DONE]" if not answer.done else "finish_reason"
        verdict = "protocol_error", "early_close", f"The stream ended without a {missing}."
    else:
        verdict = "ok", None, None
    return verdict


def _judge_whole(response: sse.Response, answer: states.States, failure: Verdict | None) -> Verdict:
    """(outcome, error_kind, error) of an answer in one piece; the first cause wins."""
    if verdict := _refused(response, failure) or _broken(response, failure):
        return verdict
    if _media(response) != "application/json":
        return "protocol_error", "not_states", f"The answer is not JSON ({_shown_media(response)})."
    if answer.error_kind is not None:
        return "protocol_error", answer.error_kind, answer.error
    return _trailing(response) if response.extra else ("ok", None, None)


def _refused(response: sse.Response, failure: Verdict | None) -> Verdict | None:
    status = response.status
    if failure is not None and failure[0] in ("aborted", "timeout"):
        return failure
    if status is not None and 300 <= status < 400:
        to = response.headers.get("location", "nowhere")
        return "http_error", "redirect", f"The server redirects to {to}; use that address as the target."
    if status is not None and status != 200:
        return "http_error", f"http_{status}", _said(response.body) or f"The server answered {status}."
    return None


def _broken(response: sse.Response, failure: Verdict | None) -> Verdict | None:
    if failure is not None:
        return failure
    if not response.complete:
        early = response.error is not None and "closed before" in response.error
        return "protocol_error", "early_close" if early else "bad_framing", response.error
    return None


def _trailing(response: sse.Response) -> Verdict:
    return "protocol_error", "trailing_garbage", f"Bytes follow the response: {response.extra[:40]!r}"


def _media(response: sse.Response) -> str:
    return response.headers.get("content-type", "none").partition(";")[0].strip().lower()


def _shown_media(response: sse.Response) -> str:
    return f"content-type {response.headers.get('content-type', 'none')}"


def _said(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace").strip()
    try:
        message = sse.error_message(json.loads(text))
    except (ValueError, RecursionError):
        message = None
    return message or text[:ERROR_CHARACTERS] or None
