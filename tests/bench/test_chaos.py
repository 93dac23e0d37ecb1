"""What the users of a fault got, counted by hand."""

from bench.studies.chaos.load import Asked, summary
from bench.studies.chaos.study import table


def asked(outcome: str, why: str | None = None, first_s: float | None = None) -> Asked:
    return Asked("id", True, 100.0, 101.0, outcome, why, first_s)


def test_outcomes_are_counted_with_their_reasons() -> None:
    seen = [
        asked("answered", first_s=100.25),
        asked("answered", first_s=103.5),
        asked("cut", "RemoteProtocolError", 109.0),  # its first token says nothing of how long answers took
        asked("failed", "HTTP 503"),
        asked("failed", "HTTP 503"),
    ]
    assert summary(seen) == {
        "requests": 5,
        "failed": 2,
        "cut": 1,
        "why": {"cut: RemoteProtocolError": 1, "failed: HTTP 503": 2},
        "slowest_first_s": 3.5,
    }
    assert summary([])["slowest_first_s"] is None


def test_what_is_not_known_is_a_dash() -> None:
    case = {"fault": "hang", "door": "gateway", "requests": 9, "failed": 0, "cut": 1, "retried": None, "doubled": 2}
    times = {"slowest_first_s": 3.04, "out_after_s": None, "back_after_s": 4.0}
    row = table({"cases": [{**case, **times}]}).splitlines()[2]
    assert row == "| hang | gateway | 9 | 0 | 1 | – | 2 | 3.0 s | – | 4.0 s |"
