"""Who is in and who is out, by worked cases: instants in seconds of a clock of the test's own."""

from dataclasses import replace

from gateway.agent.verdict import Probe, Signs, Standing, answer, budget_is_spent, fault, is_busy, percent, step
from gateway.settings import Health

RULES = Health(backoff_s=2, backoff_max_s=8, slow_start_s=10)
IN = Standing()


def probes(*failed: str | None, start_s: float = 100.0, reason: str | None = None) -> tuple[Probe, ...]:
    """Probes one after the other, each taking 1.5 s."""
    return tuple(
        Probe(start_s + 1.5 * n, start_s + 1.5 * n + 1.5, one, reason if one else None) for n, one in enumerate(failed)
    )


def test_a_single_missed_probe_moves_nothing() -> None:
    for kind in ("down", "error", "bad"):
        assert fault(Signs(probes(None, kind)), RULES) is None
        assert fault(Signs(probes(kind)), RULES) is None
        assert fault(Signs(probes(kind, kind)), RULES) == f"two canaries failed: {kind}"
    assert fault(Signs(probes("late"), silent_s=1.5), RULES) is None


def test_a_hang_is_silence_for_two_canaries() -> None:
    hung = Signs(probes("late"), silent_s=3.0)  # the second one is still on its way
    assert fault(hung, RULES) == "hangs: no canary answered and no progress for 3.0 s"
    assert step(IN, hung, 103, RULES, is_last=False).hangs
    assert not step(IN, Signs(probes("down", "down")), 103, RULES, is_last=False).hangs


def test_busy_is_not_dead() -> None:
    moved = Signs(probes("late", "late"), silent_s=2.5)
    assert fault(moved, RULES) is None
    assert is_busy(moved)
    # What refuses connections is not busy, whatever has moved.
    assert fault(Signs(probes("down", "down"), silent_s=0.0), RULES) is not None


def test_a_silence_of_all_is_the_machines() -> None:
    shared = Signs(probes("late", "late"), silent_s=5.5, others_silent=True)
    assert fault(shared, RULES) is None
    assert fault(replace(shared, others_silent=False), RULES) is not None
    assert fault(replace(shared, silent_s=6.0), RULES) is not None


def test_what_haproxy_cannot_connect_to_is_out_until_its_canaries_are_answered() -> None:
    out = step(IN, Signs(probes(None, None), unconnected="L4CON"), 103, RULES, is_last=False)
    assert out.reason == "HAProxy's check fails: L4CON"
    answered = Signs(probes(None, None, start_s=104), unconnected="L4CON")
    assert step(out, answered, 107, RULES, is_last=False).out
    assert not step(out, replace(answered, unconnected=None), 107, RULES, is_last=False).out


def test_refusals_that_a_user_would_get_too() -> None:
    assert fault(Signs(probes("refused", "refused", reason="HTTP 404: no such model")), RULES) is not None
    assert fault(Signs(probes("refused", "refused", reason="HTTP 401")), RULES) is not None
    assert fault(Signs(probes("refused", "refused", reason="HTTP 400: too short")), RULES) is None


def test_failed_requests_need_a_few_to_say_something() -> None:
    assert fault(Signs(attempts=4, failures=4), RULES) is None
    assert fault(Signs(attempts=6, failures=3), RULES) is None  # half is not more than half
    assert fault(Signs(attempts=6, failures=4), RULES) == "4 of 6 requests failed in 2 s"


def test_out_and_back() -> None:
    bad, good = Signs(probes("down", "down")), Signs(probes(None, None, start_s=104))
    out = step(IN, bad, 103, RULES, is_last=False)
    assert (out.out, out.since_s, out.until_s, out.ejections) == (True, 103, 105, 1)
    assert step(out, good, 104.5, RULES, is_last=False) == out  # its back-off is not over
    # One good canary, or two of which one was sent before it went out, are not enough.
    assert step(out, Signs(probes("down", None, start_s=104)), 107, RULES, is_last=False).out
    assert step(out, Signs(probes(None, None, start_s=102)), 107, RULES, is_last=False).out
    back = step(out, good, 107, RULES, is_last=False)
    assert (back.out, back.returned_s, back.ejections) == (False, 107, 1)


def test_the_back_off_grows_to_a_cap_and_is_forgiven() -> None:
    bad = Signs(probes("down", "down"))
    waits = []
    now = IN
    for _ in range(5):
        now = step(replace(now, out=False), bad, 103, RULES, is_last=False)
        waits.append(now.until_s - 103)
    assert waits == [2, 4, 8, 8, 8]
    back = replace(now, out=False, since_s=110.0)
    assert step(back, Signs(), 117, RULES, is_last=False).ejections == 5
    assert step(back, Signs(), 118, RULES, is_last=False).ejections == 0


def test_the_last_one_stays() -> None:
    bad = Signs(probes("late", "late"), silent_s=3.0)
    kept = step(IN, bad, 103, RULES, is_last=True)
    assert not kept.out
    assert kept.kept is not None
    assert step(kept, bad, 104, RULES, is_last=False).out  # as soon as another one is well
    out = Standing(True, "r", 103, 110, 1)
    assert step(out, bad, 104, RULES, is_last=True).out  # another takes requests, be it ill
    assert not step(out, bad, 104, RULES, is_last=True, is_alone=True).out


def test_slow_start_and_shares() -> None:
    back = Standing(returned_s=100)
    assert [percent(back, at_s, RULES) for at_s in (100, 105, 110, 200)] == [10, 55, 100, 100]
    assert percent(back, 105, RULES, share=0.5) == 28
    assert percent(IN, 0, RULES, share=0.001) == 1  # 0 % would be a drain
    assert percent(back, 100, replace_slow_start(0)) == 100


def replace_slow_start(seconds: float) -> Health:
    return Health(slow_start_s=seconds)


def test_words_for_haproxy() -> None:
    assert answer(IN, 0, RULES) == "ready up 100%"
    assert answer(IN, 0, RULES, drained=True) == "drain up"
    out = Standing(True, "hangs: näh # and\nmore", 0, 2, 1)
    assert answer(out, 1, RULES) == "ready down #hangs: n?h ? and?more"


def test_the_retry_budget() -> None:
    calm, bad = (0, 100), (30, 130)  # 30 of 100 first attempts were repeated
    assert budget_is_spent([bad, bad], 0.2)
    assert not budget_is_spent([bad, bad], 0.3)  # 0.3 is not more than 0.3
    assert not budget_is_spent([bad, calm], 0.2)  # a server that is just being ejected
    assert not budget_is_spent([bad], 0.2)
    assert not budget_is_spent([(0, 0), (0, 0)], 0.2)
