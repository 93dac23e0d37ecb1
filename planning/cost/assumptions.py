"""The case to decide on: what is asked for, the API that could answer, the hardware that could, and every assumption.

One TOML file becomes one frozen `Case`. What it leaves out comes from `catalog/cost.toml`, whose entries say that they
are assumed; measured speed is never assumed for a user's case. An input is a number, or

    output_tok_s = { low = 400, mode = 450, high = 500, unit = "tok/s", source = "our run of 3 May", date = 2026-05-03 }
"""

import copy
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inputs import files
from planning.cost.uncertainty import Quantity
from planning.errors import BadCatalog, BadInput, MissingMeasurement

DEFAULTS_PATH = Path(__file__).parents[1] / "catalog" / "cost.toml"
EXAMPLE = "example"
BY_HAND = "set by hand"
_TABLES = ("name", "api", "hosting", "requests", "inputs", "speed_mix", "notes")


@dataclass(frozen=True)
class Input:
    """What an input may be: `lowest` and `highest` bound it; `above` excludes the lowest value itself."""

    label: str
    unit: str
    group: str
    lowest: float
    highest: float = math.inf
    above: bool = False
    below: bool = False

    def problem(self, name: str, quantity: Quantity) -> str | None:
        """Why the quantity cannot be, with what would work; None when it can."""
        for value in (quantity.low, quantity.high):
            low = value < self.lowest or (self.above and value == self.lowest)
            high = value > self.highest or (self.below and value == self.highest)
            if low or high:
                return f"{name} = {value:g} cannot be: {self.label} must be {self.span} (unit: {self.unit})."
        return None

    @property
    def span(self) -> str:
        lower = f"{'above' if self.above else 'at least'} {self.lowest:g}"
        if math.isinf(self.highest):
            return lower
        return f"{lower} and {'below' if self.below else 'at most'} {self.highest:g}"


def _share(label: str, group: str) -> Input:
    return Input(label, "share", group, 0, 1)


