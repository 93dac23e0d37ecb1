"""API, the same model by API, or own hardware: one sentence, and what would change it."""

import pytest

from planning import catalogs
from planning.cost import decide
from planning.cost.assembly import assemble
from planning.cost.assumptions import EXAMPLE, Case, read_document


def case(tokens: float, *, api: str = "openai/gpt-4o", gpus: int = 1) -> Case:
    return assemble(
        read_document(None), source=EXAMPLE, catalog=catalogs.load(), gpu="rtx-4090", gpus=gpus, model="qwen2.5-7b",
        quantization="w4a16", api=api, values={"tokens_per_month": tokens},
    )  # fmt: skip


def test_sellers_sell_that_model_and_no_other() -> None:
    found = decide.sellers("llama-3.1-8b")
    assert "groq/llama-3.1-8b-instant" in found and "cerebras/llama3.1-8b" in found
    assert all("8b" in name.lower() and "guard" not in name.lower() for name in found)
    assert not any("70b" in name.lower() for name in found)
    assert decide.sellers("meta-llama/Llama-3.1-8B") == found
    assert decide.sellers("demo-1m") == [] and decide.sellers("x") == []
    assert not any("coder" in name for name in decide.sellers("qwen2.5-7b"))


def test_the_cheapest_seller_is_the_cheapest_and_what_is_free_is_none() -> None:
    name, count = decide.cheapest("qwen2.5-7b", case(5e8))
    assert name is not None and not name.endswith(":free")
    assert count >= 1
    assert decide.cheapest("demo-1m", case(5e8)) == (None, 0)


def test_a_small_demand_is_for_an_api_and_says_what_would_change_it() -> None:
    found = decide.decide(case(2e7), model="qwen2.5-7b", proof="not measured: bounds", draws=4000)
    assert [way.kind for way in found.ways] == ["same model by API", "API", "own hardware"]
    assert found.sentence.startswith("Take ") and "the same model by API: the cheapest of three ways" in found.sentence
    assert found.sentence.count(". ") == 0  # one sentence
    assert found.changes[0].startswith("Demand. ")
    assert any("A measurement" in change for change in found.changes)
    assert any("openai/gpt-4o is another one" in change for change in found.changes)


def test_a_large_demand_beside_a_dear_api_is_for_own_hardware() -> None:
    found = decide.decide(case(5e9), model=None, proof="measured in a run", draws=4000)
    assert len(found.ways) == 2
    assert found.sentence.startswith("Take own hardware (renting): the cheapest of two ways; at 5,000 M tokens/month")
    assert not any("A measurement" in change for change in found.changes)


@pytest.mark.parametrize("tokens", [1e5, 1e11])
def test_the_sentence_holds_at_the_ends(tokens: float) -> None:
    found = decide.decide(case(tokens), model="qwen2.5-7b", proof="not measured", draws=2000)
    assert found.sentence.endswith(".") and "nan" not in found.sentence
