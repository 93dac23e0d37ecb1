"""From a run's cells to speeds: full load, goodput, the split of input and output, and a case that uses them."""

from typing import Any

import pytest
from made_cases import made_case

from planning.catalogs import load
from planning.cost import monthly
from planning.cost.assembly import assemble
from planning.cost.assumptions import EXAMPLE, Case, read_document
from planning.cost.estimate import medians
from planning.cost.measured import mixes, split, with_run
from planning.errors import MissingMeasurement, UnknownName


def cell(
    engine: str, load: str, rps: float, tokens: tuple[int, int] = (100, 50), repeat: int = 1, **other: Any
) -> dict[str, Any]:
    metrics = {
        "requests": {"ok": 10, "total": 10},
        "request_throughput_rps": rps,
        "goodput_rps": other.get("goodput"),
        "slo": {"ttft_s": 0.5} if other.get("goodput") is not None else None,
        "prompt_tokens": 10 * tokens[0],
        "output_tokens": 10 * tokens[1],
    }
    return {
        "id": f"{engine}-{load}-r{repeat}",
        "engine": {"name": engine, "model": "demo-100m"},
        "load": {
            "name": load,
            "scenario": "completion",
            "prompt_tokens": {"mean": tokens[0]},
            "output_tokens": {"mean": tokens[1]},
        },
        "repeat": repeat,
        "outcome": other.get("outcome", "ok"),
        "validity": {"valid": other.get("valid", True)},
        "metrics": metrics,
    }


def run(*cells: dict[str, Any], gpus: Any = ()) -> dict[str, Any]:
    return {
        "run_id": "the-run",
        "created": "2026-11-20T10:00:00Z",
        "environment": {"gpus": list(gpus)},
        "cells": list(cells),
    }


def test_full_load_is_the_load_with_the_most_requests_and_goodput_the_best_of_all() -> None:
    (found,) = mixes(
        [cell("a", "c1", 1.0, goodput=1.0), cell("a", "c8", 4.0, goodput=3.8), cell("a", "c64", 5.0, goodput=0.5)]
    )
    assert (found.load, found.rps) == ("c64", (5.0,))
    assert (found.goodput_load, found.goodput_rps) == ("c8", (3.8,))
    assert (found.input_tokens, found.output_tokens) == (100, 50)
    assert found.slo == "ttft_s ≤ 0.5"


def test_failed_and_invalid_cells_say_nothing() -> None:
    cells = [cell("a", "c1", 9.0, outcome="oom"), cell("a", "c2", 8.0, valid=False), cell("a", "c4", 1.0)]
    assert [mix.load for mix in mixes(cells)] == ["c4"]


def test_the_split_of_two_mixes_is_exact() -> None:
    # 1 ms an input token and 10 ms an output token: 100+50 takes 0.6 s, 1000+10 takes 1.1 s
    found = split(mixes([cell("a", "x", 1 / 0.6, (100, 50)), cell("a", "y", 1 / 1.1, (1000, 10))]))
    assert found.seconds_per_input_token == pytest.approx(1e-3)
    assert found.seconds_per_output_token == pytest.approx(1e-2)
    assert found.misfit == pytest.approx(0, abs=1e-9)
    assert found.rps(500, 20) == pytest.approx(1 / 0.7)
    # $3.60 an hour is 0.1 ¢ a second: a million input tokens take 1,000 s, as many output tokens 10,000 s
    assert found.usd_per_mtok(3.6) == pytest.approx((1.0, 10.0))


def test_three_mixes_are_fitted_and_the_misfit_is_said() -> None:
    cells = [
        cell("a", "x", 1 / 0.6, (100, 50)),
        cell("a", "y", 1 / 1.1, (1000, 10)),
        cell("a", "z", 1 / 2.0, (500, 100)),
    ]
    found = split(mixes(cells))
    assert found.mixes == 3
    assert 0.05 < found.misfit < 0.3


def test_no_token_takes_negative_time() -> None:
    # More input in less time: the output explains it all. a = 0; b by least squares through both.
    found = split(mixes([cell("a", "x", 1 / 0.5, (10, 50)), cell("a", "y", 1 / 0.4, (1000, 50))]))
    assert found.seconds_per_input_token == 0
    # rates of output: 100 and 125 tok/s; b = (100 + 125) / (100² + 125²)
    assert found.seconds_per_output_token == pytest.approx(225 / 25625)


@pytest.mark.parametrize("second", [(100, 50), (110, 50)])
def test_one_mix_or_two_alike_cannot_be_split(second: tuple[int, int]) -> None:
    with pytest.raises(MissingMeasurement, match="different mixes"):
        split(mixes([cell("a", "x", 2.0, (100, 50)), cell("a", "y", 2.0, second)]))


