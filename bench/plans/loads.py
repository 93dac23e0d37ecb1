"""The table of a load: what is sent, by how many users or at which instants, for how long."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bench.plans.tables import Positive, Table
from bench.run.rates import mean_rps


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


class Load(Table):
    """One load. Closed: `concurrency` users, each sends its next request when the last has ended; given `requests` and
    `seconds`, whichever is reached first ends it. Open: requests arrive at `rate_rps` whether or not the server keeps
    up (bench.plans.arrivals has the processes). Where the rate changes, `rates_rps` are the rates in time and
    `rate_rps` becomes their mean. With `arrival = "trace"` requests arrive when those of the trace in `prompts_file`
    did, `speed` times as fast; its `rate_rps` and `requests` are then what the file says.

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
        if much is None and self.seconds is None and self.arrival != "trace":
            raise ValueError(f"set `{counted}` or `seconds`, so that the load ends")
        if much is not None and self.seconds is not None and (self.kind == "open" or self.is_conversation):
            of = "conversations" if self.is_conversation else 'kind = "open"'
            raise ValueError(
                f"set either `{counted}` or `seconds`: both, whichever ends first, are for closed loads, not for {of}"
            )
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