INPUTS: dict[str, Input] = {
    "tokens_per_month": Input("tokens asked for, input and output", "tokens/month", "workload", 0, above=True),
    "peak_to_mean": Input("busiest hour over the mean", "ratio", "workload", 1),
    "batch_share": _share("requests that can wait hours for a batch", "workload"),
    "api_price_ratio": Input("API price paid over list price", "ratio", "api", 0, above=True),
    "output_tok_s": Input("output tokens of one replica, full load", "tok/s", "performance", 0, above=True),
    "slo_output_tok_s": Input("output tokens of one replica within the SLO", "tok/s", "performance", 0, above=True),
    "input_token_weight": Input("time of an input token over an output token's", "ratio", "performance", 0, 10),
    "headroom": Input("part of the goodput that is planned for", "share", "performance", 0, 1, above=True),
    "hours_per_day": Input("hours a day the servers run", "h/day", "running", 0, 24, above=True),
    "hours_per_month": Input("hours in a month", "h/month", "running", 672, 744),
    "lost_share": Input("hours lost to interruptions and repairs", "share", "running", 0, 1, below=True),
    "rent_usd_per_gpu_hour": Input("rent of one GPU", "USD/h", "rent", 0),
    "rent_discount_share": Input("discount (reserved, spot)", "share", "rent", 0, 1, below=True),
    "hardware_usd": Input("price of one replica's machine", "USD", "buy", 0),
    "residual_share": Input("what is left of it at the end, in today's money", "share", "buy", 0, 1),
    "lifetime_months": Input("months until it is replaced", "months", "buy", 1),
    "interest_per_year": Input("cost of capital", "share/year", "buy", 0, 2),
    "load_power_w": Input("power of one replica at full load", "W", "power", 0),
    "idle_power_w": Input("power of one replica when idle", "W", "power", 0),
    "pue": Input("power of the site over that of its machines", "ratio", "power", 1, 5),
    "electricity_usd_per_kwh": Input("price of electricity", "USD/kWh", "power", 0),
    "ops_hours_per_month": Input("work to keep it running", "h/month", "running", 0, 744),
    "wage_usd_per_hour": Input("cost of an hour of that work", "USD/h", "running", 0),
    "storage_usd_per_month": Input("storage", "USD/month", "running", 0),
    "upkeep_usd_per_month": Input("spare parts and network of one machine", "USD/month", "buy", 0),
}
PERFORMANCE = ("output_tok_s", "slo_output_tok_s")
_OPTIONAL = ("slo_output_tok_s",)
REQUEST_INPUTS: dict[str, Input] = {
    "input_tokens": Input("input tokens of a request", "tokens", "workload", 0),
    "output_tokens": Input("output tokens of a request", "tokens", "workload", 0, above=True),
    "cached_share": _share("input tokens billed as cache reads by the API", "workload"),
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Api(_Table):
    """The API model to compare with: a name, or provider/name."""

    model: str
    provider: str | None = None


class Hosting(_Table):
    """Own hardware: `rent` by the hour or `buy`; GPUs per replica, replicas kept spare, and the most there can be."""

    kind: Literal["rent", "buy"] = "rent"
    model: str | None = None
    gpu: str | None = None
    gpus_per_replica: Annotated[int, Field(ge=1)] = 1
    spare_replicas: Annotated[int, Field(ge=0)] = 0
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = 64
    slo: str | None = None


class RequestKind(_Table):
    """One kind of request; `weight` is its share of all requests relative to the other kinds'."""

    name: str = "request"
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    input_tokens: Quantity
    output_tokens: Quantity
    cached_share: Quantity = Quantity.point(0.0, "share", "assumed: none")


class Case(_Table):
    """Everything that a cost estimate rests on. `inputs` holds those of INPUTS that the hosting's kind uses.

    `speed_mix` is the mean request (input tokens, output tokens) for which the speeds hold; for other requests they
    follow from the weight of an input token. Left out, it is the case's own mean request.
    """

    name: str
    api: Api
    hosting: Hosting
    requests: Annotated[tuple[RequestKind, ...], Field(min_length=1)]
    inputs: dict[str, Quantity]
    speed_mix: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, quantity in quantities(self).items():
            if problem := rule(name).problem(name, quantity):
                raise ValueError(problem)
        names = [kind.name for kind in self.requests]
        if len(set(names)) < len(names):
            raise ValueError("two kinds of requests have the same name: give each its own")
        if self.hosting.kind == "buy" and self.inputs["idle_power_w"].mode > self.inputs["load_power_w"].mode:
            raise ValueError("idle_power_w is above load_power_w: swap them")
        return self


def mean_request(requests: Sequence[RequestKind]) -> tuple[float, float]:
    """Return the most likely input and output tokens of a request, over all kinds by their weight."""
    total = math.fsum(kind.weight for kind in requests)
    inputs = math.fsum(kind.weight * kind.input_tokens.mode for kind in requests) / total
    return inputs, math.fsum(kind.weight * kind.output_tokens.mode for kind in requests) / total


def rule(name: str) -> Input:
    """Return what is known of the input `name` ("wage_usd_per_hour", or "chat.output_tokens" for a request's)."""
    kind, _, of_request = name.rpartition(".")
    return REQUEST_INPUTS[of_request] if kind else INPUTS[name]


def label(case: Case, name: str) -> str:
    """Return the input's label; a request's says which kind when there are several."""
    kind = name.rpartition(".")[0]
    return rule(name).label + (f" ({kind})" if kind and len(case.requests) > 1 else "")


def quantities(case: Case) -> dict[str, Quantity]:
    """Return every input in use by name, in the order to show them; a request's are called KIND.input_tokens etc."""
    found = dict(case.inputs)
    for kind in case.requests:
        found |= {f"{kind.name}.{name}": getattr(kind, name) for name in REQUEST_INPUTS}
    return found


def changed(case: Case, values: Mapping[str, float | tuple[float, float, float] | Quantity]) -> Case:
    """Return the case with other values of some inputs; a number is a point, three numbers are low, mode, high.

    Raises BadInput when there is no such input, or when the value cannot be.
    """
    document = case.model_dump()
    for name, value in values.items():
        kind, _, last = name.rpartition(".")
        kinds = [entry for entry in document["requests"] if entry["name"] == kind]
        if (kind and (not kinds or last not in REQUEST_INPUTS)) or (not kind and last not in INPUTS):
            known = [*(n for n in quantities(case)), *_OPTIONAL]
            raise BadInput(f"There is no input {name!r}. {_nearest(name, known)}")
        if not kind and last not in _used(case.hosting.kind):
            raise BadInput(f"{name} is not used when hosting.kind is {case.hosting.kind!r}.")
        target = kinds[0] if kind else document["inputs"]
        target[last] = _quantity(value, rule(name).unit, BY_HAND, None)
    return _validated(document, "the changed case")


def load_case(path: Path | None = None) -> Case:
    """Return the case of a TOML file (the bundled example when None).

    Raises BadCatalog when the file cannot be read, BadInput when a value cannot be, MissingMeasurement when it
    does not say how fast a replica is.
    """
    return parse_case(read_document(path), source=EXAMPLE if path is None else str(path))


def read_document(path: Path | None) -> dict[str, Any]:
    """Return a case's TOML as it stands (the bundled example when None). Raises BadCatalog when it cannot be read."""
    if path is None:
        return copy.deepcopy(_defaults())
    try:
        return files.read_toml(path)
    except FileNotFoundError:
        raise BadCatalog(f"{path}: no such file. docs/cost.md shows a case to start from.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadCatalog(f"{path}: not readable as TOML ({error}).") from error


def parse_case(document: Mapping[str, Any], *, source: str, measured: bool = False) -> Case:
    """Return the case of a document; what is left out comes from the defaults. Raises as `load_case`.

    With `measured` the speed of a replica will come from a run, so it may be missing here.
    """
    defaults = _defaults()
    for key in document:
        if key not in _TABLES:
            raise BadInput(f"{source}: unknown table or key `{key}`. {_nearest(key, _TABLES)}")
    example = source == EXAMPLE
    hosting = {**(defaults["hosting"] if example else {}), **_table(document, "hosting", source)}
    given = _table(document, "inputs", source)
    for name in given:
        if name not in INPUTS:
            raise BadInput(f"{source}: [inputs] has no `{name}`. {_nearest(name, INPUTS)}")
    inputs = {
        name: given.get(name, defaults["inputs"].get(name))
        for name in _used(str(hosting.get("kind", "rent")))
        if name in given or (name in defaults["inputs"] and (example or name not in PERFORMANCE))
    }
    if "output_tok_s" not in inputs:
        if not (measured or "slo_output_tok_s" in given):
            raise MissingMeasurement(
                f"{source}: [inputs] does not say how fast a replica is. Give output_tok_s (output tokens a second at "
                "full load) and, if known, slo_output_tok_s (within the SLO), or take them from a run with --run."
            )
        # Only the goodput is known: full load is at least that. A run will replace it.
        inputs["output_tok_s"] = given.get("slo_output_tok_s", defaults["inputs"]["output_tok_s"])
    requests = document.get("requests", defaults["requests"])
    if not isinstance(requests, list) or not all(isinstance(entry, dict) for entry in requests):
        raise BadInput(f"{source}: `requests` must be a list of tables: write [[requests]] above each.")
    normal = {
        "name": document.get("name", Path(source).stem),
        "api": _table(document, "api", source) or defaults["api"],
        "hosting": hosting,
        "requests": [_request(entry) for entry in requests],
        "inputs": {name: _quantity(value, INPUTS[name].unit, None, None) for name, value in inputs.items()},
        "notes": document.get("notes", ()),
        "speed_mix": document.get("speed_mix"),
    }
    if normal["speed_mix"] is None:
        # What is wrong with the requests themselves is said by the case's own check.
        kinds = [kind for entry in normal["requests"] if (kind := _request_kind(entry)) is not None]
        normal["speed_mix"] = mean_request(kinds) if kinds and mean_request(kinds)[1] > 0 else (0, 1)
    return _validated(normal, source)


def _table(document: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise BadInput(f"{source}: `{key}` must be a table: write [{key}] and its keys below.")
    return table


def _request(entry: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(entry)
    for name, known in REQUEST_INPUTS.items():
        if name in made:
            made[name] = _quantity(made[name], known.unit, None, None)
    return made


def _request_kind(entry: Mapping[str, Any]) -> RequestKind | None:
    try:
        return RequestKind.model_validate(entry)
    except ValidationError:
        return None


def _quantity(value: Any, unit: str, source: str | None, date: Any) -> Any:
    """The document of a quantity: a number is a point without a range, three are low, mode and high."""
    if isinstance(value, Quantity):
        return value.model_dump()
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return {"low": value, "mode": value, "high": value, "unit": unit, "source": source, "date": date}
    if isinstance(value, tuple) and len(value) == 3:
        return {"low": value[0], "mode": value[1], "high": value[2], "unit": unit, "source": source, "date": date}
    if isinstance(value, dict) and "value" in value and not {"low", "mode", "high"} & set(value):
        point = value["value"]
        return {
            "unit": unit,
            **{k: v for k, v in value.items() if k != "value"},
            "low": point,
            "mode": point,
            "high": point,
        }
    return {"unit": unit, **value} if isinstance(value, dict) else value


def _used(kind: str) -> list[str]:
    unused = {"rent": ("buy", "power"), "buy": ("rent",)}.get(kind, ())
    return [name for name, known in INPUTS.items() if known.group not in unused]


@cache
def _defaults() -> dict[str, Any]:
    return tomllib.loads(DEFAULTS_PATH.read_text(encoding="utf-8"))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6) or [known for known in names if name in known][:2]
    return f"Did you mean `{'` or `'.join(near)}`?" if near else f"Known: {', '.join(names)}."


def _validated(document: dict[str, Any], source: str) -> Case:
    try:
        return Case.model_validate(document)
    except ValidationError as error:
        messages = []
        for item in error.errors()[:3]:
            where = ".".join(str(part) for part in item["loc"])
            value = item["input"]
            shown = f" = {value!r}" if where and isinstance(value, str | int | float) else ""
            text = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                text = "unknown key"
            messages.append(f"{where}{shown}: {text}" if where else text)
        raise BadInput(f"{source}: " + " ".join(f"{m.rstrip('.')}." for m in messages)) from None