def test_a_case_takes_speed_mix_and_goodput_of_the_fastest_engine() -> None:
    document = run(
        cell("slow", "c8", 2.0),
        cell("fast", "c8", 4.0, repeat=1, goodput=3.8),
        cell("fast", "c8", 5.0, repeat=2, goodput=4.6),
        cell("fast", "c8", 4.4, repeat=3, goodput=4.0),
    )
    case = with_run(made_case(), document)
    speed, goodput = case.inputs["output_tok_s"], case.inputs["slo_output_tok_s"]
    assert (speed.low, speed.mode, speed.high) == pytest.approx((200, 220, 250))
    assert (goodput.low, goodput.mode, goodput.high) == pytest.approx((190, 200, 230))
    assert "range of 3 repeats" in speed.source
    assert str(speed.date) == "2026-11-20"
    assert "ttft_s ≤ 0.5" in goodput.source
    assert (case.requests[0].input_tokens.mode, case.requests[0].output_tokens.mode) == (100, 50)
    assert case.hosting.model == "demo-100m"
    assert any("without a GPU" in note for note in case.notes)


def test_one_repeat_has_an_assumed_range_and_says_so() -> None:
    speed = with_run(made_case(), run(cell("a", "c8", 4.0), gpus=[{"name": "X"}])).inputs["output_tok_s"]
    assert (speed.low, speed.mode, speed.high) == pytest.approx((180, 200, 220))
    assert "one repeat, ±10% assumed" in speed.source


def test_a_named_engine_and_an_unknown_one() -> None:
    document = run(cell("slow", "c8", 2.0), cell("fast", "c8", 4.0))
    assert with_run(made_case(), document, engine="slow").inputs["output_tok_s"].mode == 100
    with pytest.raises(UnknownName, match="Did you mean fast"):
        with_run(made_case(), document, engine="fsat")


def served_rps(case: Case) -> float:
    """Requests a second at full load for the case's own requests."""
    fleet = monthly.fleet_of(case, medians(case))
    return float(fleet.full_tokens / fleet.tokens_per_request / (720 * 3600))


def test_the_cases_own_mix_is_worked_out_from_two_others() -> None:
    # 1 ms an input token and 10 ms an output token: 500 + 20 take 0.7 s
    case = made_case(requests=[{"name": "chat", "input_tokens": 500, "output_tokens": 20}])
    document = run(cell("a", "x", 1 / 0.6, (100, 50)), cell("a", "y", 1 / 1.1, (1000, 10)))
    found = with_run(case, document, keep_mix=True)
    assert found.inputs["input_token_weight"].mode == pytest.approx(0.1)
    assert "least squares over 2 mixes" in found.inputs["input_token_weight"].source
    assert served_rps(found) == pytest.approx(1 / 0.7)
    assert found.requests[0].name == "chat"
    assert not any("not measured" in note for note in found.notes)


def test_the_cases_own_mix_measured_is_taken_as_it_is() -> None:
    case = made_case(requests=[{"input_tokens": 100, "output_tokens": 50}])
    found = with_run(case, run(cell("a", "x", 2.0)), keep_mix=True)
    assert served_rps(found) == pytest.approx(2.0)
    assert not any("not measured" in note for note in found.notes)


def test_another_mix_than_the_only_one_measured_rests_on_an_assumed_weight_and_says_so() -> None:
    # Made cases assume a weight of 0.1: 100 + 50 are worth 60 output tokens, 5000 + 50 are 550
    case = made_case(requests=[{"input_tokens": 5000, "output_tokens": 50}])
    found = with_run(case, run(cell("a", "x", 2.0)), keep_mix=True)
    assert served_rps(found) == pytest.approx(2.0 * 60 / 550)
    assert any("Requests of 5000 input and 50 output tokens were not measured" in note for note in found.notes)


def test_a_run_without_throughput_or_goodput_is_refused() -> None:
    with pytest.raises(MissingMeasurement, match="no valid cell"):
        with_run(made_case(), run(cell("a", "x", 2.0, outcome="failed")))
    with pytest.raises(MissingMeasurement, match="nine in ten requests at no load"):
        with_run(made_case(), run(cell("a", "x", 2.0, goodput=1.5)))


def test_a_run_is_priced_by_the_gpu_it_was_made_on_and_all_that_the_engine_was_spread_over() -> None:
    document = run(cell("a", "x", 2.0), gpus=[{"name": "NVIDIA H100 80GB HBM3"}])
    document["cells"][0]["engine"] |= {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    case = assemble(read_document(None), source=EXAMPLE, catalog=load(), run=document)
    assert (case.hosting.gpu, case.hosting.gpus_per_replica) == ("h100-80gb", 4)
    assert case.inputs["rent_usd_per_gpu_hour"].mode == load().gpu("h100-80gb").rent_usd_per_hour.mode
    own = assemble(
        read_document(None), source=EXAMPLE, catalog=load(), run=document, values={"rent_usd_per_gpu_hour": 5.0}
    )
    assert own.inputs["rent_usd_per_gpu_hour"].mode == 5


def test_a_run_on_a_gpu_without_a_price_says_that_the_price_is_anothers() -> None:
    document = run(cell("a", "x", 2.0), gpus=[{"name": "Quux 9000"}])
    case = assemble(read_document(None), source=EXAMPLE, catalog=load(), run=document)
    assert case.hosting.gpu is None
    assert any("no Quux 9000" in note for note in case.notes)
