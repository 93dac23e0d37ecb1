"""The plan's [cost] table: what it may hold, and that it survives the way into a run.json and back."""

from typing import Any

import pytest

from bench.errors import PlanError
from bench.plans.plan import expand, validate


def plan(cost: Any) -> dict[str, Any]:
    return {
        "engines": [{"model": "demo-100m"}],
        "loads": [{"concurrency": 1, "requests": 2}],
        "cost": cost,
    }


def test_a_cost_table_is_kept_as_it_is_written() -> None:
    asked = {
        "gpu": "rtx-4090",
        "api": "openai/gpt-4o",
        "tokens_per_month": 3e8,
        "inputs": {"wage_usd_per_hour": [50, 70, 90]},
    }
    made = expand(plan(asked), source="p.toml")
    assert made.cost is not None
    assert made.cost.inputs["wage_usd_per_hour"] == (50, 70, 90)
    assert validate(made.model_dump(mode="json"), source="run.json") == made


def test_without_one_there_is_none() -> None:
    document = plan(None)
    del document["cost"]
    assert expand(document, source="p.toml").cost is None


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ({"gpuu": "rtx-4090"}, "Did you mean `gpu`"),
        ({"hosting": "lease"}, "cost.hosting = 'lease'"),
        ({"tokens_per_month": 0}, "cost.tokens_per_month = 0"),
        ({"inputs": {"wage_usd_per_hour": "much"}}, "cost.inputs.wage_usd_per_hour"),
    ],
)
def test_a_wrong_cost_table_is_refused(cost: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        expand(plan(cost), source="p.toml")
