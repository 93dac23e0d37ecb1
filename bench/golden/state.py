"""What all connections to the golden server share: its settings, its turns, its metrics, its log."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic as now
from typing import Any, Protocol, TextIO

from bench.golden.behaviour import Behaviours
from bench.golden.metrics import Metrics
from bench.golden.turns import Turns


@dataclass(frozen=True)
class Settings:
    """What the server as a whole is: whom it lets in, how much it does at once, what it shows and writes."""

    model: str = "golden"
    log: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    limit: int | None = None
    limit_rps: float | None = None
    queue_limit: int | None = None
    metrics: bool = True


class Open(Protocol):
    """A connection that is open, as far as the end of the server concerns it."""

    transport: asyncio.Transport

    def abandon(self, why: str) -> None: ...


class Server:
    """The state that all connections share."""

    def __init__(self, settings: Settings, behaviours: Behaviours) -> None:
        loop = asyncio.get_running_loop()
        self.settings, self.behaviours, self.loop = settings, behaviours, loop
        self.turns = Turns(settings.limit, settings.limit_rps, now=now, call_at=loop.call_at)
        self.metrics = Metrics(settings.model, self.turns)
        self.open: set[Open] = set()
        self.connections = self.requests = 0
        self._log: TextIO | None = None
        if settings.log is not None:
            self._log = settings.log.open("a", encoding="utf-8", buffering=1)

    def log(self, entry: dict[str, Any]) -> None:
        """One line, whole and flushed."""
        if self._log is not None:
            self._log.write(json.dumps(entry, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Ends what is under way; the log says so."""
        for connection in list(self.open):
            connection.abandon("server stopped")
            connection.transport.abort()
        if self._log is not None:
            self._log.close()
