from typing import Any

import pytest

from planning.catalogs import GIB, Catalog, load
from planning.choice.candidates import Candidate, from_catalog, from_run, servers
from planning.choice.selection import Requirements, judge, select
from planning.errors import BadInput


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def candidate(model: str = "m", **known: Any) -> Candidate:
    given = {"quantization": "none", "gpu": "l4", "gpus": 1, "source": "run x", "measured": True, **known}
    return Candidate(model=model, **given)


def run_document(**metrics: Any) -> dict[str, Any]:
    measured = {
        "ttft_s": {"p50": 0.2, "p95": 0.4},
        "tpot_s": {"p50": 0.02},
        "e2e_s": {"mean": 3.0},
        "output_throughput_tok_s": 100.0,
        "requests": {"ok": 20, "total": 20},
        "request_throughput_rps": 2.1,
        "goodput_rps": 2.0,
        "memory": {"gpu_used_peak_bytes": 20 * GIB},
        **metrics,
    }
    cells = [
        {
            "id": f"int8-c4-r{repeat}",
            "engine": {"name": "int8", "model": "qwen2.5-7b", "quantization": "int8"},
            "load": {"name": "c4", "concurrency": 4},
            "outcome": "ok",
            "validity": {"valid": valid},
            "metrics": {**measured, "output_throughput_tok_s": rate},
        }
        for repeat, rate, valid in ((1, 110.0, True), (2, 100.0, True), (3, 10.0, False))
    ]
    return {"run_id": "r", "cells": cells}


def test_every_limit_has_its_reason() -> None:
    one = candidate(
        ttft_s=0.6,
        tpot_s=0.06,
        e2e_s=5.0,
        output_tok_s=50.0,
        quality=0.6,
        quality_class="high",
        languages=("en",),
        licence_class="community",
        context_tokens=4096,
        memory_bytes=30 * GIB,
        usd_per_hour=2.0,
        usd_per_mtok=11.0,
    )
    asked = Requirements(
        max_ttft_s=0.5,
        max_tpot_s=0.05,
        max_e2e_s=4.0,
        min_output_tok_s=80.0,
        min_quality=0.7,
        languages=("zh", "en"),
        licence_classes=("permissive",),
        min_context_tokens=8192,
        max_memory_bytes=24 * GIB,
        max_usd_per_hour=1.0,
        max_usd_per_mtok=10.0,
    )
    assert judge(one, asked).reasons == (
        "TTFT is 600 ms, above the limit of 500 ms",
        "TPOT is 60 ms, above the limit of 50 ms",
        "time of an answer is 5 s, above the limit of 4 s",
        "rent per million output tokens is $11.00, above the limit of $10.00",
        "gives 50 tok/s, not the 80 required",
        "rent per hour is $2.00, above the limit of $1.00",
        "GPU memory is 30 GiB, above the limit of 24 GiB",
        "quality is 0.60, below 0.7",
        "does not claim the language zh (its languages: en)",
        "licence is community, not permissive",
        "context is 4,096 tokens, below 8,192",
    )
    assert judge(one, Requirements()).reasons == ()


def test_what_is_required_and_not_known_is_a_reason() -> None:
    asked = Requirements(max_ttft_s=1, min_output_tok_s=1, min_quality="high", languages=("en",), min_context_tokens=1)
    reasons = judge(candidate(), asked).reasons
    assert len(reasons) == 5
    assert all("not known" in reason for reason in reasons)


def test_a_bound_can_reject_but_not_prove() -> None:
    asked = Requirements(max_tpot_s=0.05, min_output_tok_s=80)
    fast = judge(candidate(measured=False, tpot_s=0.01, output_tok_s=100.0), asked)
    assert (fast.reasons, len(fast.unproven)) == ((), 2)
    slow = judge(candidate(measured=False, tpot_s=0.06, output_tok_s=60.0), asked)
    assert slow.reasons == (
        "TPOT is 60 ms at best, above the limit of 50 ms",
        "gives 60 tok/s at best, not the 80 required",
    )


