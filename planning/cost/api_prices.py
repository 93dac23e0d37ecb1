"""What an API asks for a request, from the genai-prices package: offline, with tiers, cache reads and batch rates.

A tier applies to one *request* whose input passes a threshold, so a month is priced request by request, never as one
big call. The rates are read from the package once and applied to arrays; a test holds them against its own sums.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib import metadata

import numpy as np
from genai_prices import Usage, calc_price, data_snapshot
from genai_prices.types import ModelPrice, PriceCalculation, TieredPrices

from planning.cost.uncertainty import Number
from planning.errors import UnknownName

PER_MTOK = 1e6


@dataclass(frozen=True)
class Rate:
    """USD per million tokens; a request whose input is longer than a tier's start pays that tier for all its tokens."""

    base: float
    tiers: tuple[tuple[int, float], ...] = ()

    def at(self, request_input_tokens: Number) -> Number:
        price: Number = self.base
        for start, usd in self.tiers:
            price = np.where(np.asarray(request_input_tokens) > start, usd, price)
        return price


@dataclass(frozen=True)
class Rates:
    """The rates of one way to ask. `cache_read` is None where cached input costs what other input costs."""

    input: Rate
    output: Rate
    cache_read: Rate | None

    def request_usd(self, input_tokens: Number, output_tokens: Number, cached_tokens: Number = 0.0) -> Number:
        """Return the price of one request in USD. `input_tokens` includes the `cached_tokens`. Works on arrays."""
        cached_rate = self.cache_read or self.input
        return (
            (input_tokens - cached_tokens) * self.input.at(input_tokens)
            + cached_tokens * cached_rate.at(input_tokens)
            + output_tokens * self.output.at(input_tokens)
        ) / PER_MTOK


@dataclass(frozen=True)
class ApiPrice:
    """An API model's prices on a day. `batch` is None where the package knows no batch rate."""

    model: str
    provider: str
    on: date
    standard: Rates
    batch: Rates | None
    context_tokens: int | None
    urls: tuple[str, ...]
    comment: str | None
    package: str

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


def package_version() -> str:
    """Return the version of the package that the prices come from: its snapshot carries no date of its own."""
    return f"genai-prices {metadata.version('genai-prices')}"


def find(model: str, provider: str | None = None, *, on: date | None = None) -> ApiPrice:
    """Return the prices of an API model (`gpt-4o`, or `openai/gpt-4o`) on a day (today when None).

    Raises UnknownName, with the nearest names, when no provider sells it by the token.
    """
    day = on or datetime.now(tz=UTC).date()
    if provider is None and model.partition("/")[0] in _by_provider() and "/" in model:
        provider, _, model = model.partition("/")
    try:
        found = _ask(model, provider, day, {})
    except LookupError:
        raise _unknown(model, provider) from None
    prices = found.model_price
    if prices.input_mtok is None:
        raise UnknownName(
            f"{found.provider.id}/{found.model.id} is in {package_version()} but has no price per token. "
            + _sellers(found.model.id, but=found.provider.id)
        )
    batch = _ask(model, provider, day, {"processing": "batch"}).model_price
    return ApiPrice(
        model=found.model.id,
        provider=found.provider.id,
        on=day,
        standard=_rates(prices),
        batch=_rates(batch) if batch != prices else None,
        context_tokens=found.model.context_window,
        urls=tuple(found.provider.pricing_urls or ()),
        comment=found.model.price_comments,
        package=package_version(),
    )


def known() -> list[str]:
    """Return every `provider/model` that the package knows."""
    return [f"{provider}/{model}" for provider, models in _by_provider().items() for model in models]


def _ask(model: str, provider: str | None, day: date, context: Mapping[str, str]) -> PriceCalculation:
    # Some providers ask less at night; noon stands for the day.
    noon = datetime.combine(day, time(12), tzinfo=UTC)
    return calc_price(
        Usage(input_tokens=1), model, provider_id=provider, genai_request_timestamp=noon, price_context=context
    )


def _rates(prices: ModelPrice) -> Rates:
    given = prices.input_mtok
    assert given is not None  # noqa: S101 (checked by the caller; this tells the type checker)
    return Rates(
        input=_rate(given),
        # A model that only reads (embeddings) has no output price, and no output.
        output=_rate(prices.output_mtok) if prices.output_mtok is not None else Rate(0.0),
        cache_read=_rate(prices.cache_read_mtok) if prices.cache_read_mtok is not None else None,
    )


def _rate(price: Decimal | TieredPrices) -> Rate:
    if isinstance(price, TieredPrices):
        return Rate(float(price.base), tuple((tier.start, float(tier.price)) for tier in price.tiers))
    return Rate(float(price))


@cache
def _by_provider() -> dict[str, tuple[str, ...]]:
    providers = data_snapshot.get_snapshot().providers
    return {provider.id: tuple(model.id for model in provider.models) for provider in providers}


def _sellers(model: str, but: str | None = None) -> str:
    sellers = [f"{provider}/{model}" for provider, models in _by_provider().items() if model in models]
    sellers = [name for name in sellers if not name.startswith(f"{but}/")]
    return f"It is sold as {', '.join(sellers[:6])}." if sellers else ""


def _unknown(model: str, provider: str | None) -> UnknownName:
    if provider is not None and provider not in _by_provider():
        near = difflib.get_close_matches(provider.lower(), _by_provider(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(_by_provider())}."
        return UnknownName(f"There is no API provider {provider!r} in {package_version()}. {hint}")
    where = f" of {provider}" if provider else ""
    names = list(_by_provider()[provider]) if provider else sorted({m for ms in _by_provider().values() for m in ms})
    if provider is None and (sold := _sellers(model)):
        return UnknownName(f"More than one provider may be meant by the API model {model!r}. {sold} Name one of them.")
    near = difflib.get_close_matches(model.lower(), names, n=4, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`nbridge prices` lists what is known."
    return UnknownName(f"There is no API model {model!r}{where} in {package_version()}. {hint}")
