"""A point that can no longer pass is ended early: its verdict is certain, and the queue would only grow."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from bench.capacity.judging import enough_beyond
from bench.capacity.warmup import AT_MOST
from bench.plans.loads import Load
from bench.run import records
from bench.run.slo import Condition

_NEEDED = {"chunk_s": None, "chunk_tokens": None}  # what a count beyond limits does not look at, left out


class Hopeless:
    """Watches a point's records as they are written. `why` says which condition is missed for certain, once one is.

    Certain: so many requests lie beyond its limit that all others together could not mend it. Those that may yet turn
    out to be warm-up (the first quarter of the schedule) do not count, nor do broken connections: a server that has
    died says so otherwise.
    """

    def __init__(
        self, load: Load, conditions: Sequence[Condition], limits: Mapping[str, float], *, expected_s: float
    ) -> None:
        self._enough = {
            one: enough for one in conditions if (enough := enough_beyond(one, load.requests or 0)) is not None
        }
        self._limits, self._from_schedule = limits, load.kind == "open"
        self._from_s = AT_MOST * expected_s
        self._zero_s: float | None = None
        self._beyond = dict.fromkeys(self._enough, 0)
        self.why: str | None = None

    def look(self, ended: Sequence[Mapping[str, Any]]) -> str | None:
        """Takes in what has ended since the last look; returns `why`."""
        measured = [
            record
            for record in ended
            if not record.get("warmup")
            and record.get("scheduled") is not None
            and record.get("outcome") != "connection_error"
        ]
        if not measured:
            return self.why
        earliest = min(record["scheduled"] for record in measured)
        self._zero_s = earliest if self._zero_s is None else min(self._zero_s, earliest)
        rows = [records.from_zero(dict(record) | _NEEDED, self._zero_s) for record in measured]
        table = pa.Table.from_pylist([row for row in rows if row["scheduled_s"] >= self._from_s], schema=records.SCHEMA)
        for condition, enough in self._enough.items():
            self._beyond[condition] += condition.beyond(table, self._limits, from_schedule=self._from_schedule)
            if self.why is None and self._beyond[condition] >= enough:
                self.why = f"{self._beyond[condition]} requests beyond {condition.words}: it cannot pass any more."
        return self.why
