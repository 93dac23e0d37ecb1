"""How much of a server's memory requests for states may hold at a time; a place is kept until the answer is written."""

from collections.abc import Iterator
from contextlib import contextmanager

from serve.hidden_states.limits import Limits
from serve.hidden_states.protocol import ApiError

# Answers of so many values or less are made at once and in one piece; only their number is bounded.
SMALL_VALUES = 1 << 14


class Admission:
    """The prompts that are in work, and the values of their large answers."""

    def __init__(self, limits: Limits) -> None:
        self.prompts = 0
        self.values = 0
        self._limits = limits

    @contextmanager
    def place(self, prompts: int, field: str) -> Iterator[None]:
        """A place in the queue for so many prompts. Raises ApiError 413 when they never fit, 429 when not now."""
        limit = self._limits.max_queued_prompts
        if prompts > limit:
            raise ApiError(413, f"{prompts} prompts never fit this server's queue of {limit}.", field)
        if self.prompts + prompts > limit:
            raise ApiError(
                429,
                f"The queue is full: {self.prompts} prompts wait, run or are being read, {prompts} more would pass the "
                f"limit of {limit}.",
                retry_after_s=1,
            )
        self.prompts += prompts
        try:
            yield
        finally:
            self.prompts -= prompts

    @contextmanager
    def room(self, values: int) -> Iterator[None]:
        """Room for an answer of so many values. Raises ApiError 429 when there is none now; one alone always fits."""
        limit, large = self._limits.max_queued_values, values if values > SMALL_VALUES else 0
        if large and self.values and self.values + large > limit:
            raise ApiError(
                429,
                f"Large answers take all room: {self.values} values are being computed or read, {large} more would "
                f"pass the limit of {limit}.",
                retry_after_s=1,
            )
        self.values += large
        try:
            yield
        finally:
            self.values -= large
