"""Which requests are turns of which conversation, and when each conversation was under way. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spans:
    """When each conversation was under way: from its first turn's being sent to its last answer's end, as seconds
    from the cell's zero; conversations of which nothing was sent are left out."""

    began_s: Floats
    ended_s: Floats

    def window(self, users: int) -> tuple[float, float] | None:
        """From the instant all `users` are in a conversation to that at which the first finds none any more."""
        users = min(users, len(self.began_s))
        if not users:
            return None
        return float(np.sort(self.began_s)[users - 1]), float(np.sort(self.ended_s)[len(self.ended_s) - users])

    def mean_under_way(self, start_s: float, end_s: float) -> float:
        """How many conversations were under way, averaged over the time."""
        inside = np.clip(self.ended_s, start_s, end_s) - np.clip(self.began_s, start_s, end_s)
        return float(inside.sum() / (end_s - start_s))


def spans(requests: pa.Table) -> Spans | None:
    """The conversations of a cell; None where its requests are no turns."""
    if not are_turns(requests):
        return None
    sent = requests.filter(pc.is_valid(requests["sent_s"]))
    found = sent.group_by("conversation").aggregate([("sent_s", "min"), ("ended_s", "max")])
    began, ended = (np.asarray(found[name].to_numpy(), dtype=np.float64) for name in ("sent_s_min", "ended_s_max"))
    whole = ~np.isnan(ended)
    return Spans(began[whole], ended[whole])


def are_turns(requests: pa.Table) -> bool:
    """Whether these requests are turns of conversations."""
    return "turn" in requests.column_names and requests["turn"].null_count < len(requests)


def arrivals(requests: pa.Table) -> pa.Table:
    """The requests that arrived by themselves: of conversations their first turns, else all."""
    return requests.filter(pc.equal(requests["turn"], 1)) if are_turns(requests) else requests