def test_measured_ones_come_first_then_as_preferred() -> None:
    some = [
        candidate("bound", measured=False, tpot_s=0.01, usd_per_hour=0.1, quality=0.9),
        candidate("cheap", tpot_s=0.04, usd_per_hour=0.5, quality=0.6),
        candidate("fast", tpot_s=0.02, usd_per_hour=0.9, quality=0.7),
        candidate("unpriced", tpot_s=0.03, quality=0.8),
    ]

    def order(prefer: Any) -> list[str]:
        made = select(some, Requirements(max_tpot_s=0.05, prefer=prefer))
        assert made.rejected == ()
        return [one.candidate.model for one in made.accepted]

    assert order("cost") == ["cheap", "fast", "unpriced", "bound"]
    assert order("latency") == ["fast", "unpriced", "cheap", "bound"]
    assert order("quality") == ["unpriced", "fast", "cheap", "bound"]


def test_nothing_left_is_no_choice() -> None:
    made = select([candidate(tpot_s=1.0)], Requirements(max_tpot_s=0.05))
    assert made.chosen is None
    assert len(made.rejected) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"max_ttft_s": 0}, {"max_usd_per_hour": -1}, {"min_quality": "superb"}, {"min_quality": 70}, {"prefer": "luck"}],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Requirements(**wrong)


def test_chinese_on_one_4090_takes_qwen(catalog: Catalog) -> None:
    some = from_catalog(catalog, gpus=[(catalog.gpu("rtx-4090"), 1)])
    made = select(some, Requirements(languages=("zh",), max_tpot_s=0.02))
    assert {one.candidate.model for one in made.accepted} == {"qwen2.5-7b", "qwen2.5-14b"}
    reasons = {one.candidate.name: one.reasons for one in made.rejected}
    assert "does not claim the language zh" in reasons["mistral-7b-v0.3 on 1 × rtx-4090"][0]
    assert "The weights alone" in reasons["deepseek-v2 on 1 × rtx-4090"][0]


def test_quality_falls_with_quantization_as_the_guide_says(catalog: Catalog) -> None:
    some = from_catalog(catalog, gpus=[(catalog.gpu("h200"), 1)], models=["llama-3.1-8b"])
    quality = {one.quantization: one.quality for one in some}
    assert quality == {"none": 0.667, "w8a8-int8": pytest.approx(0.667 * 0.99), "w4a16": pytest.approx(0.667 * 0.96)}


def test_a_division_that_vllm_refuses_is_a_reason(catalog: Catalog) -> None:
    (one,) = from_catalog(catalog, gpus=[(catalog.gpu("l4"), 8)], models=["qwen2.5-7b"], quantizations=["none"])
    assert "28 attention heads" in judge(one, Requirements()).reasons[0]


def test_the_memory_of_a_candidate_is_weights_overheads_and_cache(catalog: Catalog) -> None:
    (one,) = from_catalog(catalog, gpus=[(catalog.gpu("l40s"), 1)], models=["llama-3.1-8b"], quantizations=["none"])
    assert one.memory_bytes is not None
    assert 16.06e9 + 1280 * 131072 < one.memory_bytes < 20e9


def test_a_runs_engines_are_candidates_as_measured(catalog: Catalog) -> None:
    (one,) = from_run(run_document(), catalog, catalog.gpu("rtx-4090"))
    assert (one.measured, one.source) == (True, "run r, int8-c4-r2")  # the slower valid repeat
    assert (one.ttft_s, one.tpot_s, one.e2e_s) == (0.4, 0.02, 3.0)  # p95, else the median, else the mean
    assert one.usd_per_mtok == pytest.approx(0.44 / 3600 / 100 * 1e6)
    assert one.quantization == "w8a8-int8"
    assert one.languages is not None
    assert servers(one, 10, headroom=0.5) == 11  # 10 / 2 / 0.5 = 10, and a spare
    assert servers(candidate(), 10) is None


def test_a_load_that_mostly_misses_the_slo_has_no_goodput_to_plan_with(catalog: Catalog) -> None:
    (one,) = from_run(run_document(request_throughput_rps=4.0), catalog, None)
    assert one.goodput_rps is None


def test_a_run_without_a_gpu_has_no_rent_and_an_unknown_model_no_facts(catalog: Catalog) -> None:
    document = run_document()
    for cell in document["cells"]:
        cell["engine"]["model"] = "/models/mine"
    (one,) = from_run(document, catalog, None)
    assert (one.gpu, one.usd_per_hour, one.languages, one.quality) == (None, None, None, None)
    assert one.name == "/models/mine int8"
