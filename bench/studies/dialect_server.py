"""A server that speaks many dialects of the OpenAI API, with known timing and a log of what it really did.

    python -m bench.studies.dialect_server LOG [PACE]      prints its port

Each dialect of `MODES`, as servers in the wild speak them, has a base URL of its own: http://127.0.0.1:PORT/MODE. The
first token comes TTFT_S × PACE after a request has arrived, then one every GAP_S × PACE. The log holds one JSON line a
completion: its mode, when it arrived, when each content event left (seconds of the machine's monotonic clock, which
the client reads too) and how many tokens went out.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

TTFT_S = 0.06
GAP_S = 0.01
_UUID = re.compile(r"^X-Request-Id: [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\r$", re.MULTILINE)


@dataclass(frozen=True)
class Mode:
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


OPENAI = ("ignore_eos", "min_tokens", "continuous_usage_stats")
MODES = {
    "plain": Mode("usage at the end"),
    "vllm": Mode("usage in every chunk, so far", usage="chunk"),
    "strict": Mode("strict OpenAI validation", refuses=OPENAI),
    "nameless": Mode("the same, refusals name no field", refuses=OPENAI, nameless=True),
    "max-completion": Mode("max_completion_tokens only", refuses=("max_tokens",)),
    "reasoning-model": Mode("no temperature either", refuses=("max_tokens", "temperature", *OPENAI)),
    "no-stream-options": Mode("stream_options refused", refuses=("stream_options",), usage="none"),
    "chat-only": Mode("chat only", endpoints=("chat",)),
    "completions-only": Mode("text completions only", endpoints=("completions",)),
    "text-only": Mode("token-id prompts refused", refuses=("token ids",)),
    "harmony": Mode("ignore_eos breaks the stream", breaks=("ignore_eos", "min_tokens")),
    "no-length": Mode("ignore_eos taken and ignored", early=12),
    "no-usage": Mode("no usage at all", usage="none"),
    "usage-zeros": Mode("usage per chunk, zeros until the last", usage="zeros"),
    "usage-final": Mode("the final usage in every chunk", usage="final"),
    "usage-difference": Mode("usage per chunk as a difference", usage="difference"),
    "usage-some": Mode("usage with every other answer", usage="some"),
    "usage-float": Mode("usage as 20.0", usage="float"),
    "usage-text": Mode('usage as "20"', usage="text"),
    "usage-huge": Mode("usage of 4,294,967,295", usage="huge"),
    "usage-late": Mode("usage after [DONE]", usage="late"),
    "four-a-chunk": Mode("4 tokens a chunk, usage in every chunk", per_event=4, usage="chunk"),
    "four-usage-end": Mode("4 tokens a chunk, usage at the end", per_event=4),
    "thinking": Mode("text under `thinking` first", key="thinking"),
    "reasoning": Mode("text under `reasoning_content` first", key="reasoning_content"),
    "refusal": Mode("text under `refusal`", key="refusal"),
    "tool-calls": Mode("tool calls", key="tool_calls"),
    "function-call": Mode("function_call", key="function_call"),
    "parts": Mode("content as a list of parts", key="parts"),
    "null-role": Mode("null content in the first chunk", role="null"),
    "no-role": Mode("no role chunk", role="none"),
    "finish-apart": Mode("a finish chunk of its own", finish="apart"),
    "no-done": Mode("no [DONE]", done=0),
    "done-twice": Mode("[DONE] twice", done=2),
    "no-finish": Mode("[DONE] without a finish_reason", finish="none"),
    "crlf": Mode("CRLF line ends", eol="\r\n\r\n"),
    "no-space": Mode("data: without a space", data="data:"),
    "comments": Mode("comments between events", odd=": keep-alive\n\n"),
    "empty-data": Mode("empty data lines", odd="data: \n\n"),
    "pings": Mode("ping events", odd="event: ping\ndata: now\n\n"),
    "bom": Mode("a byte order mark", odd="bom"),
    "plain-text": Mode("content-type text/plain", media="text/plain"),
    "no-type": Mode("no content-type", media=None),
    "breaks": Mode("every stream ends in an error", breaks=("model",)),
    "rate-limit": Mode("429 with Retry-After", status=429),
    "unavailable": Mode("503 with Retry-After", status=503),
    "no-key": Mode("401", status=401),
    "uuids": Mode("an X-Request-Id that is no UUID refused", refuses=("free request ids",), nameless=True),
}


class Refused(Exception):
    """A request that gets a status instead of an answer."""


class Answer:
    """One streamed answer in a mode."""

    def __init__(self, mode: Mode, asked: dict[str, Any], number: int) -> None:
        self.mode, self.asked, self.number = mode, asked, number
        self.chat = "messages" in asked
        wanted = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        self.tokens = min(wanted, mode.early or wanted)
        self.finish = "length" if self.tokens == wanted else "stop"
        self.prompt_tokens = len(asked["prompt"]) if isinstance(asked.get("prompt"), list) else 7
        options = asked.get("stream_options") or {}
        counts = options.get("include_usage") and not (mode.usage == "some" and number % 2)
        self.usage = mode.usage if counts else "none"

    def counted(self, tokens: int) -> dict[str, Any]:
        shown = {"float": float(tokens), "text": str(tokens), "huge": 2**32 - 1}.get(self.usage, tokens)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": shown}

    def event(self, **more: Any) -> bytes:
        document = {"id": "c", "model": "m", **more}
        return f"{self.mode.data}{json.dumps(document)}{self.mode.eol}".encode()

    def opening(self) -> bytes:
        odd = b"\xef\xbb\xbf" if self.mode.odd == "bom" else self.mode.odd.encode()
        if not self.chat or self.mode.role == "none":
            return odd
        content = None if self.mode.role == "null" else ""
        return odd + self.event(choices=[{"index": 0, "delta": {"role": "assistant", "content": content}}])

    def content(self, before: int, tokens: int) -> bytes:
        """The event that brings `tokens` tokens after `before` of them."""
        last = before + tokens == self.tokens
        finish = self.finish if last and self.mode.finish == "with" else None
        text = " x" * tokens
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"delta": self.delta(text, before)} if self.chat else {"text": text}
        so_far = {
            "chunk": before + tokens,
            "zeros": self.tokens if last else 0,
            "final": self.tokens,
            "difference": tokens,
        }.get(self.usage)
        more = {} if so_far is None else {"usage": self.counted(so_far)}
        odd = self.mode.odd.encode() if self.mode.odd != "bom" else b""
        return odd + self.event(choices=[choice], **more)

    def delta(self, text: str, before: int) -> dict[str, Any]:
        match self.mode.key:
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

    def closing(self) -> bytes:
        found = b""
        if self.mode.finish == "apart":
            choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish}
            choice["delta" if self.chat else "text"] = {} if self.chat else ""
            found += self.event(choices=[choice])
        last = self.event(choices=[], usage=self.counted(self.tokens))
        done = f"{self.mode.data}[DONE]{self.mode.eol}".encode() * self.mode.done
        if self.usage in ("none", "difference"):
            return found + done
        return found + (done + last if self.usage == "late" else last + done)


class Server:
    """Answers in every mode, and writes its log."""

    def __init__(self, log: Path, pace: float) -> None:
        self.log = log.open("a", encoding="utf-8", buffering=1)
        self.pace = pace
        self.number = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next((int(line[15:]) for line in head.split("\r\n") if line[:15] == "Content-Length:"), 0)
                body = await reader.readexactly(length)
                await self.answer(writer, head, body, perf_counter())
        writer.close()

    async def answer(self, writer: asyncio.StreamWriter, head: str, body: bytes, arrived_s: float) -> None:
        name, _, path = head.split(" ")[1].lstrip("/").partition("/")
        mode = MODES[name]
        try:
            status, document = 200, self.listing(mode, path)
            if document is None:
                free = {"free request ids"} if _UUID.search(head) is None else set()
                await self.stream(writer, name, self.checked(mode, path, body, free), arrived_s)
                return
        except Refused as refusal:
            status, words = refusal.args
            document = {"error": {"message": words}}
        text = json.dumps(document).encode()
        more = "Retry-After: 7\r\n" if status in (429, 503) else ""
        answer = f"HTTP/1.1 {status} Dialect\r\nContent-Type: application/json\r\n{more}Content-Length: {len(text)}\r\n"
        writer.write(f"{answer}\r\n".encode() + text)
        await writer.drain()

    def listing(self, mode: Mode, path: str) -> dict[str, Any] | None:
        """The list of models; None for every other path."""
        if path != "v1/models":
            return None
        if mode.status == 401:
            raise Refused(401, "a key is wanted")
        return {"object": "list", "data": [{"id": "m", "object": "model"}]}

    def checked(self, mode: Mode, path: str, body: bytes, sent: set[str]) -> dict[str, Any]:
        """The request, when this mode takes it."""
        endpoint = {"v1/completions": "completions", "v1/chat/completions": "chat"}.get(path)
        if endpoint is None or endpoint not in mode.endpoints:
            raise Refused(404, "Not Found")
        if mode.status != 200:
            raise Refused(mode.status, "not now")
        asked: dict[str, Any] = json.loads(body)
        sent |= {*asked, *(asked.get("stream_options") or {})}
        sent |= {"token ids"} if isinstance(asked.get("prompt"), list) else set()
        if refused := [field for field in mode.refuses if field in sent]:
            words = "Bad request" if mode.nameless else f"Unrecognized request argument supplied: {refused[0]}"
            raise Refused(400, words)
        return asked

    async def stream(self, writer: asyncio.StreamWriter, name: str, asked: dict[str, Any], arrived_s: float) -> None:
        self.number += 1
        mode = MODES[name]
        answer = Answer(mode, asked, self.number)
        media = f"Content-Type: {mode.media}\r\n" if mode.media else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{media}Transfer-Encoding: chunked\r\n\r\n".encode())
        self.send(writer, answer.opening())
        events: list[tuple[float, int]] = []
        sent, due_s, broken = 0, arrived_s + TTFT_S * self.pace, False
        while sent < answer.tokens and not broken:
            tokens = min(mode.per_event, answer.tokens - sent)
            await asyncio.sleep(max(0.0, due_s - perf_counter()))
            due_s += GAP_S * self.pace * tokens
            events.append((perf_counter(), tokens))
            self.send(writer, answer.content(sent, tokens))
            sent += tokens
            broken = len(events) == 3 and any(field in asked for field in mode.breaks)
        self.log.write(
            json.dumps({"mode": name, "arrived_s": arrived_s, "events": events, "tokens": sent, "asked": asked}) + "\n"
        )
        self.send(writer, answer.event(error={"message": "Unexpected token 200002"}) if broken else answer.closing())
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if data:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def main(log: str, pace: str = "1") -> None:
    listener = await asyncio.start_server(Server(Path(log), float(pace)).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
