"""The study of the simulation against servers: its sums by hand, and what it asks for."""

import pytest

from bench.plans.plan import expand
from bench.studies.scaling import CASES, closed, stepped, summary, table


def made(measured_s: float, *simulated_s: float) -> dict:
    facts = {"case": "golden-over", "requests": 100, "replica_rps": 4.0, "planned_s": [1.0, 3.0]}
    return {**facts, "measured_s": measured_s, "simulated_s": list(simulated_s)}


def test_rounds_are_averaged_and_each_is_shown() -> None:
    rows = summary([made(2.0, 2.2, 2.4), made(4.0, 3.7)])
    (row,) = rows
    assert (row["measured_s"], row["simulated_s"]) == (3.0, 3.0)
    assert (row["off"], row["off_each"]) == (0, [pytest.approx(0.15), pytest.approx(-0.075)])
    text = table({"summary": rows})
    assert "| 50% → 130% → 50% | 2 | 200 | 3 s | 3 s | +0.0% | +15.0%, -7.5% | 2 s (1 to 3) |" in text
    assert "Within 10%: golden-over yes." in text
    assert "golden-over NO" in table({"summary": summary([made(2.0, 2.3)])})


def test_what_is_asked_of_the_servers_is_a_plan(tmp_path) -> None:
    import tomllib

    for case in CASES.values():
        plan = expand(tomllib.loads(closed(case, 10)), source="study", remote=True)
        assert [(load.concurrency, load.requests) for load in plan.loads] == [(1, 10), (2, 20), (4, 40)]
        (step,) = expand(tomllib.loads(stepped(case, (4, 10.4, 4), 60, 7)), source="study", remote=True).loads
        assert (step.rates_rps, step.seconds, step.seed) == ((4, 10.4, 4), 180, 7)
