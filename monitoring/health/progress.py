"""Forward progress: does an engine that has work also do steps? Pure.

`/health` of a hung engine says 200, and its metrics page stays as it was when the engine stopped: requests running or
waiting, and no further iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.scrape.window import Labels, Scrape

ITERATIONS = "vllm:iteration_tokens_total_count"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"


@dataclass(frozen=True)
class Stall:
    """An engine that held work and did no iteration in any scrape of the last `silent_s` seconds."""

    engine: str
    silent_s: float
    running: float
    waiting: float


def stalls(scrapes: Sequence[Scrape], at_least_s: float) -> list[Stall]:
    """The engines that have stood still with work for `at_least_s` or longer, up to the last scrape."""
    found = []
    last = scrapes[-1]
    for labels, count in last.series.get(ITERATIONS, {}).items():
        since_s = last.at_s
        for one in reversed(scrapes):
            if one.series.get(ITERATIONS, {}).get(labels) != count or not _work(one, labels):
                break
            since_s = one.at_s
        silent_s = last.at_s - since_s
        if silent_s >= at_least_s:
            running = last.series.get(RUNNING, {}).get(labels, 0.0)
            waiting = last.series.get(WAITING, {}).get(labels, 0.0)
            found.append(Stall(dict(labels).get("engine", "0"), silent_s, running, waiting))
    return found


def moved(scrapes: Sequence[Scrape]) -> bool | None:
    """Whether any engine did an iteration between the first scrape and the last; None when they cannot tell."""
    counts = [one.series.get(ITERATIONS) for one in scrapes]
    known = [count for count in counts if count]
    if len(known) < 2:
        return None
    return any(count != known[0] for count in known[1:])


def _work(one: Scrape, labels: Labels) -> bool:
    return any(one.series.get(name, {}).get(labels, 0.0) > 0 for name in (RUNNING, WAITING))
