"""A plan: which engines, which loads, how often. One TOML file, checked once, expanded into cells.

    name = "quantization"
    repeats = 1
    [defaults.engine]
    model = "demo-100m"
    [[engines]]                      # one entry per server configuration
    name = "int8"
    quantization = "int8"
    [[loads]]                        # one entry per load
    concurrency = 4
    requests = 32
    [matrix.load]                    # every load × every value (also [matrix.engine])
    concurrency = [1, 4, 16]
    [slo]
    ttft_s = 0.5
    [target]                         # a server that already runs, instead of engines of our own
    url = "http://127.0.0.1:8000"
    [cost]                           # a report with sections on memory, capacity and cost
    gpu = "rtx-4090"
    api = "openai/gpt-4o"

A cell is one engine × one load × one repeat. Repeats are the outermost loop, so that a drift of the machine falls on
all engines alike and every repeat starts its servers anew.
"""

import difflib
import itertools
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.errors import PlanError
from bench.run.store import slug
from inputs import files

PLANS = Path(__file__).parent
Positive = Annotated[int, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lengths(_Table):
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


class Engine(_Table):
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


class Load(_Table):
    """One load. Closed: `concurrency` users, each sends its next request when the last has ended. Open: requests
    arrive at `rate_rps` whether or not the server keeps up, or, with `arrival = "trace"`, when those of the trace in
    `prompts_file` did, `speed` times as fast; its `rate_rps` and `requests` are then what the file says."""

    name: str = ""
    scenario: Literal["chat", "completion", "retrieval", "mixed", "file", "hidden_states"] = "completion"
    kind: Literal["closed", "open"] = "closed"
    concurrency: Positive | None = None
    rate_rps: Annotated[float, Field(gt=0)] | None = None
    arrival: Literal["poisson", "constant", "trace"] = "poisson"
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    requests: Positive | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    prompt_tokens: TokenLengths | None = None
    output_tokens: TokenLengths | None = None
    shared_prefix_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    prompts_file: str | None = None
    column: str | None = None
    turns: Literal["first", "last", "all"] = "first"
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

    @model_validator(mode="after")
    def _possible(self) -> Self:
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
        if (self.requests is None) == (self.seconds is None) and (self.arrival != "trace" or self.requests is not None):
            raise ValueError("set either `requests` or `seconds`, so that the load ends")
        self._of_a_file()
        if self.requests is not None and self.concurrency is not None and self.requests < 2 * self.concurrency:
            raise ValueError(
                f"requests = {self.requests} at concurrency = {self.concurrency}: every user needs at least two, "
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


class Slo(_Table):
    """Limits that a request has to meet to count as goodput, in seconds; `share` of all requests shall meet them."""

    ttft_s: Annotated[float, Field(gt=0)] | None = None
    tpot_s: Annotated[float, Field(gt=0)] | None = None
    e2e_s: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.95

    def limits(self) -> dict[str, float] | None:
        return self.model_dump(exclude_none=True, exclude={"share"}) or None


class Cost(_Table):
    """What the report's sections on memory, capacity and cost go by: a GPU of the catalog, an API model, and inputs of
    the cost estimate by name (docs/cost.md), each a number or [low, likely, high]."""

    gpu: str | None = None
    gpus_per_replica: Positive = 1
    hosting: Literal["rent", "buy"] = "rent"
    api: str | None = None
    tokens_per_month: Annotated[float, Field(gt=0)] | None = None
    inputs: dict[str, float | tuple[float, float, float]] = {}


class DialectPins(_Table):
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


class RunningServer(_Table):
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


class Plan(_Table):
    """An expanded plan: every engine and load has a name and stands on its own."""

    name: str
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    slo: Slo = Slo()
    cost: Cost | None = None
    cell_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    start_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    target: RunningServer | None = None
    engines: Annotated[tuple[Engine, ...], Field(min_length=1)]
    loads: Annotated[tuple[Load, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for kind, entries in (("engine", self.engines), ("load", self.loads)):
            names = [slug(entry.name) for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind}s are called {twice[0]!r}: give each a `name` of its own")
        return self


def cell_id(engine: Engine, load: Load, repeat: int) -> str:
    return f"{slug(engine.name)}-{slug(load.name)}-r{repeat}"


def load_plan(path: Path, *, remote: bool = False) -> Plan:
    """Read, check and expand a plan. Raises PlanError that names the file, the key, its value and what was expected."""
    try:
        document = files.read_toml(path)
    except FileNotFoundError:
        bundled = sorted(p.stem for p in PLANS.glob("*.toml"))
        raise PlanError(f"{path}: no such plan. Give a TOML file or a bundled plan: {', '.join(bundled)}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path}: not readable as TOML ({error}).") from error
    return expand(document, source=str(path), base=path.parent, remote=remote)


def find_plan(name: str | None) -> Path:
    """The file of a plan: a path, or the name of a bundled plan; the default plan for None."""
    if name is None:
        return PLANS / "default.toml"
    bundled = PLANS / f"{name}.toml"
    return bundled if "/" not in name and not Path(name).exists() and bundled.exists() else Path(name)


def expand(document: dict[str, Any], *, source: str, base: Path | None = None, remote: bool = False) -> Plan:
    """Apply `[defaults]` and `[matrix]`, name what has no name, and validate.

    `remote`: it is for a server that already runs, so that it needs no engines.
    """
    document = dict(document)
    given = [table.get("engine") for key in ("defaults", "matrix") if isinstance(table := document.get(key), dict)]
    if (remote or "target" in document) and "engines" not in document and not any(given):
        document["engines"] = [{"name": "target", "model": "target"}]  # replaced by what the server says it serves
    defaults = _sub_table(document, "defaults", source)
    matrix = _sub_table(document, "matrix", source)
    for kind, model in (("engine", Engine), ("load", Load)):
        entries = document.get(f"{kind}s", [{}])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise PlanError(f"{source}: `{kind}s` must be a list of tables: write [[{kind}s]] above each of them.")
        _known(defaults.get(kind, {}), model, f"{source}: [defaults.{kind}]")
        _known(matrix.get(kind, {}), model, f"{source}: [matrix.{kind}]")
        expanded = []
        for entry in entries:
            for values in _products(matrix.get(kind, {}), f"{source}: [matrix.{kind}]"):
                merged = {**defaults.get(kind, {}), **entry, **values}
                varied = {**entry, **values} if values or len(entries) > 1 else merged
                if values or not merged.get("name"):
                    merged["name"] = _name(kind, merged, varied, values)
                if kind == "load" and base is not None and isinstance(merged.get("prompts_file"), str):
                    merged["prompts_file"] = str((base / Path(merged["prompts_file"]).expanduser()).resolve())
                expanded.append(merged)
        document[f"{kind}s"] = expanded
    document.setdefault("name", Path(source).stem)
    return validate(document, source=source)


def validate(document: dict[str, Any], *, source: str) -> Plan:
    """The plan of an already expanded document (also the `plan` of a run.json)."""
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise PlanError(_explain(error, document, source)) from None


def validate_target(document: dict[str, Any], *, source: str) -> RunningServer:
    """A `[target]` table by itself. Raises PlanError."""
    try:
        return RunningServer.model_validate(document)
    except ValidationError as error:
        raise PlanError(_explain(error, document, source, RunningServer)) from None


def _sub_table(document: dict[str, Any], key: str, source: str) -> dict[str, dict[str, Any]]:
    table = document.pop(key, {})
    if not isinstance(table, dict) or not all(isinstance(value, dict) for value in table.values()):
        raise PlanError(f"{source}: `{key}` must hold the tables [{key}.engine] and [{key}.load].")
    for name in table:
        if name not in ("engine", "load"):
            raise PlanError(f"{source}: unknown table [{key}.{name}]; known are [{key}.engine] and [{key}.load].")
    return table


def _products(matrix: dict[str, Any], where: str) -> Iterable[dict[str, Any]]:
    for key, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise PlanError(f"{where}: {key} = {values!r}: expected a list of the values to try.")
    keys = list(matrix)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(matrix[key] for key in keys))]


def _name(kind: str, merged: dict[str, Any], varied: dict[str, Any], values: dict[str, Any]) -> str:
    """A short name from what sets this entry apart: `int8`, `c16`, `r2.5-chat`."""
    parts: list[str] = []
    if merged.get("name"):
        parts.append(str(merged["name"]))
    if kind == "load" and merged.get("concurrency") is not None and (not parts or "concurrency" in values):
        parts.append(f"c{merged['concurrency']}")
    elif kind == "load" and merged.get("rate_rps") is not None and (not parts or "rate_rps" in values):
        parts.append(f"r{merged['rate_rps']}")
    elif kind == "engine" and (not parts or "quantization" in values):
        parts.append(str(merged.get("quantization", "none")))
    skipped = {"name", "quantization", "concurrency", "rate_rps", "requests", "seconds", "extra_args", "kind"}
    shown = values if parts else varied
    for key, value in shown.items():
        word = value.get("mean", value.get("high")) if isinstance(value, dict) else value
        if key not in skipped and isinstance(word, (str, int, float, bool)):
            parts.append(word if isinstance(word, str) else f"{key}-{word}")
    return slug("-".join(parts))[:60]


def _known(table: dict[str, Any], model: type[BaseModel], where: str) -> None:
    for key, value in table.items():
        if key not in model.model_fields:
            raise PlanError(f"{where}: unknown key `{key}` (= {value!r}). {_nearest(key, model.model_fields)}")


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(names)}."


def _explain(error: ValidationError, document: dict[str, Any], source: str, top: type[BaseModel] | None = None) -> str:
    """The first problems of a plan as one readable paragraph."""
    tables: dict[str, type[BaseModel]] = {
        "engines": Engine, "loads": Load, "slo": Slo, "cost": Cost, "target": RunningServer, "dialect": DialectPins
    }  # fmt: skip
    lengths = {"prompt_tokens", "output_tokens"}
    messages = []
    problems = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
    for item in problems[:3]:
        path = [part for part in item["loc"] if part not in ("function-before",)]
        where = ".".join(str(part) for part in path) or "the plan"
        entry: Any = document
        for part in path[:-1]:
            try:
                entry = entry[part]
            except (KeyError, IndexError, TypeError):
                entry = None
                break
        if len(path) >= 2 and path[0] in ("engines", "loads") and isinstance(path[1], int):
            names = document[str(path[0])]
            label = names[path[1]].get("name") if isinstance(names[path[1]], dict) else None
            where = ".".join([f"{path[0]}[{label or path[1]}]", *(str(part) for part in path[2:])])
        if item["type"] == "extra_forbidden":
            table: type[BaseModel] = Lengths if any(p in lengths for p in path[:-1]) else tables.get(str(path[0]), Plan)
            table = tables["dialect"] if path[:2] == ["target", "dialect"] and len(path) > 2 else table
            known = set(table.model_fields) if len(path) > 1 else {*Plan.model_fields, "defaults", "matrix"}
            known = set(top.model_fields) if top and len(path) == 1 else known
            messages.append(f"{where} = {item['input']!r}: unknown key. {_nearest(str(path[-1]), known)}")
        elif item["type"] == "missing":
            messages.append(f"{where}: is missing.")
        else:
            value = f" = {item['input']!r}" if not isinstance(item["input"], (dict, list, tuple)) else ""
            messages.append(f"{where}{value}: {item['msg'].removeprefix('Value error, ')}.")
    return f"{source}: " + " ".join(messages)
