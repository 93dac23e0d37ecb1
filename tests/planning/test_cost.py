"""Each formula of planning/cost/monthly.py against numbers worked out by hand."""

import math

import numpy as np
import pytest
from made_cases import made_case, made_price

from planning.cost import monthly
from planning.cost.assumptions import changed
from planning.cost.estimate import medians, utilization_curve


def month(case, price=None):
    return monthly.month(case, price or made_price(), medians(case))


def test_capital_recovery_is_an_annuity() -> None:
    # 1 % a month for 12 months: 0.01 / (1 − 1.01⁻¹²) = 0.0888488
    assert monthly.capital_recovery(0.12, 12) == pytest.approx(0.0888488, rel=1e-6)
    assert monthly.capital_recovery(0.0, 24) == pytest.approx(1 / 24)


def test_capital_recovery_takes_arrays_with_and_without_interest() -> None:
    got = monthly.capital_recovery(np.array([0.0, 0.12]), np.array([12.0, 12.0]))
    assert got == pytest.approx([1 / 12, 0.0888488], rel=1e-6)


def test_power_of_the_guide() -> None:
    assert monthly.power_usd(1.0, 720, 1.0, 350, 0, 0.12) == pytest.approx(30.24)


def test_power_weighs_load_and_idle_and_the_site() -> None:
    # half of 730 h at 400 W and half at 100 W are 182.5 kWh; ·1.5 ·0.20 $
    assert monthly.power_usd(1.5, 730, 0.5, 400, 100, 0.20) == pytest.approx(54.75)


def test_a_rented_4090_at_full_load_and_at_ten_million_tokens() -> None:
    made = month(made_case(tokens_per_month=10e6))
    assert made.own_usd == pytest.approx(316.80)  # 720 h · $0.44
    assert made.own_usd_per_mtok[monthly.FULL] == pytest.approx(0.2350, abs=1e-4)
    assert made.own_usd_per_mtok[monthly.ACTUAL] == pytest.approx(31.68)
    assert made.utilization == pytest.approx(0.0074, abs=1e-4)
    assert made.own_usd_per_mtok[monthly.ACTUAL] / made.own_usd_per_mtok[monthly.FULL] == pytest.approx(134.8, abs=0.1)


def test_the_basis_within_the_slo_divides_by_the_goodput() -> None:
    made = month(made_case(output_tok_s=500, slo_output_tok_s=200))
    assert made.own_usd_per_mtok[monthly.SLO] == pytest.approx(made.own_usd_per_mtok[monthly.FULL] * 2.5)


def test_no_slo_figure_no_slo_basis() -> None:
    assert monthly.SLO not in month(made_case()).own_usd_per_mtok


def test_goodput_cannot_pass_full_load() -> None:
    made = month(made_case(output_tok_s=100, slo_output_tok_s=500))
    assert made.own_usd_per_mtok[monthly.SLO] == pytest.approx(made.own_usd_per_mtok[monthly.FULL])


def test_speed_holds_for_the_mix_that_it_was_measured_at() -> None:
    requests = [{"input_tokens": 100, "output_tokens": 50}]
    case = made_case(requests=requests, output_tok_s=500, input_token_weight=0.1)
    # 10 requests a second of 100·0.1 + 50 = 60 units; requests of 500·0.1 + 20 = 70 units: 10 · 60 / 70
    longer = changed(case, {"request.input_tokens": 500, "request.output_tokens": 20})
    for one, rps in ((case, 10), (longer, 600 / 70)):
        fleet = month(one).fleet
        assert fleet.full_tokens == pytest.approx(rps * fleet.tokens_per_request * 720 * 3600)


def test_longer_prompts_never_raise_the_number_of_requests_served() -> None:
    case = made_case(requests=[{"input_tokens": 100, "output_tokens": 50}])
    served = [
        month(changed(case, {"request.input_tokens": tokens})).fleet.full_tokens / (tokens + 50)
        for tokens in (50, 100, 1000, 10_000)
    ]
    assert served == sorted(served, reverse=True)


def test_rent_by_discount_hours_gpus_and_spares() -> None:
    case = made_case(
        hosting={"gpus_per_replica": 2, "spare_replicas": 1},
        rent_usd_per_gpu_hour=1.0,
        rent_discount_share=0.25,
        hours_per_day=8,
    )
    # 240 h · $0.75 · 2 GPUs · (1 + 1 spare) = $720
    assert month(case).parts_usd["rent"] == pytest.approx(720)


