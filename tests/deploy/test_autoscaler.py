"""The autoscaler's arithmetic, worked by hand and by the examples of the Kubernetes documentation."""

import pytest

from deploy.scaling.autoscaler import Autoscaler, Direction, Memory, Metric, Policy, decide, proposal

TOTAL, AVERAGE = Metric("queue", "total", 5), Metric("load", "per_pod", 75)
AT_ONCE = Direction(0, (Policy("Percent", 100, 15), Policy("Pods", 100, 15)))
NOW = Direction(0, (Policy("Percent", 100, 15),))


@pytest.mark.parametrize(
    ("metric", "value", "replicas", "ready", "wanted"),
    [
        (AVERAGE, 90, 50, 50, 60),  # the documentation's: 50 × 90 / 75
        (AVERAGE, 82, 50, 50, 50),  # 1.093: within the tolerance
        (AVERAGE, 60, 50, 50, 40),
        (AVERAGE, 150, 2, 1, 2),  # twice as much on one, the other still starts: as if it were 75 each
        (AVERAGE, 300, 2, 1, 4),  # 300 and 0 are 150 each: twice two
        (AVERAGE, 30, 4, 2, 1),  # downwards those that start are left out: 2 × 30 / 75
        (TOTAL, 27, 2, 2, 6),  # ceil(27 / 5), whatever runs
        (TOTAL, 27, 2, 0, 6),
        (TOTAL, 10.4, 2, 2, 2),  # 1.04
        (TOTAL, 0, 3, 3, 0),  # an empty queue asks for none: what behaviour and minimum are for
    ],
)
def test_a_metric_proposes(metric, value, replicas, ready, wanted):
    assert proposal(metric, value, replicas, ready, 0.1) == wanted


def test_the_largest_proposal_counts_and_an_unknown_one_keeps_what_there_is():
    scaler = Autoscaler((TOTAL, AVERAGE), 1, 10, AT_ONCE, NOW)
    assert decide(scaler, Memory(), 0, 4, 4, {"queue": 0, "load": 150}) == 8
    assert decide(scaler, Memory(), 0, 4, 4, {"queue": 0, "load": None}) == 4
    assert decide(scaler, Memory(), 0, 4, 4, {"queue": 40, "load": None}) == 8
    assert decide(scaler, Memory(), 0, 4, 4, {"queue": 0, "load": 0}) == 1
    assert decide(scaler, Memory(), 0, 4, 4, {"queue": 500, "load": 0}) == 10
    assert decide(Autoscaler((TOTAL,), 1, 6, AT_ONCE, NOW), Memory(), 0, 4, 4, {"queue": 500}) == 6


def test_down_waits_until_the_whole_window_agrees():
    scaler = Autoscaler((TOTAL,), 1, 10, AT_ONCE, Direction(300, (Policy("Percent", 100, 15),)))
    memory = Memory()
    assert decide(scaler, memory, 0, 4, 4, {"queue": 20}) == 4
    for now_s in range(15, 300, 15):
        assert decide(scaler, memory, now_s, 4, 4, {"queue": 5}) == 4, now_s
    assert decide(scaler, memory, 300, 4, 4, {"queue": 5}) == 1  # the 20 are 300 s old


def test_up_waits_too_when_it_is_told_to():
    slow = Direction(60, (Policy("Pods", 10, 15),))
    memory = Memory()
    scaler = Autoscaler((TOTAL,), 1, 10, slow, NOW)
    assert decide(scaler, memory, 0, 2, 2, {"queue": 10}) == 2
    assert decide(scaler, memory, 15, 2, 2, {"queue": 40}) == 2
    assert decide(scaler, memory, 60, 2, 2, {"queue": 40}) == 8


def followed(scaler: Autoscaler, replicas: int, value: float, seconds: int) -> list[int]:
    memory, found = Memory(), []
    for now_s in range(0, seconds, 15):
        replicas = decide(scaler, memory, now_s, replicas, replicas, {"queue": value})
        found.append(replicas)
    return found


def test_the_guide_halves_every_minute_and_ours_takes_one_in_three():
    guide = Autoscaler((TOTAL,), 1, 10, AT_ONCE, Direction(0, (Policy("Percent", 50, 60),)))
    assert followed(guide, 10, 0, 240) == [5] * 4 + [2] * 4 + [1] * 8
    ours = Autoscaler((TOTAL,), 1, 10, AT_ONCE, Direction(0, (Policy("Pods", 1, 180),)))
    assert followed(ours, 10, 0, 540) == [9] * 12 + [8] * 12 + [7] * 12


def test_policies_limit_the_way_up():
    both = Direction(0, (Policy("Percent", 100, 30), Policy("Pods", 2, 30)))
    assert followed(Autoscaler((TOTAL,), 1, 50, both, NOW), 1, 250, 120) == [3, 3, 6, 6, 12, 12, 24, 24]
    least = Direction(0, both.policies, "Min")
    assert followed(Autoscaler((TOTAL,), 1, 50, least, NOW), 1, 250, 60) == [2, 2, 4, 4]
    off = Direction(0, both.policies, "Disabled")
    assert followed(Autoscaler((TOTAL,), 1, 50, off, off), 3, 250, 30) == [3, 3]
