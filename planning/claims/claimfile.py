"""A file of claims about cost, speed and size: what is said, and the inputs from which it should follow.

    [[claims]]
    id = "month-of-gpt-4o"
    where = "slide 7"
    text = "10 M tokens a month of GPT-4o cost $400"
    claimed = 400                     # or [low, high], or { at_least = 300 }, { at_most = 500 }
    unit = "USD/month"
    formula = "tokens / 1e6 * price"
    inputs.tokens = { value = 10e6, unit = "tokens/month", source = "slide 7" }
    inputs.price = { api = "openai/gpt-4o" }        # list price of input to output, per million tokens
    code = "UNITS_10X"                # which mistake it is when the claim does not follow
    because = "10 M tokens at {price} a million are {corrected}."

`[inputs]` at the top of the file serves all claims. An input is a number, a range [low, high], or a table:
{value | low, high, unit, source}, {api, rate}, {model, figure}, {gpu, figure}, {bound, model, gpu, …}, {claim}.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from inputs import files
from planning.errors import BadCatalog, BadInput

GUIDE_PATH = Path(__file__).parents[1] / "catalog" / "guide.toml"
CODES = {
    "NOT_SAME_QUALITY": "compares models that do not do the same work",
    "PEAK_VS_LIST": "own cost at 100 % utilization against a list price that is paid per token used",
    "TOKEN_KIND_MISMATCH": "sets input tokens against output tokens, or one kind against both",
    "MARGINAL_VS_FULL": "counts a part of the own cost against the whole price of the other side",
    "OVER_CAPACITY": "asks for more than the hardware holds or carries",
    "ABOVE_ROOFLINE": "is faster than memory bandwidth or arithmetic allow",
    "NO_SLO": "states speed or capacity without the latency at which it holds",
    "STALE_PRICE": "uses a price that is not today's",
    "UNITS_10X": "is off by about a power of ten, or rests on a figure that is",
    "BATCH_OR_CACHE_IGNORED": "leaves out batch discounts or cache reads",
    "ARITHMETIC": "does not follow from its own inputs",
    "INCONSISTENT": "contradicts another figure of the same source",
}
Code = Literal[
    "NOT_SAME_QUALITY",
    "PEAK_VS_LIST",
    "TOKEN_KIND_MISMATCH",
    "MARGINAL_VS_FULL",
    "OVER_CAPACITY",
    "ABOVE_ROOFLINE",
    "NO_SLO",
    "STALE_PRICE",
    "UNITS_10X",
    "BATCH_OR_CACHE_IGNORED",
    "ARITHMETIC",
    "INCONSISTENT",
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _span(value: object) -> object:
    """A number, [low, high], {at_least} or {at_most} as (low, high)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, dict) and set(value) == {"at_least"}:
        return (value["at_least"], math.inf)
    if isinstance(value, dict) and set(value) == {"at_most"}:
        return (-math.inf, value["at_most"])
    return tuple(value) if isinstance(value, list) else value


Span = Annotated[tuple[float, float], BeforeValidator(_span)]


class Given(_Table):
    """An input of a claim: stated (`value`, or `low` and `high`), or to be looked up or computed."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    source: str | None = None
    api: str | tuple[str, ...] | None = None
    rate: Literal["input", "output", "both", "batch", "batch_input", "batch_output", "cache_read"] = "both"
    model: str | None = None
    quantization: str = "none"
    figure: str | None = None
    gpu: str | None = None
    gpus: Annotated[int, Field(ge=1)] = 1
    bound: Literal["decode", "prefill"] | None = None
    batch: Annotated[float, Field(gt=0)] = 1.0
    context_tokens: Annotated[float, Field(ge=0)] = 0.0
    claim: str | None = None
    side: Literal["claimed", "corrected"] = "corrected"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.value is not None, self.low is not None, self.api is not None, self.claim is not None]
        looked_up = self.bound is not None or self.figure is not None
        if sum([*kinds, looked_up]) != 1:
            raise ValueError("an input is one of: value; low and high; api; model or gpu with a figure; bound; claim")
        if (self.low is None) != (self.high is None):
            raise ValueError("a range needs both low and high")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}")
        if self.bound is not None and (self.model is None or self.gpu is None):
            raise ValueError("a bound needs `model` and `gpu`")
        if self.figure is not None and (self.model is None) == (self.gpu is None):
            raise ValueError("a figure needs either `model` or `gpu`")
        return self


def _given(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"value": value}
    if isinstance(value, list) and len(value) == 2:
        return {"low": value[0], "high": value[1]}
    return value


GivenInput = Annotated[Given, BeforeValidator(_given)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ShareNumber = Annotated[float, Field(ge=0, le=1)]


class Comparison(_Table):
    """What stands behind “N times cheaper than the API”: own hardware at some speed against an API model's price."""

    usd_per_hour: PositiveNumber
    tok_s: PositiveNumber
    tok_s_of: Literal["input", "output", "total"] = "output"
    output_tok_s: PositiveNumber | None = None
    slo_tok_s: PositiveNumber | None = None
    slo: str | None = None
    api: str
    price_of: Literal["input", "output"] = "output"
    api_usd_per_mtok: PositiveNumber | None = None
    input_tokens: PositiveNumber
    output_tokens: PositiveNumber
    tokens_per_month: PositiveNumber | None = None
    hours_per_month: Annotated[float, Field(gt=0, le=744)] = 730.0
    extra_usd_per_month: Annotated[float, Field(ge=0)] | None = None
    batch_share: ShareNumber = 0.0
    cached_share: ShareNumber = 0.0
    model: str | None = None
    gpu: str | None = None
    gpus: Annotated[int, Field(ge=1)] = 1
    batch: PositiveNumber | None = None
    same_model_api: str | None = None
    quantization: str | None = None


