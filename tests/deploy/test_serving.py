"""A replica at work, request by request: by hand."""

import heapq
import random

import pytest
from test_simulation import made

from bench.golden.turns import Turns
from deploy.scaling.serving import Pace, Pod, Tally, serve


def played(requests, *, pods=1, until_s=100.0, wait_limit_s=30.0, **facts) -> tuple[Tally, list[Pod]]:
    """Requests (when each comes, its work) at pods that end one a second with one in work and four with four."""
    pace, tally = Pace(made(**facts)), Tally()
    running = [Pod(pace) for _ in range(pods)]
    serve(running, requests, wait_limit_s, tally)
    for pod in running:
        pod.play(until_s, tally)
    return tally, running


def test_who_finds_no_place_waits_for_the_first_that_ends():
    # Four take 1 s each; the fifth begins when the first has ended, at 1.0 s, the sixth with the second, at 1.1 s.
    tally, _ = played([(0.0, 1), (0.1, 1), (0.2, 1), (0.3, 1), (0.4, 1), (0.5, 1)])
    assert (tally.begun, tally.ended) == (6, 6)
    assert (tally.waited_s, tally.wait_max_s) == (pytest.approx(0.6 + 0.6), pytest.approx(0.6))


def test_those_in_service_share_what_the_replica_does():
    both = ((1.0, 1.0, 0.1), (2.0, 1.0, 0.2))  # two in work end no more than one
    # Alone for 0.5 s, then at half the pace: the first ends at 1.5 s, and the second, half done by then, at 2 s.
    for until_s, ended in ((1.49, 0), (1.51, 1), (1.99, 1), (2.01, 2)):
        assert played([(0.0, 1), (0.5, 1)], curve=both, until_s=until_s)[0].ended == ended
    # A third waits for the first: from 0.6 s to 1.5 s.
    assert played([(0.0, 1), (0.5, 1), (0.6, 1)], curve=both)[0].waited_s == pytest.approx(0.9)


def test_more_work_takes_longer():
    assert played([(0.0, 2.5)], until_s=2.4)[0].ended == 0
    assert played([(0.0, 2.5)], until_s=2.6)[0].ended == 1


def test_the_one_with_the_least_in_work_gets_the_next():
    tally, (a, b) = played([(0.0, 9), (0.1, 1), (1.2, 1), (1.3, 1)], pods=2, until_s=1.4)
    assert (a.in_work, b.in_work) == (2, 1)  # the second had ended at b when the third came
    assert tally.ended == 1


def test_who_would_wait_too_long_is_refused_and_a_late_first_token_is_missed():
    # Places for 4, 4 a second: with a limit of 1 s four may wait, the ninth is refused.
    tally, _ = played([(0.0, 1)] * 9, wait_limit_s=1.0)
    assert (tally.refused, tally.begun) == (1, 8)
    # The wait of 1 s and up to 0.4 s to the first token are more than the tolerated 1 s, for each of the four.
    assert tally.missed == 4


def test_what_is_cut_is_counted_and_who_still_waited_has_missed():
    tally, (pod,) = played([(0.0, 1)] * 6, until_s=0.5)
    pod.cut(tally)
    assert (tally.cut, tally.missed, pod.in_work) == (6, 2, 0)


def waits_at_golden_servers(arrivals: list[float], *, places: int, service_s: float) -> float:
    """What requests wait on average at two golden servers, by their own code for turns, with a clock made here."""
    due: list[tuple[float, int, object]] = []
    clock, waits = [0.0], []

    def at(when_s: float, what) -> None:
        heapq.heappush(due, (when_s, len(waits) + len(due) + random.getrandbits(40), what))

    two = [Turns(places, None, now=lambda: clock[0], call_at=at) for _ in range(2)]

    def come(arrived_s: float) -> None:
        chosen = min(two, key=lambda one: one.running + len(one.waiting))

        def begin(turn_s: float) -> None:
            waits.append(turn_s - arrived_s)
            at(turn_s + service_s, lambda: chosen.end(turn_s + service_s))

        chosen.ask(arrived_s, begin)

    for arrived_s in arrivals:
        at(arrived_s, lambda arrived_s=arrived_s: come(arrived_s))
    while due:
        clock[0], _, what = heapq.heappop(due)
        what()
    return sum(waits) / len(waits)


@pytest.mark.parametrize("within", [0.9, 1.3])
def test_a_step_of_demand_waits_as_it_does_at_two_golden_servers(within):
    """Half of what both carry, a step, half again: 4 places each, 1 s a request, by chance."""
    drawn, now_s, came = random.Random(5), 0.0, []
    while (now_s := now_s + drawn.expovariate(8 * (within if 60 <= now_s < 120 else 0.5))) < 180:
        came.append(now_s)
    tally, _ = played([(at_s, 1) for at_s in came], pods=2, until_s=1e6, wait_limit_s=1e6)
    real_s = waits_at_golden_servers(came, places=4, service_s=1.0)
    assert real_s > 0.01
    assert tally.waited_s / tally.begun == pytest.approx(real_s, rel=0.02)
