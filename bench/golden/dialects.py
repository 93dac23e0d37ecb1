"""The dialects of the OpenAI API that servers in the wild speak, as the golden server can speak them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Dialect:
    """One dialect. `refuses`: fields answered with 400, by name unless `nameless`; `breaks`: fields after which the
    stream ends in an error behind the third event; `early`: an answer ends after that many tokens, whatever was asked.
    """

    what: str
    endpoints: tuple[str, ...] = ("completions", "chat")
    refuses: tuple[str, ...] = ()
    nameless: bool = False
    breaks: tuple[str, ...] = ()
    early: int | None = None
    usage: str = "end"
    key: str = "content"
    per_event: int = 1
    role: str = "empty"
    finish: str = "with"
    done: int = 1
    eol: str = "\n\n"
    data: str = "data: "
    odd: str = ""
    media: str | None = "text/event-stream"
    status: int = 200


_OPENAI = ("ignore_eos", "min_tokens", "continuous_usage_stats")
DIALECTS = {
    "plain": Dialect("usage at the end"),
    "vllm": Dialect("usage in every chunk, so far", usage="chunk"),
    "strict": Dialect("strict OpenAI validation", refuses=_OPENAI),
    "nameless": Dialect("the same, refusals name no field", refuses=_OPENAI, nameless=True),
    "max-completion": Dialect("max_completion_tokens only", refuses=("max_tokens",)),
    "reasoning-model": Dialect("no temperature either", refuses=("max_tokens", "temperature", *_OPENAI)),
    "no-stream-options": Dialect("stream_options refused", refuses=("stream_options",), usage="none"),
    "chat-only": Dialect("chat only", endpoints=("chat",)),
    "completions-only": Dialect("text completions only", endpoints=("completions",)),
    "text-only": Dialect("token-id prompts refused", refuses=("token ids",)),
    "harmony": Dialect("ignore_eos breaks the stream", breaks=("ignore_eos", "min_tokens")),
    "no-length": Dialect("ignore_eos taken and ignored", early=12),
    "no-usage": Dialect("no usage at all", usage="none"),
    "usage-zeros": Dialect("usage per chunk, zeros until the last", usage="zeros"),
    "usage-final": Dialect("the final usage in every chunk", usage="final"),
    "usage-difference": Dialect("usage per chunk as a difference", usage="difference"),
    "usage-some": Dialect("usage with every other answer", usage="some"),
    "usage-float": Dialect("usage as 20.0", usage="float"),
    "usage-text": Dialect('usage as "20"', usage="text"),
    "usage-huge": Dialect("usage of 4,294,967,295", usage="huge"),
    "usage-late": Dialect("usage after [DONE]", usage="late"),
    "four-a-chunk": Dialect("4 tokens a chunk, usage in every chunk", per_event=4, usage="chunk"),
    "four-usage-end": Dialect("4 tokens a chunk, usage at the end", per_event=4),
    "thinking": Dialect("text under `thinking` first", key="thinking"),
    "reasoning": Dialect("text under `reasoning_content` first", key="reasoning_content"),
    "refusal": Dialect("text under `refusal`", key="refusal"),
    "tool-calls": Dialect("tool calls", key="tool_calls"),
    "function-call": Dialect("function_call", key="function_call"),
    "parts": Dialect("content as a list of parts", key="parts"),
    "null-role": Dialect("null content in the first chunk", role="null"),
    "no-role": Dialect("no role chunk", role="none"),
    "finish-apart": Dialect("a finish chunk of its own", finish="apart"),
    "no-done": Dialect("no [DONE]", done=0),
    "done-twice": Dialect("[DONE] twice", done=2),
    "no-finish": Dialect("[DONE] without a finish_reason", finish="none"),
    "crlf": Dialect("CRLF line ends", eol="\r\n\r\n"),
    "no-space": Dialect("data: without a space", data="data:"),
    "comments": Dialect("comments between events", odd=": keep-alive\n\n"),
    "empty-data": Dialect("empty data lines", odd="data: \n\n"),
    "pings": Dialect("ping events", odd="event: ping\ndata: now\n\n"),
    "bom": Dialect("a byte order mark", odd="bom"),
    "plain-text": Dialect("content-type text/plain", media="text/plain"),
    "no-type": Dialect("no content-type", media=None),
    "breaks": Dialect("every stream ends in an error", breaks=("model",)),
    "rate-limit": Dialect("429 with Retry-After", status=429),
    "unavailable": Dialect("503 with Retry-After", status=503),
    "no-key": Dialect("401", status=401),
    "uuids": Dialect("an X-Request-Id that is no UUID refused", refuses=("free request ids",), nameless=True),
}


def refusal(
    dialect: Dialect, endpoint: str, asked: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[int, str] | None:
    """The status and the words with which a server of this dialect refuses a request; None where it answers."""
    if endpoint not in dialect.endpoints:
        return 404, "Not Found"
    if dialect.status != 200:
        return dialect.status, "not now"
    sent = {*asked, *(asked.get("stream_options") or {})}
    sent |= {"token ids"} if isinstance(asked.get("prompt"), list) else set()
    sent |= set() if _UUID.fullmatch(headers.get("x-request-id", "")) else {"free request ids"}
    refused = [field for field in dialect.refuses if field in sent]
    if not refused:
        return None
    return 400, "Bad request" if dialect.nameless else f"Unrecognized request argument supplied: {refused[0]}"
