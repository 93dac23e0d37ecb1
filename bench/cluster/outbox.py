"""What a node has to say, kept until the driver has it: asking twice for the same is harmless."""

import threading
from collections import deque
from typing import Any, NamedTuple

_HELD_BYTES = 16 << 20  # more than this waits on the node's disk
_ANSWER_BYTES = 8 << 20
_WAIT_S = 1.0


class Message(NamedTuple):
    """`number` counts from 1; `kind` is one of placed, said, began, piece, state, ended; `data` what belongs to it."""

    number: int
    kind: str
    data: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        return len(self.data.get("data", b"")) + 1024


class Outbox:
    """Filled by the thread that measures, emptied by whoever asks; no message is dropped before it was taken."""

    def __init__(self) -> None:
        self._held: deque[Message] = deque()
        self._count = 0
        self._changed = threading.Condition()

    def put(self, kind: str, **data: Any) -> None:
        """Add a message; waits while too much is held."""
        with self._changed:
            self._changed.wait_for(lambda: sum(one.size_bytes for one in self._held) < _HELD_BYTES)
            self._count += 1
            self._held.append(Message(self._count, kind, data))
            self._changed.notify_all()

    def take(self, seen: int) -> list[Message]:
        """Forget the messages up to the number `seen`, and yield some of those after it; none after a second's wait."""
        with self._changed:
            while self._held and self._held[0].number <= seen:
                self._held.popleft()
            self._changed.notify_all()
            self._changed.wait_for(lambda: bool(self._held), _WAIT_S)
            taken: list[Message] = []
            size_bytes = 0
            for message in self._held:
                size_bytes += message.size_bytes
                if taken and size_bytes > _ANSWER_BYTES:
                    break
                taken.append(message)
            return taken

    def wait_until_taken(self) -> None:
        """Return when the driver has everything, so that no transfer falls into the next measurement."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
