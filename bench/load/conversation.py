"""A conversation as it is held: its first request is encoded ahead, each other one when the answer before is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from bench.client import stream

Encode = Callable[..., stream.Request]


@dataclass(frozen=True)
class Conversation:
    """Turns of one conversation. `then` are those behind the first: `messages`, `max_tokens`, `think_s` before them.

    `encode` makes a request of a prompts-file entry.
    """

    first: stream.Request
    messages: tuple[dict[str, Any], ...]
    then: tuple[dict[str, Any], ...]
    entry: dict[str, Any]
    encode: Encode

    @classmethod
    def of(cls, entry: dict[str, Any], request_id: str, encode: Encode) -> Conversation:
        """Of an entry of the prompts file with `then`. Raises what `encode` raises, or KeyError for a turn of none."""
        turns = tuple({name: turn[name] for name in ("messages", "max_tokens", "think_s")} for turn in entry["then"])
        first = encode(entry, request_id=request_id, conversation=request_id, turn=1)
        return cls(first, tuple(entry["messages"]), turns, entry, encode)

    def again(self, suffix: str) -> Conversation:
        """The same once more, under other ids."""
        number = f"{self.first.conversation}-{suffix}"
        return replace(self, first=replace(self.first, request_id=number, conversation=number))

    def turn(self, number: int, messages: list[dict[str, Any]]) -> stream.Request:
        """The request of turn `number` (2 is the first of `then`) after all that was said so far."""
        asked = {**self.entry, "messages": messages, "max_tokens": self.then[number - 2]["max_tokens"]}
        return self.encode(asked, request_id=str(uuid4()), conversation=self.first.conversation, turn=number)
