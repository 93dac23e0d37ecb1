"""What is measured: the loads, and which of them are the main ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

TOKENS = 64
TTFT_S = 0.1
JITTER = 0.3  # so that answers do not end in step
# users → (requests, seconds per token): about 100, 3,200, 6,400 and 6,250 chunks a second at one token a chunk
LOADS = {1: (12, 0.01), 32: (320, 0.01), 256: (1280, 0.04), 1000: (2000, 0.16)}


@dataclass(frozen=True)
class Point:
    """A closed load of `users`, with `per_event` tokens a chunk; `busy`: beside one spinning process per core."""

    users: int
    per_event: int
    busy: bool

    @property
    def requests(self) -> int:
        return LOADS[self.users][0]

    @property
    def gap_s(self) -> float:
        return LOADS[self.users][1]

    @property
    def seconds(self) -> float:
        """How long the load takes when nothing delays it."""
        return self.requests / self.users * (TTFT_S + self.gap_s * (TOKENS - self.per_event))

    @property
    def server_words(self) -> tuple[str, ...]:
        """The golden server's, for this load."""
        timing = (f"ttft_s={TTFT_S}", f"gap_s={self.gap_s}", f"jitter={JITTER}")
        return (*timing, f"per_event={self.per_event}", f"output_tokens={TOKENS}")

    def __str__(self) -> str:
        return f"{self.users} users, {self.per_event} a chunk{', busy' if self.busy else ''}"


MAIN = (Point(32, 1, busy=False), Point(256, 1, busy=False), Point(32, 1, busy=True), Point(32, 4, busy=False))
ALL = (
    *MAIN,
    *(
        point
        for busy, per_event, users in itertools.product((False, True), (1, 4), LOADS)
        if (point := Point(users, per_event, busy)) not in MAIN
    ),
)
