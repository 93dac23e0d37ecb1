"""What `nbridge ray FILE` reads: an engine, the door to it, and how many of it.

One TOML file, or the `args` of Ray's own configuration file, becomes one frozen object.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from deploy.errors import SettingsError
from gateway.tables import Count, Name, Seconds, Table
from inputs import files
from serve.engine.settings import EngineSettings
from serve.engine.settings import is_loopback as only_here
from serve.engine.settings import parse as parse_engine

PROXIES = {"head": "HeadOnly", "every-node": "EveryNode"}  # ours → Ray's
_TABLES = ("engine", "ray", "scaling")
_OF_THE_REPLICA = ("host", "port")
Kind = TypeVar("Kind", bound=Table)


class Door(Table):
    """Where users come in, and what one replica takes.

    `places`: most requests at once at one replica; `queue`: most that wait for a place, above which users get 503.
    `gpus`: of one replica; None: as many as the engine spreads over where the cluster has GPUs, else none.
    """

    name: Name = "nbridge"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    proxies: Literal["head", "every-node"] = "head"
    places: Count = 256
    queue: Count = 1024
    cpus: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    drain_s: Seconds = 120.0
    start_timeout_s: Seconds = 1800.0
    log_dir: str | None = None


class Scaling(Table):
    """How many replicas: as many as the largest of what the given signals ask for, each a total divided by this."""

    min_replicas: Count = 1
    max_replicas: Count = 1
    waiting_per_replica: Annotated[float, Field(gt=0, le=1e6)] = 5.0
    in_work_per_replica: Annotated[float, Field(gt=0, le=1e6)] = 16.0
    look_s: Annotated[float, Field(ge=1, le=3600)] = 15.0
    up_after_s: Annotated[float, Field(ge=0, le=3600)] = 15.0
    down_after_s: Annotated[float, Field(ge=0, le=86400)] = 600.0

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas = {self.max_replicas} is below min_replicas = {self.min_replicas}")
        return self


@dataclass(frozen=True)
class Settings:
    """`engine` listens on the loopback address of its node, on a free port: `door` is the only way in."""

    engine: EngineSettings
    door: Door
    scaling: Scaling

    def document(self) -> dict[str, Any]:
        """What `parse` makes these settings of: what was said, and nothing that is a default."""
        engine = self.engine.model_dump(mode="json", exclude_unset=True, exclude=set(_OF_THE_REPLICA))
        door, scaling = (one.model_dump(mode="json", exclude_unset=True) for one in (self.door, self.scaling))
        return {"engine": engine, "ray": door, "scaling": scaling}


def load(path: Path) -> Settings:
    """The settings in a TOML file. Raises SettingsError with file, key, value and what was expected."""
    try:
        values = files.read_settings(path)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return parse(values, str(path))


def parse(values: Mapping[str, Any], source: str) -> Settings:
    """The settings in a document; `source` is named in errors. Raises SettingsError (ours or the engine's)."""
    for name, table in values.items():
        if name not in _TABLES:
            raise SettingsError(f"{source}: unknown table [{name}]; {_hint(name, _TABLES)}")
        if not isinstance(table, Mapping):
            raise SettingsError(f"{source}: {name} = {table!r}: expected a table, [{name}].")
    if "engine" not in values:
        raise SettingsError(f'{source}: [engine] is missing; it names at least the model, as in model = "demo-1m".')
    door = _table(Door, values.get("ray", {}), f"{source}: [ray]")
    settings = Settings(
        _engine(values["engine"], f"{source}: [engine]"),
        door,
        _table(Scaling, values.get("scaling", {}), f"{source}: [scaling]"),
    )
    if not only_here(door.host) and settings.engine.api_key_env is None and not settings.engine.allow_no_api_key:
        raise SettingsError(
            f"{source}: [ray] host = {door.host!r} is reachable from other machines and the servers have no API key: "
            "name the environment variable that holds one ([engine] api_key_env), keep host 127.0.0.1, or say "
            "allow_no_api_key = true in [engine]."
        )
    return settings


def _engine(values: Mapping[str, Any], source: str) -> EngineSettings:
    for name in _OF_THE_REPLICA:
        if name in values:
            raise SettingsError(
                f"{source} {name} = {values[name]!r}: a replica's server listens on its node's loopback address, on a "
                f"free port. Where users come in is {name} in [ray]."
            )
    if values.get("lora_modules"):
        raise SettingsError(
            f"{source} lora_modules: adapters are not served on Ray. Serve them with `nbridge serve`, or load them "
            "into the servers of a gateway with `nbridge gateway load`."
        )
    return parse_engine({**values, "host": "127.0.0.1", "port": 0}, source)


def _table(kind: type[Kind], values: Mapping[str, Any], source: str) -> Kind:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(one, source, kind) for one in error.errors())) from None


def _explain(error: Any, source: str, kind: type[Table]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".").replace("Input should be", "expected")
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown setting {key} = {error['input']!r}; {_hint(key, list(kind.model_fields))}"
    if not key:
        return f"{source}: {message}."
    return f"{source} {key} = {error['input']!r}: {message}."


def _hint(name: str, known: list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}."
