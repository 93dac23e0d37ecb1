"""A speed guessed from bounds, for what was never measured."""

import pytest
from made_cases import made_case

from planning.catalogs import load
from planning.cost.assembly import assemble
from planning.cost.assumptions import EXAMPLE, read_document
from planning.cost.unmeasured import REACHED, with_bounds
from planning.errors import BadInput
from planning.memory.models import read
from planning.speed import roofline


def test_the_speed_is_a_share_of_what_both_bounds_leave() -> None:
    shape, gpu = read("llama-3.1-8b"), load().gpu("h100-80gb")
    case = with_bounds(made_case(requests=[{"input_tokens": 300, "output_tokens": 100}]), shape, gpu)
    # 80 GB hold more than 256 requests of 400 tokens (52 MB each), so the batch is the server's own limit.
    decode = roofline.decode_bound(shape, gpu, batch=256, context_tokens=350).tok_s
    prefill = roofline.prefill_bound(shape, gpu).tok_s
    bound = 100 / (300 / prefill + 100 / decode)
    speed = case.inputs["output_tok_s"]
    assert (speed.low, speed.mode, speed.high) == pytest.approx([share * bound for share in REACHED])
    assert "not measured" in speed.source
    assert case.inputs["input_token_weight"].mode == pytest.approx(decode / prefill)
    assert case.speed_mix == (300, 100)
    assert any("measure llama-3.1-8b on h100-80gb" in note for note in case.notes)


def test_a_small_gpu_holds_fewer_requests_and_is_slower_for_it() -> None:
    shape, catalog = read("llama-3.1-8b"), load()
    case = made_case(requests=[{"input_tokens": 3000, "output_tokens": 1000}])
    said = with_bounds(case, shape, catalog.gpu("rtx-4090")).inputs["output_tok_s"].source
    assert "with 10 requests at once" in said  # as `nbridge vram` says for 4,096 tokens


def test_a_model_that_does_not_fit_is_refused_with_what_would_work() -> None:
    with pytest.raises(BadInput, match=r"llama-3.1-70b does not fit on 1 × rtx-4090.*--gpus N"):
        with_bounds(made_case(), read("llama-3.1-70b"), load().gpu("rtx-4090"))


def test_by_name_and_with_its_gpu() -> None:
    catalog = load()
    case = assemble(read_document(None), source=EXAMPLE, catalog=catalog, gpu="l4", model="qwen2.5-7b")
    assert case.name == "qwen2.5-7b on 1 × l4, not measured"
    assert "slo_output_tok_s" not in case.inputs
    assert not any(note.startswith("The example's speed") for note in case.notes)
    with pytest.raises(BadInput, match="name one with --gpu"):
        assemble(read_document(None), source=EXAMPLE, catalog=catalog, model="qwen2.5-7b")