def test_bought_hardware_by_parts() -> None:
    case = made_case(
        "buy",
        hosting={"spare_replicas": 1},
        hardware_usd=3000,
        residual_share=0.2,
        upkeep_usd_per_month=20,
        load_power_w=500,
        idle_power_w=100,
        electricity_usd_per_kwh=0.1,
        ops_hours_per_month=2,
        wage_usd_per_hour=50,
        storage_usd_per_month=7,
        output_tok_s=1e6 / 360,  # a tenth of 720 h is 720 M tokens
        tokens_per_month=720e6,
    )
    made = month(case)
    assert made.utilization == pytest.approx(0.05)  # two machines, one of them spare
    # 2 · 3000 · 0.8 / 24; 2 · 720 h · 100 W + 72 h · 400 W = 172.8 kWh; 2 · 20; 2 · 50; 7
    assert made.parts_usd == pytest.approx({"capital": 200, "power": 17.28, "upkeep": 40, "labour": 100, "storage": 7})
    assert made.own_usd == pytest.approx(364.28)
    assert sum(made.parts_usd.values()) == pytest.approx(made.own_usd)


def test_power_in_the_month_is_the_formula_of_power() -> None:
    case = made_case("buy", load_power_w=450, idle_power_w=50, electricity_usd_per_kwh=0.3, pue=1.2)
    made = month(case)
    assert made.parts_usd["power"] == pytest.approx(monthly.power_usd(1.2, 720, made.utilization, 450, 50, 0.3))


def test_replicas_are_steps_of_peak_over_goodput_and_headroom() -> None:
    # One replica: 100 output tok/s · 720 h = 259.2 M; of it 0.5 for headroom over a peak of 4: 32.4 M planned
    case = made_case(output_tok_s=100, headroom=0.5, peak_to_mean=4, tokens_per_month=64.8e6)
    assert month(case).fleet.planned_tokens == pytest.approx(32.4e6)
    assert month(case).replicas == 2
    assert month(made_case(output_tok_s=100, headroom=0.5, peak_to_mean=4, tokens_per_month=64.9e6)).replicas == 3


def test_a_demand_beyond_all_replicas_cannot_be_served() -> None:
    made = month(made_case(hosting={"max_replicas": 2}, output_tok_s=10, tokens_per_month=100e6))
    assert math.isinf(made.replicas)
    assert math.isinf(made.own_usd)


def test_lost_hours_are_paid_but_serve_nothing() -> None:
    full, lost = month(made_case()), month(made_case(lost_share=0.1))
    assert lost.own_usd == full.own_usd
    assert lost.fleet.full_tokens == pytest.approx(0.9 * full.fleet.full_tokens)


def test_the_api_month_of_the_guide() -> None:
    only_output = made_case(requests=[{"input_tokens": 0, "output_tokens": 100}])
    almost_only_input = made_case(requests=[{"input_tokens": 1e6, "output_tokens": 1}])
    assert month(only_output).api_usd == pytest.approx(100)
    assert month(almost_only_input).api_usd == pytest.approx(25, rel=1e-4)


def test_api_price_of_a_mix_with_cache_batch_and_discount() -> None:
    case = made_case(
        requests=[
            {"name": "chat", "weight": 3, "input_tokens": 1000, "output_tokens": 200, "cached_share": 0.5},
            {"name": "long", "weight": 1, "input_tokens": 4000, "output_tokens": 0.0001},
        ],
        batch_share=0.5,
        api_price_ratio=0.9,
    )
    price = made_price(2.0, 10.0, cache_usd=0.2, batch=0.5)
    # chat: 500·2 + 500·0.2 + 200·10 = 3100 µ$; by batch 1000·1 + 200·5 = 2000; half each: 2550. long: 8000, 4000: 6000
    expected = 0.9 * (0.75 * 2550 + 0.25 * 6000) / 1e6
    assert monthly.request_usd(case, price, medians(case)) == pytest.approx(expected, rel=1e-6)


def test_payback_counts_what_running_costs() -> None:
    assert monthly.payback_months(2850, 400, 50) == pytest.approx(8.142857)
    assert monthly.payback_months(2850, 293, 50) == pytest.approx(11.728395)
    assert math.isinf(monthly.payback_months(2850, 40, 50))
    assert monthly.payback_months(0, 400, 50) == 0


def test_the_month_pays_back_without_its_capital() -> None:
    case = made_case("buy", hardware_usd=2850, storage_usd_per_month=50, tokens_per_month=40e6)
    assert month(case).payback_months == pytest.approx(2850 / 350)  # 40 M output tokens cost $400 by API


def test_utilization_curve_falls_as_one_over_utilization_when_rented() -> None:
    (_, tenth), (_, full) = utilization_curve(made_case(), [0.1, 1.0])
    assert tenth.p50 == pytest.approx(10 * full.p50)
    assert full.p50 == pytest.approx(0.235043, rel=1e-5)
