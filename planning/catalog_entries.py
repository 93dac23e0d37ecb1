"""What one entry of a catalog says: a GPU, a model, a machine to buy, their prices, and quantities as spreads."""

import datetime
import statistics
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Entry(BaseModel):
    """A table of a catalog: no key but those it knows, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(Entry):
    """A quantity as the lowest, the most likely and the highest that it may be; none is negative."""

    low: Amount
    mode: Amount
    high: Amount

    @model_validator(mode="before")
    @classmethod
    def _point(cls, value: Any) -> Any:
        # `usd = 1.2` is short for a value that does not vary.
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"low": value, "mode": value, "high": value}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mode <= self.high:
            raise ValueError(f"low {self.low:g}, mode {self.mode:g}, high {self.high:g} are not in this order")
        return self

    def times(self, factor: float) -> "Spread":
        """Return the quantity multiplied by a factor ≥ 0."""
        return Spread(low=self.low * factor, mode=self.mode * factor, high=self.high * factor)

    @property
    def is_point(self) -> bool:
        return self.low == self.high


def point(value: float) -> Spread:
    """Return a quantity that does not vary."""
    return Spread(low=value, mode=value, high=value)


class Price(Entry):
    """What `gpus` GPUs cost together: once for term "buy", else per hour."""

    usd: Spread
    gpus: Annotated[int, Field(gt=0)] = 1
    provider: str
    term: Literal["buy", "on-demand", "reserved", "spot"]
    instance: str | None = None
    region: str | None = None
    source: str
    retrieved: datetime.date
    verified: bool = True

    @property
    def usd_per_gpu(self) -> Spread:
        return self.usd.times(1 / self.gpus)


class Gpu(Entry):
    """One kind of GPU. `usable_gib` is what the driver reports as the device's memory; FLOPS are dense peaks.

    `also`: other names of it. `unified_memory`: the memory is the whole machine's, and its programs need some.
    """

    name: str
    label: str
    vendor: str
    memory_gb: Positive
    usable_gib: Spread
    bandwidth_gb_s: Positive
    dense_tflops: dict[str, Positive]
    power_w: Positive
    idle_power_w: Spread | None = None
    per_node: Annotated[int, Field(gt=0)] = 8
    source: str
    verified: bool = True
    also: tuple[str, ...] = ()
    unified_memory: bool = False
    buy: tuple[Price, ...] = ()
    rent: tuple[Price, ...] = ()

    @property
    def rent_usd_per_hour(self) -> Spread | None:
        """One GPU's hourly price over the providers: lowest, median, highest; None without a price."""
        return _over([price.usd_per_gpu for price in self.rent])

    @property
    def buy_usd(self) -> Spread | None:
        """One GPU's price to buy over the offers: lowest, median, highest; None without a price."""
        return _over([price.usd_per_gpu for price in self.buy])


class ModelFacts(Entry):
    """What a model's configuration does not say. `mmlu_share` is a published benchmark's share of right answers."""

    name: str
    label: str
    licence: str
    licence_class: Literal["permissive", "community", "research"]
    languages: tuple[str, ...]
    quality_class: Literal["high", "very-high", "excellent"] | None = None
    mmlu_share: Spread | None = None
    source: str
    retrieved: datetime.date
    verified: bool = True


class Part(Entry):
    """One part of a machine and its price."""

    kind: str
    label: str
    usd: Spread


class Build(Entry):
    """A machine to buy: parts, the power it draws under load, upkeep."""

    name: str
    label: str
    gpu: str
    gpus: Annotated[int, Field(gt=0)] = 1
    power_w: Spread
    maintenance_usd_per_month: Spread
    parts: tuple[Part, ...]
    source: str
    retrieved: datetime.date
    verified: bool = True

    @property
    def usd(self) -> Spread:
        """The price of all parts."""
        low, mode, high = (sum(getattr(part.usd, end) for part in self.parts) for end in ("low", "mode", "high"))
        return Spread(low=low, mode=mode, high=high)


def _over(prices: list[Spread]) -> Spread | None:
    if not prices:
        return None
    return Spread(
        low=min(price.low for price in prices),
        mode=statistics.median(price.mode for price in prices),
        high=max(price.high for price in prices),
    )
