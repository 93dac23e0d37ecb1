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
    [slo]                            # or slo = "ttft_p95<0.5,tpot_p95<0.05,errors<0.01"
    ttft_s = 0.5
    [capacity]                       # the highest rate that meets the SLO, searched for each engine
    precision = 0.1
    [target]                         # a server that already runs, instead of engines of our own
    url = "http://127.0.0.1:8000"
    [quality]                        # how well each engine predicts held-out text, beside the first one
    model = "demo-1m"                # on a trained model, where the engines' own has random weights
    [[skip]]                         # cells that shall not be measured, and why
    engine = {quantization = "int4"}
    load = {concurrency = [1, 4]}
    reason = "four bits are for many users"
    [adaptive]                       # drop engines that are behind: at most half of the grid is measured
    objective = "goodput"
    [cost]                           # a report with sections on memory, capacity and cost
    gpu = "rtx-4090"
    api = "openai/gpt-4o"

A cell is one engine × one load × one repeat. Repeats are the outermost loop, so that a drift of the machine falls on
all engines alike and every repeat starts its servers anew.
"""

import itertools
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from bench.errors import PlanError
from bench.plans.faults import explain, require_known
from bench.plans.loads import Load
from bench.plans.tables import Adaptive, Capacity, Cost, Engine, Objective, Quality, RunningServer, Skip, Slo, Table
from bench.run.store import engine_word, slug
from inputs import files

PLANS = Path(__file__).parent


class Plan(Table):
    """An expanded plan: every engine and load has a name and stands on its own."""

    name: str
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    slo: Objective = Slo()
    capacity: Capacity | None = None
    cost: Cost | None = None
    quality: Quality | None = None
    cell_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    start_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    target: RunningServer | None = None
    skip: tuple[Skip, ...] = ()
    adaptive: Adaptive | None = None
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

    @model_validator(mode="after")
    def _capacity_is_of_a_load(self) -> Self:
        if self.capacity is None:
            return self
        names = [load.name for load in self.loads]
        if self.capacity.load is not None and self.capacity.load not in names:
            raise ValueError(f"capacity.load = {self.capacity.load!r} is none of the loads: {', '.join(names)}")
        if self.searched_load.is_conversation:
            raise ValueError(
                f"capacity: the load {self.searched_load.name!r} is of conversations, and a search sends single "
                "requests: name another load in capacity.load"
            )
        if self.searched_load.arrival in ("trace", "ramp", "step"):
            raise ValueError(
                f"capacity: the load {self.searched_load.name!r} has rates of its own (arrival = "
                f'"{self.searched_load.arrival}"), so it has no other one: name another load in capacity.load'
            )
        return self

    @model_validator(mode="after")
    def _skips_what_there_is(self) -> Self:
        for rule in self.skip:
            for kind, table, model in (("engine", rule.engine, Engine), ("load", rule.load, Load)):
                for key in table:
                    if key not in model.model_fields:
                        raise ValueError(f"skip.{kind}: unknown key `{key}`: name one that an {kind} has")
        return self

    @model_validator(mode="after")
    def _adapts_by_a_load(self) -> Self:
        if self.adaptive is None or self.adaptive.load is None:
            return self
        names = [load.name for load in self.loads]
        if self.adaptive.load not in names:
            raise ValueError(f"adaptive.load = {self.adaptive.load!r} is none of the loads: {', '.join(names)}")
        return self

    @property
    def searched_load(self) -> Load:
        """The load whose requests a search for the capacity sends."""
        named = self.capacity.load if self.capacity else None
        return next(load for load in self.loads if named in (None, load.name))

    @property
    def capacity_slo(self) -> Slo:
        """What a search for the capacity goes by: its own SLO, or the plan's."""
        return (self.capacity and self.capacity.slo) or self.slo


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
        require_known(defaults.get(kind, {}), model, f"{source}: [defaults.{kind}]")
        require_known(matrix.get(kind, {}), model, f"{source}: [matrix.{kind}]")
        expanded = []
        for entry in entries:
            for values in _products(matrix.get(kind, {}), f"{source}: [matrix.{kind}]"):
                merged = {**defaults.get(kind, {}), **entry, **values}
                varied = {**entry, **values} if values or len(entries) > 1 else merged
                if values or not merged.get("name"):
                    merged["name"] = _name(kind, merged, varied, values)
                _find(merged, "prompts_file" if kind == "load" else "lora", base)
                expanded.append(merged)
        document[f"{kind}s"] = expanded
    document.setdefault("name", Path(source).stem)
    if isinstance(quality := document.get("quality"), dict):
        document["quality"] = quality = dict(quality)
        _find(quality, "texts", base)
        if quality.get("baseline") not in [engine.get("name") for engine in document["engines"]]:
            _find(quality, "baseline", base)
    return validate(document, source=source)


