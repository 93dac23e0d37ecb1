"""API prices against the package's own sums, request by request."""

from datetime import UTC, date, datetime, time
from importlib import metadata

import numpy as np
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given, settings
from hypothesis import strategies as st

from planning.cost import api_prices
from planning.cost.api_prices import Rate, find
from planning.errors import UnknownName

ON = date(2026, 11, 22)
GUIDE = {
    "gpt-4o": (2.5, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "claude-opus-4-1": (15.0, 75.0),
    "claude-sonnet-4-5": (3.0, 15.0),
    "claude-haiku-4-5": (1.0, 5.0),
    "openai/text-embedding-3-large": (0.13, 0.0),
}


@pytest.mark.parametrize("model", GUIDE)
def test_the_models_of_the_guide(model: str) -> None:
    price = find(model, on=ON)
    assert (price.standard.input.base, price.standard.output.base) == GUIDE[model]


@settings(max_examples=60)
@given(
    model=st.sampled_from(["openai/gpt-4o", "anthropic/claude-sonnet-4-5", "google/gemini-2.5-pro"]),
    tokens=st.integers(0, 400_000),
    output=st.integers(0, 60_000),
    cached=st.floats(0, 1),
    batch=st.booleans(),
)
def test_a_request_costs_what_the_package_says(model, tokens, output, cached, batch) -> None:
    price = find(model, on=ON)
    rates = price.batch if batch and price.batch else price.standard
    usage = Usage(input_tokens=tokens, output_tokens=output, cache_read_tokens=int(cached * tokens))
    provider, _, name = model.partition("/")
    context = {"processing": "batch"} if rates is price.batch else {}
    noon = datetime.combine(ON, time(12), tzinfo=UTC)
    said = calc_price(usage, name, provider_id=provider, genai_request_timestamp=noon, price_context=context)
    assert rates.request_usd(tokens, output, int(cached * tokens)) == pytest.approx(float(said.total_price))


def test_tiers_apply_to_a_request_not_to_a_month() -> None:
    rates = find("claude-sonnet-4-5", on=ON).standard
    as_one_call = rates.request_usd(7_500_000, 2_500_000)
    as_requests = 3_000 * rates.request_usd(2_500, 833)
    assert as_one_call == pytest.approx(101.25)
    assert as_requests == pytest.approx(59.985)


def test_a_tier_starts_above_its_threshold_and_works_on_arrays() -> None:
    rate = Rate(3.0, ((200_000, 6.0),))
    assert np.array_equal(rate.at(np.array([199_999, 200_000, 200_001])), [3.0, 3.0, 6.0])


def test_cached_input_without_a_cache_price_costs_what_input_costs() -> None:
    rates = find("groq/llama-3.1-8b-instant", on=ON).standard
    assert rates.cache_read is None
    assert rates.request_usd(1000, 0, 1000) == rates.request_usd(1000, 0, 0)


def test_batch_is_half_price_where_there_is_one_and_absent_elsewhere() -> None:
    price = find("gpt-4o", on=ON)
    assert price.batch is not None
    assert price.batch.request_usd(1000, 1000) == pytest.approx(price.standard.request_usd(1000, 1000) / 2)
    assert find("groq/llama-3.1-8b-instant", on=ON).batch is None


def test_the_version_of_the_package_is_recorded() -> None:
    assert find("gpt-4o", on=ON).package == f"genai-prices {metadata.version('genai-prices')}"


@pytest.mark.parametrize(
    ("model", "provider", "said"),
    [
        ("gpt-4oo", None, "Did you mean gpt-4o"),
        ("opnai/gpt-4o", None, "Did you mean openai/gpt-4o"),
        ("gpt-4o", "opnai", "Did you mean openai"),
        ("claude-sonet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("text-embedding-3-large", None, "openai/text-embedding-3-large"),
        ("github-copilot/gpt-4o", None, "no price per token"),
        ("zzzzzz", None, "nbridge prices"),
    ],
)
def test_unknown_models_get_the_nearest_names(model: str, provider: str | None, said: str) -> None:
    with pytest.raises(UnknownName, match=said.replace(".", r"\.")):
        find(model, provider, on=ON)


def test_what_is_known_can_be_found() -> None:
    names = api_prices.known()
    assert "openai/gpt-4o" in names
    assert len(names) > 1000
