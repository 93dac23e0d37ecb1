"""The tables of a plan, each checked when it is read: engines, loads, limits, cost, a server that already runs."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bench.errors import PlanError
from bench.run import slo as objectives
from bench.run.rates import mean_rps
from bench.run.slo import MISSED, Condition
from checkpoints.errors import BadScheme
from checkpoints.tensors import schemes

Positive = Annotated[int, Field(gt=0)]
Arrival = Literal["poisson", "constant"]
LEAST_PIECES = 10  # of held-out text


class Table(BaseModel):
    """A table of a plan: no key but those it knows, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lengths(Table):
    """Token counts. `fixed`: mean; `uniform`: low…high; `lognormal`: mean and sigma, cut to low…high."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    mean: Annotated[float, Field(gt=0)] | None = None
    sigma: Annotated[float, Field(gt=0, le=3)] = 0.5
    low: Positive = 1
    high: Positive | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "uniform":
            if self.high is None:
                raise ValueError("a uniform length needs `high` (and may have `low`)")
            if self.mean is not None:
                raise ValueError("a uniform length has `low` and `high`, no `mean`")
        elif self.mean is None:
            raise ValueError(f"a {self.kind} length needs `mean`")
        if self.high is not None and self.high < self.low:
            raise ValueError(f"high = {self.high} is below low = {self.low}")
        return self


def _lengths(value: object) -> object:
    """`64` is short for a fixed length of 64 tokens."""
    return {"kind": "fixed", "mean": value} if isinstance(value, int) and not isinstance(value, bool) else value


TokenLengths = Annotated[Lengths, BeforeValidator(_lengths)]


class Think(Table):
    """How long a user thinks between an answer and the next turn. `fixed`: mean; `lognormal`: mean and sigma."""

    kind: Literal["fixed", "lognormal"] = "fixed"
    mean: Annotated[float, Field(ge=0, le=86_400)]
    sigma: Annotated[float, Field(gt=0, le=3)] = 0.5


def _think(value: object) -> object:
    """`2.5` is short for always 2.5 s."""
    return {"mean": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


ThinkTime = Annotated[Think, BeforeValidator(_think)]


class Engine(Table):
    """One server configuration. What is None is left to vLLM."""

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


class Load(Table):
    """One load. Closed: `concurrency` users, each sends its next request when the last has ended. Open: requests
    arrive at `rate_rps` whether or not the server keeps up (bench.plans.arrivals has the processes). Where the rate
    changes, `rates_rps` are the rates in time and `rate_rps` becomes their mean. With `arrival = "trace"` requests
    arrive when those of the trace in `prompts_file` did, `speed` times as fast; its `rate_rps` and `requests` are then
    what the file says.

    A load of conversations (`scenario = "conversation"`, or a file's with `turns = "carried"`) sends turn after turn of
    each, with the answers that the server gave carried on; users and arrivals are then those of conversations."""

    name: str = ""
    scenario: Literal["chat", "completion", "retrieval", "mixed", "conversation", "file", "hidden_states"] = (
        "completion"
    )
    kind: Literal["closed", "open"] = "closed"
    concurrency: Positive | None = None
    rate_rps: Annotated[float, Field(gt=0)] | None = None
    arrival: Literal["poisson", "gamma", "constant", "ramp", "step", "trace"] = "poisson"
    burstiness: Annotated[float, Field(gt=0.01, le=1000)] | None = None
    rates_rps: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    requests: Positive | None = None
    conversations: Positive | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    conversation_turns: TokenLengths | None = None
    think_s: ThinkTime | None = None
    prompt_tokens: TokenLengths | None = None
    output_tokens: TokenLengths | None = None
    shared_prefix_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    prompts_file: str | None = None
    column: str | None = None
    turns: Literal["first", "last", "all", "carried"] = "first"
    too_long: Literal["skip", "cut"] = "skip"
    endpoint: Literal["chat", "completions"] | None = None
    layers: tuple[int | Literal["embeddings", "final_norm"], ...] | Literal["all"] | None = None
    pooling: Literal["last", "mean", "all"] | None = None
    prompts_per_request: Positive | None = None
    ignore_eos: bool = True
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    warmup_requests: Annotated[int, Field(ge=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_in_flight: Positive = 512
    processes: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _with_mean_rate(cls, document: Any) -> Any:
        """The mean of a changing rate is the load's rate, unless it is given."""
        if not isinstance(document, dict) or document.get("rate_rps") is not None:
            return document
        rates = document.get("rates_rps")
        if not isinstance(rates, list | tuple) or len(rates) < 2 or not all(isinstance(r, int | float) for r in rates):
            return document  # said below, or by the fields themselves
        mean = mean_rps(str(document.get("arrival")), rates)
        return {**document, "rate_rps": mean} if mean > 0 else document

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._of_arrivals()
        if self.kind == "closed":
            if self.concurrency is None:
                raise ValueError("a closed load needs `concurrency` (how many users)")
            if self.rate_rps is not None:
                raise ValueError('`rate_rps` belongs to an open load: set kind = "open", or remove it')
        else:
            if self.rate_rps is None and self.arrival != "trace":
                raise ValueError("an open load needs `rate_rps` (requests per second)")
            if self.concurrency is not None:
                raise ValueError("`concurrency` belongs to a closed load; an open load is bounded by `max_in_flight`")
        self._of_conversations()
        counted, much = ("conversations", self.conversations) if self.is_conversation else ("requests", self.requests)
        if (much is None) == (self.seconds is None) and (self.arrival != "trace" or much is not None):
            raise ValueError(f"set either `{counted}` or `seconds`, so that the load ends")
        self._of_a_file()
        if much is not None and self.concurrency is not None and much < 2 * self.concurrency:
            raise ValueError(
                f"{counted} = {much} at concurrency = {self.concurrency}: every user needs at least two, "
                "or there is no time at which all users are busy"
            )
        asked = [name for name in ("layers", "pooling", "prompts_per_request") if getattr(self, name) is not None]
        if asked and self.scenario != "hidden_states":
            raise ValueError(f'`{asked[0]}` belongs to scenario = "hidden_states"')
        if self.scenario == "hidden_states" and self.output_tokens is not None:
            raise ValueError("`output_tokens`: a request for hidden states has no output tokens; leave it out")
        if self.processes > 1 and self.concurrency is not None and self.concurrency < self.processes:
            raise ValueError(f"processes = {self.processes} for {self.concurrency} users: at most one process per user")
        return self

    @property
    def is_conversation(self) -> bool:
        """Whether turns carry the server's own answers on."""
        return self.scenario == "conversation" or self.turns == "carried"

    def _of_conversations(self) -> None:
        """What only a load of conversations has, and what it has not."""
        if not self.is_conversation:
            for name in ("conversations", "conversation_turns", "think_s"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f'`{name}` belongs to scenario = "conversation", or to turns = "carried" of a file'
                    )
            return
        if self.requests is not None:
            raise ValueError("`requests` of conversations are not known beforehand: set `conversations` or `seconds`")
        if self.scenario == "file" and self.conversation_turns is not None:
            raise ValueError("`conversation_turns`: a file's conversations have turns of their own")
        if self.arrival == "trace" or self.endpoint == "completions":
            said = 'arrival = "trace"' if self.arrival == "trace" else 'endpoint = "completions"'
            raise ValueError(f"{said} and conversations exclude each other")

    def _of_arrivals(self) -> None:
        """What only some arrival processes have."""
        changing = self.arrival in ("ramp", "step")
        if self.kind == "closed" and (changing or self.arrival == "gamma"):
            raise ValueError(f'arrival = "{self.arrival}" belongs to an open load: set kind = "open"')
        if (self.arrival == "gamma") != (self.burstiness is not None):
            raise ValueError('arrival = "gamma" and `burstiness` go together (below 1: in bursts, 1: poisson)')
        if changing != (self.rates_rps is not None):
            raise ValueError('`rates_rps` goes with arrival = "ramp" or "step": the rates in time, e.g. [1, 10]')
        if self.rates_rps is None:
            return
        if len(self.rates_rps) < 2:
            raise ValueError(f"rates_rps = {list(self.rates_rps)}: two rates at least, e.g. [1, 10]")
        if not any(self.rates_rps):
            raise ValueError("`rates_rps` are all 0: nothing would arrive")
        if self.seconds is None:
            raise ValueError(f'arrival = "{self.arrival}" needs `seconds`: its rates are spread over them')
        mean = mean_rps(self.arrival, self.rates_rps)
        if self.rate_rps is not None and not math.isclose(self.rate_rps, mean, rel_tol=1e-6):
            raise ValueError(f"rate_rps = {self.rate_rps:g}, but the mean of rates_rps is {mean:g}: leave rate_rps out")

    def _of_a_file(self) -> None:
        """What only a load with a prompts file has."""
        if (self.scenario == "file") != (self.prompts_file is not None):
            raise ValueError('`prompts_file` and scenario = "file" go together')
        if self.arrival == "trace":
            if self.prompts_file is None:
                raise ValueError('arrival = "trace" needs scenario = "file" and a `prompts_file` with arrival times')
            if self.kind != "open":
                raise ValueError('arrival = "trace" belongs to an open load: set kind = "open"')
        elif self.speed != 1.0:
            raise ValueError('`speed` belongs to arrival = "trace"')
        if self.prompts_file is None:
            for name in ("column", "turns", "too_long", "endpoint"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f'`{name}` belongs to scenario = "file"')


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