def _find(table: dict[str, Any], key: str, base: Path | None) -> None:
    """A file that a table names is sought beside the plan, or at home."""
    if base is not None and isinstance(table.get(key), str):
        table[key] = str((base / Path(table[key]).expanduser()).resolve())


def validate(document: dict[str, Any], *, source: str) -> Plan:
    """The plan of an already expanded document (also the `plan` of a run.json)."""
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise PlanError(explain(error, document, source, Plan)) from None


def validate_target(document: dict[str, Any], *, source: str) -> RunningServer:
    """A `[target]` table by itself. Raises PlanError."""
    try:
        return RunningServer.model_validate(document)
    except ValidationError as error:
        raise PlanError(explain(error, document, source, RunningServer)) from None


def only_searching(plan: Plan, given: dict[str, Any], *, anew: bool = False) -> Plan:
    """The plan with its search alone, and what is `given` of [capacity] instead of what it says; `anew`: and nothing of
    what it says. Raises PlanError."""
    document = plan.model_dump(mode="json")
    said = None if anew else document["capacity"]
    capacity = {**(said or {}), **given, "alone": True}
    loads = [plan.searched_load.model_dump(mode="json")]
    changes = {"loads": loads, "capacity": capacity, "quality": None, "adaptive": None}
    return validate({**document, **changes}, source="nbridge capacity")


def adapting(plan: Plan, say: Callable[[str], None], *, elsewhere: bool = False) -> Plan:
    """The plan with [adaptive], and without what would measure every engine all the same. Raises PlanError."""
    if elsewhere:
        raise PlanError("adaptive: a contest goes round by round on this machine, not on a cluster: leave --on out.")
    left_out = [name for name in ("capacity", "quality") if getattr(plan, name) is not None]
    if left_out:
        say(f"adaptive: [{'] and ['.join(left_out)}] left out, which would measure every engine all the same")
    changes = {"adaptive": (plan.adaptive or Adaptive()).model_dump(mode="json"), "capacity": None, "quality": None}
    return validate({**plan.model_dump(mode="json"), **changes}, source="--adaptive")


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
    """A short name from what sets this entry apart: `int8`, `c16`, `r2.5-chat`; an engine that nothing sets apart is
    called by its model."""
    parts: list[str] = []
    if merged.get("name"):
        parts.append(str(merged["name"]))
    if kind == "load" and merged.get("concurrency") is not None and (not parts or "concurrency" in values):
        parts.append(f"c{merged['concurrency']}")
    elif kind == "load" and merged.get("rate_rps") is not None and (not parts or "rate_rps" in values):
        parts.append(f"r{merged['rate_rps']}")
    elif kind == "engine" and (not parts or "quantization" in values):
        parts.append(engine_word(merged, beside_others="quantization" in values))
        if "model" in values and parts == [engine_word({"model": merged["model"]})]:
            values = {key: value for key, value in values.items() if key != "model"}  # it is in the name already
    skipped = {"name", "quantization", "concurrency", "rate_rps", "requests", "seconds", "extra_args", "kind"}
    shown = values if parts else varied
    for key, value in shown.items():
        word = _word(value)
        if key not in skipped and isinstance(word, (str, int, float, bool)):
            parts.append(word if isinstance(word, str) else f"{key}-{word}")
    return slug("-".join(parts))[:60]


def _word(value: Any) -> Any:
    """What stands for a value in a name: of lengths the mean, of speculation who and how many, of a path its end."""
    if not isinstance(value, dict):
        return Path(value).name if isinstance(value, str) and "/" in value else value
    if "num_speculative_tokens" in value:
        who = Path(str(value.get("model") or value.get("method") or "")).name
        return f"{who}-{value['num_speculative_tokens']}"
    return value.get("mean", value.get("high"))
