"""The tables of a plan, each checked when it is read: engines, loads, limits, cost, a server that already runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.errors import PlanError
from bench.run import slo as objectives
from bench.run.slo import MISSED, Condition
from checkpoints.errors import BadScheme
from checkpoints.tensors import schemes
from serve.engine.settings import Speculative

Positive = Annotated[int, Field(gt=0)]
Arrival = Literal["poisson", "constant"]
LEAST_PIECES = 10  # of held-out text


class Table(BaseModel):
    """A table of a plan: no key but those it knows, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Engine(Table):
    """One server configuration. What is None is left to vLLM.

    `speculative`: who proposes tokens and how many at a time (serve.engine.settings.Speculative); its `model` may be a
    known name. `lora`: the directory of an adapter, to which all requests then go.
    """

    name: str = ""
    model: str
    quantization: str = "none"
    dtype: Literal["auto", "bfloat16", "float16", "float32", "half", "float"] | None = None
    kv_cache_dtype: str | None = None
    max_model_len: Positive | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    block_size: Positive | None = None
    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    tensor_parallel_size: Positive = 1
    pipeline_parallel_size: Positive = 1
    speculative: dict[str, Any] | None = None
    lora: str | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    cpu_kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    enforce_eager: bool | None = None
    extra_args: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _number_format(cls, values: Any) -> Any:
        """A quantization that is a number format (`fp16`) sets `dtype`; one that is refused is refused here."""
        word = values.get("quantization") if isinstance(values, dict) else None
        if not isinstance(word, str):
            return values
        try:
            schemes.wanted(word)
        except BadScheme as error:
            raise ValueError(str(error)) from None
        dtype, given = schemes.DTYPES.get(word.strip().lower()), values.get("dtype")
        if dtype is None or given in (None, "auto"):
            return {**values, "dtype": dtype or given}
        if schemes.DTYPES.get({"float": "float32"}.get(given, given)) != dtype:
            raise ValueError(f"quantization = {word!r} is the number format {dtype}, and dtype = {given!r} is another")
        return values

    @field_validator("speculative")
    @classmethod
    def _proposes(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        try:
            Speculative.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{part}: " for part in first["loc"])
            raise ValueError(f"{place}{first['msg'].removeprefix('Value error, ')}") from None
        return value


class Skip(Table):
    """Cells that shall not be measured: those whose engine and load have each of these values (or one of a list)."""

    engine: dict[str, Any] = {}
    load: dict[str, Any] = {}
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if not self.engine and not self.load:
            raise ValueError("needs `engine` or `load`: the values by which a cell is left out")
        return self


class Adaptive(Table):
    """Successive halving over the engines (bench.adaptive): after each round those behind are dropped.

    `objective` decides, at the load called `load` (the heaviest, unless named); at most `share` of the grid's cells are
    measured.
    """

    objective: Literal[
        "throughput", "goodput", "requests", "ttft_p50", "ttft_p95", "tpot_p50", "e2e_p50", "e2e_p95", "energy"
    ] | None = None  # fmt: skip
    load: str | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


class Slo(Table):
    """What a server is to keep: limits on each request, in seconds, that `share` of all requests shall meet; and
    `conditions` on a cell's figures, as a line (bench.run.slo). A line by itself stands for a table with it alone."""

    ttft_s: Annotated[float, Field(gt=0)] | None = None
    tpot_s: Annotated[float, Field(gt=0)] | None = None
    e2e_s: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.95
    conditions: str | None = None

    @field_validator("conditions")
    @classmethod
    def _readable(cls, line: str | None) -> str | None:
        try:
            return None if line is None else objectives.text(objectives.parse(line, "slo"))
        except PlanError as error:
            raise ValueError(str(error).removesuffix(".")) from None

    def limits(self) -> dict[str, float] | None:
        """The limits per request that goodput counts by: the table's own, else those of percentiles."""
        own = self.model_dump(exclude_none=True, exclude={"share", "conditions"})
        return {**objectives.limits(self._of_line()), **own} or None

    def all_conditions(self) -> tuple[Condition, ...]:
        """Everything that a cell has to meet; limits on each request are one condition on the share beyond them."""
        own = self.model_dump(exclude_none=True, exclude={"share", "conditions"})
        limited = (Condition(MISSED, None, round(1 - self.share, 9), strict=False),) if own else ()
        return limited + self._of_line()

    def _of_line(self) -> tuple[Condition, ...]:
        return () if self.conditions is None else objectives.parse(self.conditions, "slo")


def _objective(value: object) -> object:
    """`"ttft_p95<0.5"` is short for a table with these conditions."""
    return {"conditions": value} if isinstance(value, str) else value


Objective = Annotated[Slo, BeforeValidator(_objective)]


class Capacity(Table):
    """The search for the highest load that meets `slo` (the plan's, unless given), of each engine in each repeat,
    after its loads. `over`: requests per second, or concurrent requests; all else is as in the load called `load` (the
    first). `precision` is half the interval's width at which the search ends, a share; `max_time_s` ends it before.
    `alone`: the plan's loads are not measured by themselves."""

    slo: Objective | None = None
    over: Literal["rate", "concurrency"] = "rate"
    precision: Annotated[float, Field(ge=0.01, le=0.5)] = 0.05
    max_time_s: Annotated[float, Field(gt=0)] = 900.0
    load: str | None = None
    arrival: Arrival | None = None
    start: Annotated[float, Field(gt=0)] | None = None
    alone: bool = False


class Cost(Table):
    """What the report's sections on memory, capacity and cost go by: a GPU of the catalog, an API model, and inputs of
    the cost estimate by name (docs/cost.md), each a number or [low, likely, high]."""

    gpu: str | None = None
    gpus_per_replica: Positive = 1
    hosting: Literal["rent", "buy"] = "rent"
    api: str | None = None
    tokens_per_month: Annotated[float, Field(gt=0)] | None = None
    inputs: dict[str, float | tuple[float, float, float]] = {}


class Quality(Table):
    """Which held-out tokens every engine shall predict, and which engine it is then held against.

    `model`: a trained model on which the engines' settings are judged where their own has random weights. `texts`: a
    file that the model was not trained on; without it the held-out text beside a demo model. `baseline`: an engine of
    the plan (the first one) or a run folder. `tokens` are scored in pieces of `window_tokens`, each by itself; of the
    distribution of each the `top` likeliest tokens are kept.
    """

    model: str | None = None
    texts: str | None = None
    baseline: str | None = None
    tokens: Annotated[int, Field(gt=0, le=10_000_000)] = 8192
    window_tokens: Annotated[int, Field(ge=8, le=1_000_000)] = 512
    top: Annotated[int, Field(ge=1, le=1000)] = 20

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.tokens < LEAST_PIECES * self.window_tokens:
            raise ValueError(
                f"tokens = {self.tokens} at window_tokens = {self.window_tokens}: at least {LEAST_PIECES} pieces are "
                "needed, or there is no standard error to speak of"
            )
        return self


class DialectPins(Table):
    """What is not asked but taken as given about a server (bench.client.dialect.Route says what each means)."""

    limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    token_ids: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: bool | None = None
    temperature: bool | None = None
    stream_options: bool | None = None
    continuous_usage_stats: bool | None = None
    usage: Literal["chunk", "difference", "end", "never"] | None = None
    finish_reason: bool | None = None

    def pins(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class RunningServer(Table):
    """The `[target]` of a plan: a server that already runs, and what has to be said to reach it.

    `headers` and `api_key_env` name environment variables: no secret stands in a plan or a run folder. `path` is the
    endpoint's, behind the URL; `query` and `extra_body` go with every request. `tokens = "client"` counts output
    tokens with `tokenizer` (a directory, a tokenizer.json or a known model) where the server does not.
    """

    url: str | None = None
    model: str | None = None
    endpoint: Literal["completions", "chat"] | None = None
    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] | None = None
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    api_key_env: str | None = None
    extra_body: dict[str, Any] = {}
    ca: str | None = None
    verify: bool = True
    tokens: Literal["server", "client"] = "server"
    tokenizer: str | None = None
    dialect: DialectPins = DialectPins()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.path is not None and self.endpoint is None:
            raise ValueError('`path` needs `endpoint`: say whether it is "chat" or "completions"')
        if (self.tokens == "client") != (self.tokenizer is not None):
            raise ValueError('tokens = "client" and `tokenizer` go together: name the tokenizer that counts')
        if self.tokenizer is not None and self.dialect.usage not in (None, "never"):
            raise ValueError('tokens = "client" counts here, so `usage` of the dialect has no meaning')
        return self
