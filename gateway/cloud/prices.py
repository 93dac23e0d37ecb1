"""What a request to a cloud's model costs: by the prices in the settings, else by genai-prices.

A model whose price is missing or absurd is refused at the start: a limit in dollars means nothing without it.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from genai_prices import Usage, calc_price
from genai_prices.types import ModelPrice

from gateway.cloud.ledger import NANO
from gateway.cloud.usage import Used
from gateway.clouds import LEAST_USD_PER_MTOK, MOST_USD_PER_MTOK, Cloud, Price
from gateway.errors import SettingsError
from planning.cost.api_prices import ApiPrice, find, package_version
from planning.errors import UnknownName


class Priced:
    """One model of a cloud with its price. `writes`: whether it has a price for output.

    `usd_per_mtok`: of input and output, before tiers and caches.
    """

    def __init__(self, cloud: Cloud, model: str) -> None:
        """Raises SettingsError when the price is missing or absurd."""
        self.cloud, self.model, self.asked = cloud, model, cloud.models[model]
        given = cloud.prices.get(model)
        if given is not None:
            self.writes = given.output is not None
            self.usd_per_mtok = (given.input, given.output or 0.0)
            self.source, self._total = "the settings", _by_settings(given)
        else:
            found = _found(cloud, model)
            self.writes = _is_sold(cloud, model, found)
            self.usd_per_mtok = (found.standard.input.base, found.standard.output.base)
            self.source, self._total = found.package, _by_package(found)

    def nano_usd(self, used: Used) -> int:
        """What tokens cost; what the provider says when that is more."""
        cost = self._total(used)
        return max(math.ceil(cost * NANO), math.ceil((used.told_usd or 0.0) * NANO))


def priced(clouds: tuple[Cloud, ...]) -> dict[str, Priced]:
    """Model → its price, of all clouds. Raises SettingsError naming the first that has none, or an absurd one."""
    return {model: Priced(cloud, model) for cloud in clouds for model in cloud.models}


def api_price(name: str) -> ApiPrice:
    """The price of `provider/model` or of a model that only one sells. Raises SettingsError."""
    try:
        return find(name)
    except UnknownName as error:
        raise SettingsError(f"gateway.compared_with = {name!r}: {error}") from None


def _by_settings(given: Price) -> Callable[[Used], Decimal]:
    price = ModelPrice(
        input_mtok=Decimal(str(given.input)),
        output_mtok=Decimal(str(given.output)) if given.output is not None else None,
        cache_read_mtok=Decimal(str(given.cached_input)) if given.cached_input is not None else None,
    )

    def total(used: Used) -> Decimal:
        return price.calc_price(_usage(used))["total_price"]

    return total


def _by_package(found: ApiPrice) -> Callable[[Used], Decimal]:
    def total(used: Used) -> Decimal:
        now = datetime.now(tz=UTC)  # some ask less at night, and prices change on a day
        asked = calc_price(_usage(used), found.model, provider_id=found.provider, genai_request_timestamp=now)
        return asked.total_price

    return total


def _usage(used: Used) -> Usage:
    return Usage(input_tokens=used.input, output_tokens=used.output, cache_read_tokens=min(used.cached, used.input))


def _found(cloud: Cloud, model: str) -> ApiPrice:
    try:
        return find(cloud.models[model], cloud.provider)
    except UnknownName as error:
        raise SettingsError(
            f"cloud {cloud.name}: no price of {model!r} is known, so its limit could not be kept: {error} Set "
            f"provider, or the price by hand: prices = {{ {_quoted(model)} = {{ input = 2.5, output = 10.0 }} }} "
            "(USD per million tokens)."
        ) from None


def _is_sold(cloud: Cloud, model: str, found: ApiPrice) -> bool:
    """Whether the model's output has a price. Raises SettingsError for a price that nobody asks."""
    rates = {"input": found.standard.input.base, "output": found.standard.output.base}
    writes = rates["output"] > 0 or "embed" not in found.model.lower()
    for kind, usd in rates.items():
        if kind == "output" and not writes:
            continue
        if not LEAST_USD_PER_MTOK <= usd <= MOST_USD_PER_MTOK:
            raise SettingsError(
                f"cloud {cloud.name}: {package_version()} has an {kind} price of {usd:g} USD per million tokens for "
                f"{found.name}, which cannot be right ({LEAST_USD_PER_MTOK:g} to {MOST_USD_PER_MTOK:,.0f} are sold); "
                f"set prices of {model!r} by hand."
            )
    return writes


def _quoted(name: str) -> str:
    return f'"{name}"'
