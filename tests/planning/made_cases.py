"""Cases for the cost tests: everything is zero or one but what a test sets."""

from datetime import date
from typing import Any

from planning.cost.api_prices import ApiPrice, Rate, Rates
from planning.cost.assumptions import Case, parse_case

PLAIN: dict[str, Any] = {
    "tokens_per_month": 10e6,
    "peak_to_mean": 1,
    "batch_share": 0,
    "api_price_ratio": 1,
    "output_tok_s": 520,
    "input_token_weight": 0.1,
    "headroom": 1,
    "hours_per_day": 24,
    "hours_per_month": 720,
    "lost_share": 0,
    "ops_hours_per_month": 0,
    "wage_usd_per_hour": 0,
    "storage_usd_per_month": 0,
}
RENT = {"rent_usd_per_gpu_hour": 0.44, "rent_discount_share": 0}
BUY = {
    "hardware_usd": 2400,
    "residual_share": 0,
    "lifetime_months": 24,
    "interest_per_year": 0,
    "load_power_w": 0,
    "idle_power_w": 0,
    "pue": 1,
    "electricity_usd_per_kwh": 0,
    "upkeep_usd_per_month": 0,
}


def made_case(kind: str = "rent", hosting: dict[str, Any] | None = None, requests: Any = None, **inputs: Any) -> Case:
    """A case with requests of output only (unless given) and no cost but what is named."""
    document = {
        "api": {"model": "openai/gpt-4o"},
        "hosting": {"kind": kind, **(hosting or {})},
        "requests": requests or [{"input_tokens": 0, "output_tokens": 100}],
        "inputs": {**PLAIN, **(RENT if kind == "rent" else BUY), **inputs},
    }
    return parse_case(document, source="test")


def made_price(
    input_usd: float = 2.5, output_usd: float = 10.0, cache_usd: float | None = None, batch: float | None = None
) -> ApiPrice:
    """An API's price; `batch` is what batch requests cost of the standard rates."""
    standard = Rates(Rate(input_usd), Rate(output_usd), Rate(cache_usd) if cache_usd is not None else None)
    halved = Rates(Rate(input_usd * batch), Rate(output_usd * batch), None) if batch is not None else None
    return ApiPrice("made", "up", date(2026, 11, 22), standard, halved, None, (), None, "by hand")
