"""An answer on its way out: each step leaves when it is due, and the log says when it did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic as now
from typing import Any, Protocol

from bench.golden.answer import Answer, Step
from bench.golden.behaviour import Behaviour
from bench.golden.state import Server
from bench.golden.turns import Waiting


class Carrier(Protocol):
    """The connection that carries an answer."""

    transport: asyncio.Transport
    server: Server
    close_on_next: bool
    answering: Playing | None

    def reset(self) -> None: ...


class Playing:
    """An answer under way: waits for its turn, sends each step when it is due, and writes what happened to the log."""

    def __init__(self, connection: Carrier, answer: Answer, behaviour: Behaviour, entry: dict[str, Any]) -> None:
        self.connection, self.answer, self.behaviour, self.entry = connection, answer, behaviour, entry
        self.server = connection.server
        self.events: list[tuple[float, int]] = []
        self.began_s: float = entry["received_s"]
        self.late_s = 0.0
        self.blocked = 0
        self.timer: asyncio.TimerHandle | None = None
        self.begun = self.ended = False
        self.steps: Iterator[Step] = answer.steps()
        connection.transport.write(answer.head())
        self.ticket: Waiting = self.server.turns.ask(entry["received_s"], self.begin)

    def begin(self, began_s: float) -> None:
        """The request's turn has come."""
        self.begun, self.began_s = True, began_s
        self._await(next(self.steps))

    def _await(self, step: Step) -> None:
        self.step = step
        self.timer = self.server.loop.call_at(self.began_s + step.due_s, self._play)

    def _play(self) -> None:
        step, transport = self.step, self.connection.transport
        if step.end is not None:  # logged first: who has read the last byte finds the line
            self.over(step.end, self.began_s + step.due_s)
        sent_s = now()
        if step.data:
            transport.write(step.data)
        if step.end is None:
            self._sent(step, sent_s)
            self._await(next(self.steps))
        elif step.closes:
            transport.close()
        elif step.end == "reset":
            self.connection.reset()
        elif self.behaviour.then == "close_on_next":
            self.connection.close_on_next = True

    def _sent(self, step: Step, sent_s: float) -> None:
        if not step.tokens:
            return
        self.late_s = max(self.late_s, sent_s - self.began_s - step.due_s)
        self.blocked += self.connection.transport.get_write_buffer_size() > 0
        if not self.events:
            cached = self.behaviour.cached_tokens
            self.server.metrics.first_token(
                self.entry["received_s"], self.began_s, sent_s, self.answer.prompt_tokens, cached
            )
        self.events += [(sent_s, tokens) for tokens in step.tokens]
        self.server.metrics.generation_tokens.inc(sum(step.tokens))

    def over(self, end: str, at_s: float) -> None:
        """The answer has ended, as `end` says; its place is free from `at_s` on."""
        if self.ended:
            return
        self.ended = True
        server, entry = self.server, self.entry
        if self.timer is not None:
            self.timer.cancel()
        if self.begun:
            server.turns.end(at_s)
        else:
            server.turns.give_up(self.ticket)
        if end != "hang":  # of a connection that hangs nothing more is answered
            self.connection.answering = None
        received_s, whole = entry["received_s"], end == "whole"
        server.metrics.ended(
            received_s, self.events, self.answer.prompt_tokens, self.answer.finish if whole else "abort"
        )
        server.log(
            {
                **entry,
                "began_s": self.began_s if self.begun else None,
                "events": self.events,
                "tokens": sum(tokens for _, tokens in self.events),
                "ended_s": now(),
                "end": end,
                "late_s": self.late_s,
                "blocked": self.blocked,
            }
        )
