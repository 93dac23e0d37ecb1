"""Completion events → what they say: content chunks and their times, the server's token counts, how it ended. Pure.

What an event *carries* decides which chunk is the first, which the last, and every gap between; a server's usage
figures only count. Whatever a server sends is read here without an exception.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.client.events import Event

PAUSE_EVENTS = 32
MOST_TOKENS = 2**31 - 1  # what a record holds; no answer is longer

# Keys of a delta that hold nothing generated. Every other key may: content, reasoning, reasoning_content, thinking,
# refusal, tool_calls, function_call, audio, and what the next server calls it.
_ABOUT = {"role", "type", "id", "index", "tool_call_id", "signature", "annotations", "provider_specific_fields"}
_ABOUT |= {"logprobs", "finish_reason"}


@dataclass(slots=True)
class Answer:
    """What a stream of completion events says.

    `chunk_s` (absolute seconds) and `chunk_tokens` have one entry per content chunk: an event that brings generated
    text, or a token whose text is held back; events that the sender put into one HTTP chunk are one content chunk.
    `chunk_tokens` is None when the server does not say how many and one each is not right either. `coalesced` are the
    indices of reads that held several chunks, `merged_reads` had events that the sender had put together. `notes`:
    oddities that were survived.
    """

    chunk_s: list[float] = field(default_factory=list)
    chunk_tokens: list[int] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    coalesced: list[int] = field(default_factory=list)
    merged_reads: int = 0
    finish_reason: str | None = None
    done: bool = False
    error_kind: str | None = None
    error: str | None = None
    usage: str = "never"
    text: str = ""
    notes: set[str] = field(default_factory=set)


class _Said(NamedTuple):
    """One event with choices: its generated text, the server's count of output tokens so far, whether it only opens."""

    event: Event
    text: str
    used: int | None
    opens: bool


_PerEvent = list[tuple[Event, int | None]]


def answer(
    stream: Sequence[Event], pause: Callable[[], None] | None = None, *, differences: bool | None = None
) -> Answer:
    """Reads OpenAI completion or chat-completion events up to the end, the first error event or the first garbage.

    `pause` is called now and then, so that a long answer does not keep others waiting. `differences`: whether usage in
    a chunk counts that chunk alone instead of all so far; None lets this answer decide.
    """
    result = Answer()
    said: list[_Said] = []
    for number, event in enumerate(stream, 1):
        if pause is not None and number % PAUSE_EVENTS == 0:
            pause()
        if not _take(result, said, event):
            break
    result.text = "".join(each.text for each in said)
    _count_chunks(result, said, differences)
    return result


def _take(result: Answer, said: list[_Said], event: Event) -> bool:
    """Reads one event; False when the answer ends here, for an error or for garbage."""
    data = event.data.strip()
    if data in (b"", b"[DONE]"):
        result.notes.update(["empty_data"] if not data else ["done_twice"] if result.done else [])
        result.done = result.done or bool(data)
        return True
    document = _document(data)
    if (message := error_message(document)) is not None or event.name == "error":
        result.error_kind = "stream_error"
        result.error = message or data[:500].decode("utf-8", "replace")
        return False
    if document is None:
        return _take_garbage(result, event)
    choices = document.get("choices")
    choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    text = "".join(generated(choices))
    if result.done and text:
        result.error_kind, result.error = "garbage", f"the stream goes on after [DONE]: {data[:80]!r}"
        return False
    result.notes.update(["after_done"] if result.done and "usage" not in document else [])
    used = _read_usage(result, document, choices)
    _read_finish(result, choices)
    if choices:
        opens = not text and any(isinstance(d := choice.get("delta"), dict) and d.get("role") for choice in choices)
        said.append(_Said(event, text, used, opens))
    return True


def _take_garbage(result: Answer, event: Event) -> bool:
    """What is no JSON object: passed over in an event with a name of its own, such as a ping, and else the end."""
    if event.name != "message":
        result.notes.add("foreign_event")
        return True
    shown = event.data[:120].decode("utf-8", "replace")
    result.error_kind, result.error = "garbage", f"an event is not a JSON object: {shown!r}"
    return False


