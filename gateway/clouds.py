"""[[cloud]]: one provider, what it is asked for, what that costs, how much may be spent."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator

from gateway.tables import Count, ModelName, Name, Seconds, Table, variable_name
from monitoring.scrape.address import is_loopback, normalised

MODEL_PLACE = "{model}"
# Dearer or cheaper than anything that is sold by the token: a slip between a token, a thousand and a million of them.
LEAST_USD_PER_MTOK, MOST_USD_PER_MTOK = 0.0005, 2000.0

_OPENAIS = (".openai.com", ".openai.azure.com")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
Cap = Literal["max_tokens", "max_completion_tokens"]
Kind = Literal["email", "phone", "card", "iban", "ip", "secret"]
Usd = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
PerMtok = Annotated[float, Field(ge=LEAST_USD_PER_MTOK, le=MOST_USD_PER_MTOK, allow_inf_nan=False)]


class Price(Table):
    """USD per million tokens. Without `output` the model only reads (embeddings)."""

    input: PerMtok
    output: PerMtok | None = None
    cached_input: PerMtok | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.cached_input is not None and self.cached_input > self.input:
            raise ValueError(f"cached_input = {self.cached_input:g} is above input = {self.input:g}")
        if self.output is not None and self.output < self.input / 10:
            raise ValueError(
                f"output = {self.output:g} is less than a tenth of input = {self.input:g}; are they mixed up?"
            )
        return self


class Cloud(Table):
    """One provider with its key and its budget.

    `models`: name here → the provider's. `url` ends where OpenAI's paths go on (…/v1); `{model}` in it is the
    provider's name (Azure's deployments). `answer_tokens`: what an answer may have of which the client says nothing,
    sent along under the name `cap` (of a chat; None: as the provider's address tells). `provider`: as genai-prices
    calls it; `prices` by name here come first.
    """

    name: Name
    url: str
    models: Annotated[dict[ModelName, str], Field(min_length=1, max_length=200)]
    api_key_env: str
    key_header: str = "Authorization"
    query: dict[str, str] = Field(default_factory=dict)
    usage_in_streams: bool = True
    provider: str | None = None
    prices: dict[str, Price] = Field(default_factory=dict)
    usd_per_day: Usd | None = None
    usd_per_month: Usd | None = None
    answer_tokens: Count = 4096
    cap: Cap | None = None
    silence_s: Seconds = 120.0
    places: Annotated[int, Field(ge=1, le=100_000)] = 256
    redact: tuple[Kind, ...] = ()
    redact_patterns: tuple[str, ...] = ()

    @property
    def chat_cap(self) -> str:
        """The key that bounds a chat's answer: OpenAI's own newer models refuse the one that all others know."""
        if self.cap is not None:
            return self.cap
        host = urlsplit(self.url).hostname or ""
        return "max_completion_tokens" if host.endswith(_OPENAIS) else "max_tokens"

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("expected a whole address, such as https://api.openai.com/v1")
        address = normalised(value.replace(MODEL_PLACE, "model"))
        if urlsplit(address).scheme != "https" and not is_loopback(address):
            raise ValueError("the key would go over the network in the clear: https only")
        parts = urlsplit(address)
        return urlunsplit((parts.scheme, parts.netloc, urlsplit(value.strip()).path.rstrip("/"), "", ""))

    @field_validator("models")
    @classmethod
    def _can_be_sent(cls, value: dict[str, str]) -> dict[str, str]:
        for one in value.values():
            if not one or not one.isprintable() or len(one) > 200:
                raise ValueError(f"{one!r} is no name of a provider's model")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable_name(cls, value: str) -> str:
        variable_name(value)
        return value

    @field_validator("key_header")
    @classmethod
    def _is_a_header(cls, value: str) -> str:
        if not _HEADER.fullmatch(value):
            raise ValueError("expected the name of a header, such as Authorization or api-key")
        return value

    @field_validator("redact", "redact_patterns", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("redact_patterns")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                found = re.compile(one)
            except re.error as error:
                raise ValueError(f"{one!r} is no regular expression: {error}") from None
            if found.search(""):
                raise ValueError(f"{one!r} matches nothing at all, too, so everything would be replaced")
        return value

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.usd_per_day is None and self.usd_per_month is None:
            raise ValueError(f"{self.name} may spend without end: set usd_per_day or usd_per_month (UTC), or both")
        if unknown := sorted(set(self.prices) - set(self.models)):
            raise ValueError(f"{self.name} has prices of {unknown[0]!r}, which is none of its models")
        return self
