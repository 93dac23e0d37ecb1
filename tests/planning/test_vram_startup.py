from typing import Any

import pytest

from planning.catalogs import GIB, Catalog, load
from planning.memory.against_startup import against_startup, estimate_of, in_words, setting_of
from planning.memory.models import read

# What vLLM logs for Llama 3.1 8B on a GPU, as serve/engine/startup.py reads it.
ON_A_GPU = {
    "engine_weights_bytes": round(14.99 * GIB),
    "activation_peak_bytes": round(1.19 * GIB),
    "cuda_graph_bytes": round(0.5 * GIB),
    "kv_cache_bytes": round(54.0 * GIB),
    "kv_cache_tokens": 442_368,
    "gpu_memory_total_bytes": round(79.19 * GIB),
    "gpu_memory_requested_bytes": round(79.19 * 0.92 * GIB),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def checks(catalog: Catalog, engine: dict[str, Any], startup: dict[str, Any]) -> dict[tuple[str, str], Any]:
    shape = read("llama-3.1-8b")
    made = estimate_of(shape, engine, catalog.gpu("h100-80gb"))
    return {(one.name, one.unit): one for one in against_startup(shape, engine, startup, made)}


def test_exact_figures_agree_and_estimates_lie_in_their_ranges(catalog: Catalog) -> None:
    found = checks(catalog, {"max_model_len": 8192}, ON_A_GPU)
    assert len(found) == 8
    assert [name for (name, _), one in found.items() if one.exact] == ["weights", "KV cache per token"]
    assert all(one.inside for one in found.values())
    assert found["weights", "bytes"].ratio == pytest.approx(14.957 / 14.99, rel=1e-3)
    assert found["KV cache per token", "bytes"].estimated.mode == 131072


def test_what_is_off_is_said(catalog: Catalog) -> None:
    found = checks(catalog, {"max_model_len": 8192}, {**ON_A_GPU, "engine_weights_bytes": 8 * GIB})
    assert not found["weights", "bytes"].inside
    assert in_words(found["weights", "bytes"]) == ("14.96 GiB", "8.00 GiB")


def test_what_vllm_did_not_say_is_not_compared(catalog: Catalog) -> None:
    assert checks(catalog, {"max_model_len": 8192}, {"ready_s": 3.0, "weights_bytes": 5}) == {}


def test_on_a_cpu_the_cache_per_token_is_checked() -> None:
    # demo-100m: 2 · 8 layers · 8 heads · 64 · 2 bytes = 16,384; vLLM on two cores made 65,536 tokens of 1 GiB.
    startup = {"kv_cache_tokens": 65_536, "kv_cache_bytes": GIB, "weights_bytes": 192_972_800}
    (one,) = against_startup(read("demo-100m"), {}, startup)
    assert (one.name, one.estimated.mode, one.reported, one.inside) == ("KV cache per token", 16384, 16384, True)
    assert in_words(one) == ("16,384 B", "16,384 B")


def test_an_engines_settings_are_taken_over() -> None:
    engine = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": None,
        "gpu_memory_utilization": 0.8,
        "kv_cache_dtype": "fp8_e4m3",
        "block_size": 32,
        "enforce_eager": True,
    }
    setting = setting_of(engine)
    assert (setting.gpus, setting.gpu_memory_utilization, setting.block_tokens, setting.graphs) == (2, 0.8, 32, False)
    assert setting.kv_bytes_per_value == 1


def test_exact_is_said_only_of_what_was_recorded(catalog: Catalog) -> None:
    # Converted while loading: the bytes are our arithmetic, and nobody recorded vLLM's.
    shape = read("llama-3.1-8b", "bitsandbytes")
    engine = {"max_model_len": 8192}
    made = estimate_of(shape, engine, catalog.gpu("h100-80gb"))
    found = {one.name: one for one in against_startup(shape, engine, ON_A_GPU, made)}
    assert (found["weights"].exact, found["KV cache per token"].exact) == (False, True)
    # A figure without a range is held within 1 %, whatever it is called.
    near = {**ON_A_GPU, "engine_weights_bytes": made.weights_bytes * 1.009}
    off = {**ON_A_GPU, "engine_weights_bytes": made.weights_bytes * 1.02}
    assert [against_startup(shape, engine, said, made)[0].inside for said in (near, off)] == [True, False]