class Figure(_Table):
    """A further value computed from the inputs, for `because` and `holds` to name."""

    formula: str
    unit: str = ""


class Claim(_Table):
    """One claim. It is checked by `formula`, by `comparison`, or not at all and then says why it is `unsupported`."""

    id: str
    where: str = ""
    text: str
    claimed: Span
    unit: str = ""
    formula: str | None = None
    inputs: dict[str, GivenInput] = Field(default_factory=dict)
    comparison: Comparison | None = None
    unsupported: str | None = None
    figures: dict[str, Figure] = Field(default_factory=dict)
    code: Code | None = None
    also: tuple[Code, ...] = ()
    because: str = ""
    holds: str = ""
    tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.05

    @model_validator(mode="after")
    def _checkable(self) -> Self:
        if sum(way is not None for way in (self.formula, self.comparison, self.unsupported)) != 1:
            raise ValueError("give exactly one of `formula` (with inputs), `comparison`, `unsupported`")
        if self.claimed[0] > self.claimed[1]:
            raise ValueError(f"claimed = [{self.claimed[0]:g}, {self.claimed[1]:g}]: write the lower one first")
        return self


class RoiClaim(_Table):
    """A row of a return-on-investment table: formulas for upfront and monthly cost, and the four figures claimed."""

    solution: str
    upfront: str
    monthly: str
    claimed: tuple[float, float, float, float]


class ClaimFile(_Table):
    """A document's claims with the inputs they share."""

    title: str
    source: str = ""
    inputs: dict[str, GivenInput] = Field(default_factory=dict)
    roi: tuple[RoiClaim, ...] = ()
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"two claims are called {twice[0]!r}: give each an `id` of its own")
        return self


def guide() -> ClaimFile:
    """Return the deployment guide's claims."""
    return load_claims(GUIDE_PATH)


def load_claims(path: Path) -> ClaimFile:
    """Return the claims of a TOML file. Raises BadCatalog when it cannot be read, BadInput when it is not valid."""
    try:
        document = files.read_toml(path)
    except FileNotFoundError:
        raise BadCatalog(
            f"{path}: no such file. Give a TOML file of claims (docs/cost.md shows one), or nothing for the guide's."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadCatalog(f"{path}: not readable as TOML ({error}).") from error
    return parse_claims(document, source=str(path))


def parse_claims(document: Mapping[str, Any], *, source: str) -> ClaimFile:
    """Return the claims of a document. Raises BadInput that names the claim, the key and what was expected."""
    try:
        return ClaimFile.model_validate({"title": source, **document})
    except ValidationError as error:
        messages = []
        for item in error.errors()[:3]:
            place = list(item["loc"])
            if len(place) > 1 and place[0] == "claims" and isinstance(place[1], int):
                entry = document["claims"][place[1]]
                place[1] = entry.get("id", place[1]) if isinstance(entry, dict) else place[1]
            value = item["input"]
            shown = f" = {value!r}" if isinstance(value, str | int | float) else ""
            text = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
            messages.append(f"{'.'.join(str(part) for part in place) or 'the file'}{shown}: {text}.")
        raise BadInput(f"{source}: " + " ".join(messages)) from None
