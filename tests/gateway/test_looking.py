"""How soon the agent knows: progress counts from when it was read, and a failed canary is looked at when it fails."""

from concurrent.futures import Future

import pytest

from gateway.agent.looking import Counted, Watched
from gateway.agent.verdict import Probe, Standing
from gateway.settings import Health, Server


def watched(woken: list[int]) -> Watched:
    server = Server(name="a", url=":1", model="m")
    return Watched(server, "model.m", Health(), None, clock=lambda: 200.0, woken=lambda: woken.append(1))  # type: ignore[arg-type]


def test_progress_is_dated_when_it_was_read_and_not_when_it_was_looked_at() -> None:
    # Read at 100.1 and looked at half a second later: a hang from 100.2 on must not seem to begin at 100.6.
    one = watched([])
    one._count(Counted(7.0, None, 99.0))
    one._count(Counted(8.0, None, 100.1))
    one._count(Counted(8.0, None, 101.7))
    assert one._progress_s() == 100.1


@pytest.mark.parametrize(
    ("standing", "failed", "times"),
    [
        (Standing(), "late", 1),
        (Standing(), "down", 1),
        (Standing(), None, 0),
        (Standing(out=True), "late", 0),  # it is asked once a second
        (Standing(kept="two canaries failed"), "down", 0),  # the last one: it would be asked without a pause
    ],
)
def test_a_failed_canary_is_looked_at_at_once_where_it_may_put_a_server_out(
    standing: Standing, failed: str | None, times: int
) -> None:
    woken: list[int] = []
    one = watched(woken)
    one.standing = standing
    asking: Future[Probe] = Future()
    asking.set_result(Probe(198.5, 200.0, failed))
    one._asked(asking)
    assert len(woken) == times
