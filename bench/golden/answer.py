"""One answer as the steps in which it is sent: which bytes, when, with how many tokens. Pure: nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.golden.behaviour import Behaviour

HALF_S = 0.002  # between the two halves of an event that is sent in halves
_BROKEN_AFTER = 3  # events, in a dialect that breaks


class Step(NamedTuple):
    """Bytes that leave `due_s` after the request's turn began; the tokens of each content event in them.

    `end`: how the answer has ended with it ("whole", "cut", "broken off", "broken", "reset", "hang"), None while it
    goes on. `closes`: the connection is closed then.
    """

    due_s: float
    data: bytes = b""
    tokens: tuple[int, ...] = ()
    end: str | None = None
    closes: bool = False


class Answer:
    """A streamed answer to `asked`, as `behaviour` has it; `number` counts the server's requests."""

    def __init__(self, behaviour: Behaviour, asked: dict[str, Any], number: int, model: str) -> None:
        self.behaviour, self.dialect = behaviour, behaviour.speaks
        self.chat = "messages" in asked
        self.broken = any(field in asked for field in self.dialect.breaks)
        wanted = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        self.tokens = min(wanted, behaviour.output_tokens or wanted, self.dialect.early or wanted)
        self.finish = "length" if self.tokens == wanted else "stop"
        self.prompt_tokens = prompt_tokens(asked)
        self.per_event = behaviour.per_event or self.dialect.per_event
        self.usage = _usage(behaviour, asked, number)
        self.random = behaviour.draws(number, "jitter") if behaviour.jitter else None
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        about = {"id": f"golden-{number}", "object": kind, "created": 1_764_000_000, "model": model}
        # An event is put together from texts that hold for the whole answer: thousands of them leave every second.
        self._before = f"{self.dialect.data}{json.dumps(about)[:-1]}, "
        self._odd = self.dialect.odd if self.dialect.odd != "bom" else ""
        self._choices: dict[tuple[int, bool, bool, bool], str] = {}
        cached = behaviour.cached_tokens
        details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
        self._counts = (json.dumps({"prompt_tokens": self.prompt_tokens})[:-1], json.dumps(details)[1:])

    def head(self) -> bytes:
        """The response's head."""
        media = [f"Content-Type: {self.dialect.media}"] if self.dialect.media else []
        if self.behaviour.body == "length":
            length = len(self._opening()) + sum(len(event) for event, _ in self._events()) + len(self._closing())
            frame = f"Content-Length: {length}"
        else:
            frame = "Connection: close" if self.behaviour.body == "close" else "Transfer-Encoding: chunked"
        return "\r\n".join(["HTTP/1.1 200 OK", *media, frame, "", ""]).encode()

    def steps(self) -> Iterator[Step]:
        """The body, step by step."""
        behaviour = self.behaviour
        if opening := self._opening():
            yield Step(0.0, self.framed(opening))
        due_s, last_s, first_of_send = self._wait(behaviour.ttft_s), 0.0, True
        batch, counts = b"", []
        for number, (event, tokens) in enumerate(self._events()):
            if behaviour.then is not None and number == behaviour.after:
                for step in self._fault(last_s):
                    yield step
                    if step.end is not None:
                        return
            if behaviour.stall_s and number == behaviour.stall_after:
                due_s += behaviour.stall_s
            if not first_of_send:
                due_s += sum(self._wait(behaviour.gap_s) for _ in range(tokens))
            batch += self.framed(event)
            counts.append(tokens)
            if len(counts) < behaviour.per_send and not self._last(number):
                continue
            if behaviour.halves:
                middle = len(batch) // 2
                yield Step(due_s, batch[:middle])
                yield Step(due_s + HALF_S, batch[middle:], tuple(counts))
            else:
                yield Step(due_s, batch, tuple(counts))
            last_s, first_of_send = due_s, False
            batch, counts = b"", []
            if self.broken and number + 1 == _BROKEN_AFTER:
                yield Step(due_s, self.framed(self._error("Unexpected token 200002")) + self.end(), end="broken")
                return
        yield self._last_step(last_s)

    def _last_step(self, due_s: float) -> Step:
        then = self.behaviour.then
        data = self.framed(self._closing()) + self.end()
        data += b"HTTP/1.1 what?" if then == "trailing" else b""
        closes = self.behaviour.body == "close" or then == "close_after"
        return Step(due_s, data, end="whole", closes=closes)

    def _fault(self, due_s: float) -> Iterator[Step]:
        match self.behaviour.then:
            case "hang" | "reset" as end:
                yield Step(due_s, end=end)
            case "cut":
                yield Step(due_s, end="cut", closes=True)
            case "break_off":
                yield Step(due_s, self.framed(b"data: [DONE]\n\n") + self.end(), end="broken off", closes=True)
            case "garbage":
                yield Step(due_s, self.framed(b"data: {broken\n\n"))
            case "bad_chunk":
                yield Step(due_s, b"xyz\r\nnot a chunk\r\n")
            case "error_event":
                yield Step(due_s, self.framed(self._error("the engine fell over")))

    def _wait(self, wait_s: float) -> float:
        if self.random is None:
            return wait_s
        return wait_s * (1 + self.behaviour.jitter * self.random.uniform(-1, 1))

    def _last(self, number: int) -> bool:
        return (number + 1) * self.per_event >= self.tokens or (self.broken and number + 1 == _BROKEN_AFTER)

    def _events(self) -> Iterator[tuple[bytes, int]]:
        """The content events with their tokens."""
        for sent in range(0, self.tokens, self.per_event):
            tokens = min(self.per_event, self.tokens - sent)
            yield self._content(sent, tokens), tokens

    def _event(self, choices: str, more: str = "") -> str:
        return f'{self._before}"choices": [{choices}]{more}}}{self.dialect.eol}'

    def _error(self, message: str) -> bytes:
        error = json.dumps({"message": message, "type": "golden", "param": None, "code": None})
        return f'{self._before}"error": {error}}}{self.dialect.eol}'.encode()

    def _counted(self, tokens: int) -> str:
        """Usage behind the choices, as this answer shows it."""
        match self.usage:
            case "float":
                shown = f"{tokens}.0"
            case "text":
                shown = f'"{tokens}"'
            case "huge":
                shown = f"{2**32 - 1}"
            case _:
                shown = f"{tokens}"
        (before, after), total = self._counts, self.prompt_tokens + tokens
        more = f", {after}" if after != "}" else after
        return f', "usage": {before}, "completion_tokens": {shown}, "total_tokens": {total}{more}'

    def _opening(self) -> bytes:
        odd = "\ufeff" if self.dialect.odd == "bom" else self._odd
        if self.chat and self.dialect.role != "none":
            content = None if self.dialect.role == "null" else ""
            odd += self._event(json.dumps({"index": 0, "delta": {"role": "assistant", "content": content}}))
        return odd.encode()

    def _content(self, before: int, tokens: int) -> bytes:
        """The event that brings `tokens` tokens after `before` of them."""
        so_far = {
            "chunk": before + tokens,
            "zeros": self.tokens if before + tokens == self.tokens else 0,
            "final": self.tokens,
            "difference": tokens,
        }.get(self.usage)
        usage = "" if so_far is None else self._counted(so_far)
        return f"{self._odd}{self._event(self._choice(before, tokens), usage)}".encode()

    def _choice(self, before: int, tokens: int) -> str:
        last, early = before + tokens == self.tokens, before < self.tokens // 2
        which = (tokens, last, early, not before)
        if which not in self._choices:
            text = " tok" * tokens
            choice = {"index": 0, **({"delta": self._delta(text, before)} if self.chat else {"text": text})}
            finish = self.finish if last and self.dialect.finish == "with" else None
            self._choices[which] = json.dumps({**choice, "logprobs": None, "finish_reason": finish})
        return self._choices[which]

    def _delta(self, text: str, before: int) -> dict[str, Any]:
        match self.dialect.key:
            case "tool_calls":
                call = {"name": "f" if not before else None, "arguments": text}
                return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": call}]}
            case "function_call":
                return {"function_call": {"arguments": text}}
            case "parts":
                return {"content": [{"type": "text", "text": text}]}
            case "thinking" | "reasoning_content" as key:
                return {key if before < self.tokens // 2 else "content": text}
            case key:
                return {key: text}

    def _closing(self) -> bytes:
        found = ""
        if self.dialect.finish == "apart":
            choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish}
            choice["delta" if self.chat else "text"] = {} if self.chat else ""
            found += self._event(json.dumps(choice))
        done = f"{self.dialect.data}[DONE]{self.dialect.eol}" * self.dialect.done
        done = "" if self.behaviour.then == "no_done" else done
        if self.usage in ("none", "difference"):
            return (found + done).encode()
        last = self._event("", self._counted(self.tokens))
        return (found + (done + last if self.usage == "late" else last + done)).encode()

    def framed(self, data: bytes) -> bytes:
        if self.behaviour.body not in ("chunked", "extended"):
            return data
        extension = b';name="value; x"' if self.behaviour.body == "extended" else b""
        return b"%x%s\r\n%s\r\n" % (len(data), extension, data)

    def end(self) -> bytes:
        return {"chunked": b"0\r\n\r\n", "extended": b"0\r\nX-Trailer: golden\r\n\r\n"}.get(self.behaviour.body, b"")


def prompt_tokens(asked: dict[str, Any]) -> int:
    """The tokens of a prompt: its ids, or the words of its text or messages."""
    prompt = asked.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    said = [prompt] if isinstance(prompt, str) else [m.get("content") for m in asked.get("messages") or ()]
    return sum(len(text.split()) for text in said if isinstance(text, str))


def _usage(behaviour: Behaviour, asked: dict[str, Any], number: int) -> str:
    """Where usage stands in this answer: as the behaviour says, as far as the request asks for it."""
    options = asked.get("stream_options") or {}
    usage = behaviour.usage or behaviour.speaks.usage
    if not options.get("include_usage") or (usage == "some" and number % 2):
        return "none"
    return "end" if usage == "chunk" and not options.get("continuous_usage_stats") else usage
