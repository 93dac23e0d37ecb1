from typing import Any

import pytest

from planning.errors import BadInput, MissingMeasurement
from planning.speed.capacity import Demand, attainment, curve_replicas, goodputs, of_curve, of_month, replicas


def cell(engine: str, users: int, goodput: float | None, *, rate: float = 10.0, **changes: Any) -> dict[str, Any]:
    metrics = {
        "requests": {"ok": 20, "total": 20},
        "goodput_rps": goodput,
        "request_throughput_rps": rate,
        "output_throughput_tok_s": 100.0,
        "prompt_tokens": 2000,
        "output_tokens": 1000,
        "slo": {"ttft_s": 0.5},
    }
    return {
        "id": f"{engine}-c{users}-r{changes.get('repeat', 1)}",
        "engine": {"name": engine},
        "load": {"name": f"c{users}", "concurrency": users},
        "outcome": "ok",
        "validity": {"valid": True},
        "metrics": metrics,
        **changes,
    }


def test_replicas_by_hand() -> None:
    # 100 requests/s at 8 a server, planning with 70 %: 100 / 5.6 = 17.9, so 18 and one spare.
    made = replicas(100, 8, headroom=0.7, spares=1)
    assert (made.needed, made.total) == (18, 19)
    assert made.load_at_peak == pytest.approx(100 / (19 * 8))
    assert made.load_with_one_down == pytest.approx(100 / (18 * 8))


def test_an_exact_ratio_needs_no_server_more() -> None:
    assert replicas(7, 2, headroom=0.7).needed == 5  # 7 / 2 / 0.7 is 5, and 5.000000000000001 in floating point
    assert replicas(1, 100, headroom=1.0, spares=0).total == 1


def test_a_single_server_has_none_to_lose() -> None:
    assert replicas(1, 2, headroom=1.0, spares=0).load_with_one_down is None


@pytest.mark.parametrize(
    ("peak", "goodput", "changes", "said"),
    [
        (0, 1, {}, "peak_rps"),
        (float("inf"), 1, {}, "peak_rps"),
        (1, 0, {}, "goodput_rps"),
        (1, 1, {"headroom": 0}, "headroom"),
        (1, 1, {"headroom": 1.5}, "headroom"),
        (1, 1, {"spares": -1}, "spares"),
    ],
)
def test_impossible_demands_are_refused(peak: float, goodput: float, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        replicas(peak, goodput, **changes)


def test_demand_of_a_month_and_of_a_curve() -> None:
    month = of_month(730 * 3600, peak_to_mean=4)
    assert (month.mean_rps, month.peak_rps) == (1.0, 4.0)
    day = of_curve([1, 1, 4, 2])
    assert (day.mean_rps, day.peak_rps, day.peak_to_mean) == (2.0, 4.0, 2.0)
    assert curve_replicas([0, 1, 4, 2], 1, headroom=0.5, spares=1) == [2, 3, 9, 5]


@pytest.mark.parametrize("rates", [[], [1, -1], [0, 0]])
def test_a_demand_is_positive(rates: list[float]) -> None:
    with pytest.raises(BadInput):
        of_curve(rates)


def test_a_peak_is_not_below_its_mean() -> None:
    with pytest.raises(BadInput, match="peak_to_mean"):
        of_month(1000, peak_to_mean=0.5)
    with pytest.raises(BadInput, match="peak"):
        Demand(mean_rps=2, peak_rps=1)


def test_the_best_load_that_holds_the_slo_counts() -> None:
    cells = [
        cell("a", 1, 2.0, rate=2.0),
        cell("a", 4, 6.0, rate=6.2),  # 97 % met the SLO
        cell("a", 16, 7.0, rate=12.0),  # most did not
        cell("b", 4, 3.0, rate=3.0),
    ]
    a, b = goodputs(cells)
    assert (a.engine, a.cell_id, a.goodput_rps, a.highest_measured) == ("a", "a-c4-r1", 6.0, False)
    assert a.attainment == pytest.approx(6 / 6.2)
    assert a.request_tokens == (100.0, 50.0)
    assert (b.cell_id, b.highest_measured) == ("b-c4-r1", True)  # it may carry more than was tried


def test_of_repeats_the_least_counts_and_failures_lower_it() -> None:
    cells = [cell("a", 4, 6.0, rate=6.0), cell("a", 4, 5.0, rate=5.0, repeat=2)]
    assert goodputs(cells)[0].cell_id == "a-c4-r2"
    failing = cell("a", 4, 6.0, rate=6.0)
    failing["metrics"]["requests"] = {"ok": 10, "total": 20}
    assert goodputs([failing]) == []


def test_invalid_cells_and_runs_without_an_slo_give_no_goodput() -> None:
    invalid = cell("a", 4, 6.0, validity={"valid": False})
    with pytest.raises(MissingMeasurement, match=r"\[slo\]"):
        goodputs([invalid, cell("a", 1, None)])
    with pytest.raises(MissingMeasurement):
        goodputs([])


def test_a_cell_without_goodput_says_nothing_of_who_met_the_slo() -> None:
    requests = {"ok": 10, "total": 10}
    assert attainment({"metrics": {"request_throughput_rps": 2.0, "goodput_rps": None, "requests": requests}}) is None
    assert attainment({"metrics": {"request_throughput_rps": 2.0, "goodput_rps": 0.0, "requests": requests}}) == 0.0
    assert attainment({"metrics": {"request_throughput_rps": None, "goodput_rps": 1.0, "requests": requests}}) is None
