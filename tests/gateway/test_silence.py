"""How long a server has been silent, look by look, with a clock and answers of the test's own."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from gateway.agent.looking import Counted, Watched
from gateway.agent.verdict import Probe, fault
from gateway.haproxy.runtime import Row
from gateway.settings import Health, Server

RULES = Health()  # looks every 0.5 s, canaries of 1.5 s


class Asked:
    """A server that is looked at every half second: what is asked of it waits until the test answers."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.open: dict[str, Future[Any]] = {}
        server = Server(name="a", url=":1", model="m")
        self.watched = Watched(server, "model.m", RULES, self, clock=lambda: self.now_s)  # type: ignore[arg-type]
        self.row = Row("model.m", "a", "UP", 100, 3, 10, 0, 0, 1000, "")

    def submit(self, what: Callable[[], Any]) -> Future[Any]:
        self.open[what.__name__] = Future()
        return self.open[what.__name__]

    def canary(self, failed: str | None) -> None:
        self.open.pop("_ask").set_result(Probe(self.now_s - 1.5, self.now_s, failed))

    def page(self, steps: float | None) -> None:
        self.open.pop("_steps").set_result(Counted(steps, None))

    def look(self, after_s: float = 0.5) -> float:
        self.now_s += after_s
        signs = self.watched.look(self.row)
        assert signs.silent_s == self.watched.silent_s
        return signs.silent_s


@pytest.fixture
def asked() -> Asked:
    one = Asked()
    one.look()
    one.canary(None)
    one.page(1.0)
    one.look()
    return one


def test_a_hang_is_seen_after_two_deadlines_of_silence(asked: Asked) -> None:
    assert [asked.look() for _ in range(2)] == [0.0, 0.5]  # the first of these asks
    asked.canary("late")
    asked.page(1.0)
    assert [asked.look() for _ in range(4)] == [1.0, 1.5, 2.0, 2.5]
    assert fault(asked.watched.look(asked.row), RULES) is None
    asked.look()
    assert fault(asked.watched.look(asked.row), RULES) == "hangs: no canary answered and no progress for 3.0 s"
    assert asked.watched.is_silent


def test_steps_end_a_silence_though_their_page_is_late(asked: Asked) -> None:
    for _ in range(6):
        asked.look()
    asked.canary("late")
    assert asked.look() == 3.0
    asked.page(2.0)  # asked for at the beginning
    assert asked.look() == 0.0
    assert not asked.watched.is_silent


def test_where_no_steps_are_counted_bytes_are_progress(asked: Asked) -> None:
    one = Asked()
    one.look()
    one.page(None)
    assert [one.look() for _ in range(2)] == [0.5, 1.0]
    one.row = Row("model.m", "a", "UP", 100, 3, 10, 0, 0, 2000, "")
    assert one.look() == 0.0
    assert one.look() == 0.5
    # Of an engine that counts its steps, bytes say nothing.
    asked.look()
    asked.row = one.row
    assert asked.look() == 0.5


def test_a_pause_of_our_own_is_no_silence_of_the_server(asked: Asked) -> None:
    asked.look()
    assert asked.look(after_s=30.0) == 1.0


def test_one_that_has_nothing_to_do_is_not_silent(asked: Asked) -> None:
    asked.row = Row("model.m", "a", "UP", 100, 0, 10, 0, 0, 1000, "")
    assert [asked.look() for _ in range(2)] == [0.0] * 2
    assert not asked.open


def test_a_refusal_is_an_answer(asked: Asked) -> None:
    for _ in range(4):
        asked.look()
    asked.canary("refused")
    assert asked.look() == 0.0


def test_a_first_failure_has_another_canary_follow_at_once(asked: Asked) -> None:
    asked.look()
    asked.canary("bad")
    assert asked.watched.failed.is_set()
    asked.watched.failed.clear()
    asked.look(after_s=0.01)
    asked.canary("bad")  # a second one has been waited for, and a third is in no hurry
    assert not asked.watched.failed.is_set()
