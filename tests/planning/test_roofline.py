from typing import Any

import pytest

from planning.catalogs import Catalog, load
from planning.errors import BadInput
from planning.memory.models import read
from planning.speed.roofline import above, decode_bound, prefill_bound, weights_read_bytes

LLAMA = "llama-3.1-8b"
# Llama 3.1 8B: 16,060,522,496 bytes of which the embedding table has 128,256 · 4,096 · 2.
READ_BYTES = 16_060_522_496 - 128256 * 4096 * 2


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def cell(output_tok_s: float, *, concurrency: int = 1, prompt_tok_s: float = 10.0, **changes: Any) -> dict[str, Any]:
    """A cell of 10 requests, 1,000 prompt and 200 answer tokens each."""
    metrics = {
        "requests": {"ok": 10, "total": 10},
        "mean_in_flight": float(concurrency),
        "output_throughput_tok_s": output_tok_s,
        "prompt_throughput_tok_s": prompt_tok_s,
        "prompt_tokens": 10_000,
        "output_tokens": 2_000,
        "cached_tokens": 0,
        **changes,
    }
    return {
        "id": f"e-c{concurrency}-r1",
        "engine": {"name": "e"},
        "load": {"concurrency": concurrency},
        "metrics": metrics,
    }


def test_one_request_reads_all_weights_for_each_token(catalog: Catalog) -> None:
    bound = decode_bound(read(LLAMA), catalog.gpu("rtx-4090"), batch=1, context_tokens=0)
    assert bound.weights_read_bytes == READ_BYTES
    assert bound.tok_s == pytest.approx(1008e9 / READ_BYTES)  # 67.2
    assert bound.step_s == pytest.approx(READ_BYTES / 1008e9)
    assert bound.limited_by == "bandwidth"


def test_a_batch_shares_the_weights_and_not_the_cache(catalog: Catalog) -> None:
    bound = decode_bound(read(LLAMA), catalog.gpu("rtx-4090"), batch=8, context_tokens=1000)
    assert bound.kv_read_bytes == 8 * 1000 * 131072
    assert bound.tok_s == pytest.approx(1008e9 / (READ_BYTES + 8 * 1000 * 131072) * 8)
    half = decode_bound(read(LLAMA), catalog.gpu("rtx-4090"), batch=8, context_tokens=1000, kv_bytes_per_value=1)
    assert half.kv_read_bytes == 4 * 1000 * 131072


def test_a_large_batch_is_limited_by_compute(catalog: Catalog) -> None:
    bound = decode_bound(read(LLAMA), catalog.gpu("rtx-4090"), batch=4096, context_tokens=0)
    assert bound.limited_by == "compute"
    assert bound.tok_s == pytest.approx(165.2e12 / (2 * 6_979_321_856))


def test_gpus_add_up(catalog: Catalog) -> None:
    one, two = (
        decode_bound(read(LLAMA), catalog.gpu("l4"), gpus=count, batch=4, context_tokens=500).tok_s for count in (1, 2)
    )
    assert two == pytest.approx(2 * one)


def test_experts_are_read_as_tokens_choose_them(catalog: Catalog) -> None:
    shape = read("mixtral-8x7b")
    experts_bytes = 32 * 8 * 3 * 4096 * 14336 * 2
    rest_bytes = shape.weights_bytes - experts_bytes - 32000 * 4096 * 2
    assert weights_read_bytes(shape, 1) == pytest.approx(rest_bytes + experts_bytes / 4)
    assert weights_read_bytes(shape, 2) == pytest.approx(rest_bytes + experts_bytes * (1 - 0.75**2))
    bound = decode_bound(shape, catalog.gpu("h100-80gb"), gpus=2, batch=8, context_tokens=0)
    assert bound.ceiling_tok_s > bound.tok_s  # all eight sequences might choose the same experts


def test_prompts_are_limited_by_compute(catalog: Catalog) -> None:
    bound = prefill_bound(read(LLAMA), catalog.gpu("rtx-4090"))
    assert bound.tok_s == pytest.approx(165.2e12 / (2 * 6_979_321_856))
    assert bound.ttft_s(1000) == pytest.approx(1000 / bound.tok_s)
    assert prefill_bound(read(LLAMA), catalog.gpu("rtx-4090"), mfu=0.5).tok_s == pytest.approx(bound.tok_s / 2)
    # int8 weights and activations multiply in int8
    assert prefill_bound(read(LLAMA, "int8"), catalog.gpu("rtx-4090")).tok_s == pytest.approx(
        bound.tok_s * 660.6 / 165.2
    )


@pytest.mark.parametrize(("batch", "gpus", "context"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_what_cannot_be_is_refused(catalog: Catalog, batch: int, gpus: int, context: int) -> None:
    with pytest.raises(BadInput):
        decode_bound(read(LLAMA), catalog.gpu("l4"), batch=batch, gpus=gpus, context_tokens=context)
    with pytest.raises(BadInput, match="mfu"):
        prefill_bound(read(LLAMA), catalog.gpu("l4"), mfu=0)


def test_figures_above_the_bound_are_flagged(catalog: Catalog) -> None:
    gpu, shapes = catalog.gpu("rtx-4090"), {"e": read(LLAMA)}
    bound = 1008e9 / (READ_BYTES + 1100 * 131072)
    assert above([cell(bound * 0.99)], shapes, gpu) == []
    (found,) = above([cell(bound * 1.5)], shapes, gpu)
    assert (found.cell_id, found.what) == ("e-c1-r1", "output throughput")
    assert found.ratio == pytest.approx(1.5)
    (found,) = above([cell(10, prompt_tok_s=20_000)], shapes, gpu)
    assert found.what == "prompt throughput"


def test_the_guides_batch_of_eight_is_possible_and_a_claim_of_thousands_is_not(catalog: Catalog) -> None:
    gpu, shapes = catalog.gpu("rtx-4090"), {"e": read(LLAMA)}
    assert above([cell(280, concurrency=8)], shapes, gpu) == []
    assert len(above([cell(2800, concurrency=8)], shapes, gpu)) == 1


def test_what_cannot_be_judged_is_not_flagged(catalog: Catalog) -> None:
    gpu, shapes = catalog.gpu("rtx-4090"), {"e": read(LLAMA)}
    assert above([cell(1e6)], {}, gpu) == []
    assert above([{**cell(1e6), "metrics": None}], shapes, gpu) == []
    # cached prompts are not computed, drafted tokens come several to a step
    assert above([cell(10, prompt_tok_s=1e6, cached_tokens=None)], shapes, gpu) == []
    drafted = cell(1e6)
    drafted["engine"]["speculative"] = {"num_speculative_tokens": 3}
    assert above([drafted], shapes, gpu) == []