def error_message(document: object) -> str | None:
    """The message of an error body in OpenAI's shape (or FastAPI's, or vLLM's older one); None if it is none."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if error is None and document.get("object") == "error":
        error = document
    if error is None and "choices" not in document:
        error = document.get("detail")
    if not error:
        return None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    try:
        return error if isinstance(error, str) else json.dumps(error)
    except (ValueError, RecursionError):
        return "an error that cannot be read"


def generated(choices: Sequence[dict[str, Any]]) -> list[str]:
    """Every piece of generated text in these choices, in order, whatever key holds it; none is empty."""
    found: list[str] = []
    for choice in choices:
        todo = [choice.get("delta"), choice.get("text")]
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                found += [item] if item else []
            elif isinstance(item, dict):
                todo += [value for key, value in reversed(item.items()) if key not in _ABOUT]
            elif isinstance(item, list):
                todo += reversed(item)
    return found


def spoken(stream: Sequence[Event]) -> str:
    """The answer as a conversation carries it on: the content alone, no reasoning or whatever else was streamed."""
    said: list[str] = []
    for event in stream:
        document = _document(event.data.strip())
        choices = document.get("choices") if document else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            continue
        delta = choices[0].get("delta")
        content = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
        if isinstance(content, str):
            said.append(content)
    return "".join(said)


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read_finish(result: Answer, choices: Sequence[dict[str, Any]]) -> None:
    for choice in choices:
        reason = choice.get("finish_reason")
        if reason is None:
            continue
        result.finish_reason = str(reason)[:40]
        if reason in ("abort", "error"):
            result.error_kind = "stream_error"
            result.error = f"the server ended the answer with finish_reason {reason!r}"


def _read_usage(result: Answer, document: dict[str, Any], choices: Sequence[dict[str, Any]]) -> int | None:
    """Takes the counts of an event that has some; returns its count of output tokens."""
    places = (document, document.get("x_groq"), *choices[:1])  # Groq and Moonshot have places of their own
    usage = next((u for place in places if isinstance(place, dict) and isinstance(u := place.get("usage"), dict)), None)
    if usage is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(result, details.get("cached_tokens")) if isinstance(details, dict) else None
    prompt, used = _count(result, usage.get("prompt_tokens")), _count(result, usage.get("completion_tokens"))
    result.prompt_tokens = result.prompt_tokens if prompt is None else prompt
    result.cached_tokens = result.cached_tokens if cached is None else cached
    result.output_tokens = result.output_tokens if used is None else used
    if result.done:
        result.notes.add("usage_after_done")
    return used


def _count(result: Answer, value: object) -> int | None:
    """A token count: a whole number (also written 20.0) of at least 0 that a record can hold; anything else is none."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS and value % 1 == 0:
        return int(value)
    result.notes.add("unusable_count")
    return None


def _count_chunks(result: Answer, said: Sequence[_Said], differences: bool | None) -> None:
    speaking = [each for each in said if each.text]
    if speaking and result.output_tokens == 0:
        result.output_tokens = None  # text without a token: what was counted is not this
        result.notes.add("unusable_count")
    per_event = _alone(result, speaking, differences) or _grown(result, said)
    if per_event is None:
        ones = result.output_tokens == len(speaking)
        per_event = [(each.event, 1 if ones else None) for each in speaking]
    chunks: list[tuple[Event, int | None]] = []
    merged = set()
    for event, tokens in per_event:
        if chunks and event.chunk is not None and chunks[-1][0].chunk == event.chunk:
            before = chunks.pop()[1]
            merged.add(event.read)
            tokens = None if before is None or tokens is None else before + tokens  # noqa: PLW2901
        chunks.append((event, tokens))
    result.chunk_s = [event.time_s for event, _ in chunks]
    counted = [tokens for _, tokens in chunks if tokens is not None]
    result.chunk_tokens = counted if len(counted) == len(chunks) and result.output_tokens is not None else None
    result.coalesced = [read for read, count in Counter(event.read for event, _ in chunks).items() if count > 1]
    result.merged_reads = len(merged)


def _grown(result: Answer, said: Sequence[_Said]) -> _PerEvent | None:
    """Tokens per event by usage that grows from event to event to its final value; None when it does not.

    An event without text in which usage grew carries a token whose text is held back (half a character).
    """
    found: list[tuple[Event, int | None]] = []
    before = 0
    for each in said:
        if each.opens:
            continue  # some servers count the first token in the event that only names the role
        if each.used is None or each.used < before or (each.text and each.used == before):
            if each.text or each.used is not None:
                break
            continue
        if each.used > before:
            found.append((each.event, each.used - before))
        before = each.used
    else:
        if found and before == result.output_tokens:
            result.usage = "chunk"
            return found
    result.usage = "never" if result.output_tokens is None else "end"
    return None


def _alone(result: Answer, speaking: Sequence[_Said], differences: bool | None) -> _PerEvent | None:
    """Tokens per event where usage counts each chunk alone; None when it does not, as far as can be told.

    It does when each event has a count and the last one is fewer than there were events with text.
    """
    counts = [each.used for each in speaking if each.used]
    final = result.output_tokens
    if differences is False or final is None or not counts or len(counts) < len(speaking):
        return None
    if counts[-1] != final or (differences is None and final >= len(speaking)):
        return None
    if sum(counts) > MOST_TOKENS:
        return None
    result.output_tokens = sum(counts)
    result.usage = "difference"
    return [(each.event, count) for each, count in zip(speaking, counts, strict=True)]
