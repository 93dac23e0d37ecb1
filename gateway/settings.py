"""What one gateway shall be: servers, clouds, policy and limits, read from one TOML file into frozen objects."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from gateway.clouds import Cloud
from gateway.errors import SettingsError
from gateway.policies.routing import AUTO, Policy
from gateway.tables import Count, ModelName, Name, Port, Seconds, Share, Table, variable_name
from inputs import files
from monitoring.scrape.address import is_loopback, normalised


class Gateway(Table):
    """Where users come in, and with which keys."""

    host: str = "127.0.0.1"
    port: Port = 8080
    metrics_port: Port = 8405
    metrics_host: str = "127.0.0.1"
    api_keys_env: str | None = None
    api_keys_file: str | None = None
    allow_no_api_key: bool = False
    compared_with: str | None = None

    @field_validator("api_keys_env")
    @classmethod
    def _is_a_variable_name(cls, value: str | None) -> str | None:
        return variable_name(value)

    @model_validator(mode="after")
    def _is_not_open_to_the_world(self) -> Self:
        keyed = self.api_keys_env or self.api_keys_file
        if not is_loopback(f"http://{self.host}") and not keyed and not self.allow_no_api_key:
            raise ValueError(
                f"host {self.host!r} is reachable from other machines and users need no key: set api_keys_env or "
                "api_keys_file, keep host 127.0.0.1, or say allow_no_api_key = true"
            )
        return self


class Limits(Table):
    """What one request and all of them together may take."""

    body_bytes: Annotated[int, Field(ge=1024, le=64 << 20)] = 1 << 20
    connections: Count = 2000
    queue: Annotated[int, Field(ge=0, le=100_000)] = 64
    queue_s: Seconds = 30.0
    upload_s: Seconds = 30.0
    deadline_s: Seconds = 900.0
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    retry_share: Share = 0.2
    drain_s: Annotated[float, Field(ge=0, le=86400)] = 30.0
    log_bytes: Annotated[int, Field(ge=64 << 10, le=1 << 40)] = 64 << 20

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        if self.deadline_s <= self.queue_s:
            raise ValueError(f"deadline_s = {self.deadline_s:g} must be above queue_s = {self.queue_s:g}")
        return self

    @property
    def attempt_s(self) -> float:
        """How long a server may be silent: all attempts together end before the deadline."""
        return (self.deadline_s - self.queue_s) / (self.retries + 1)


class Health(Table):
    """How servers are looked after: one is out after two failed canaries, or two late ones while nothing else moved."""

    look_s: Annotated[float, Field(ge=0.1, le=60)] = 0.5
    canary_interval_s: Annotated[float, Field(ge=0.2, le=3600)] = 2.0
    canary_deadline_s: Annotated[float, Field(ge=0.1, le=600)] = 1.5
    failing_share: Share = 0.5
    backoff_s: Seconds = 2.0
    backoff_max_s: Seconds = 60.0
    slow_start_s: Annotated[float, Field(ge=0, le=3600)] = 10.0

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.backoff_max_s < self.backoff_s:
            raise ValueError("backoff_max_s must not be below backoff_s")
        return self


class Server(Table):
    """One server of one model. `capacity` is relative to the model's other servers.

    With `each`, every address that the host has is a server of its own. `process` is the one that nbridge swap started
    for it, and that is ended with it.
    """

    name: Name
    url: str
    model: ModelName
    also: tuple[ModelName, ...] = ()
    api_key_env: str | None = None
    capacity: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    places: Annotated[int, Field(ge=1, le=100_000)] = 256
    engine: str | None = None
    each: bool = False
    process: Annotated[int, Field(ge=1)] | None = None

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        address = normalised(value)
        if urlsplit(address).path:
            raise ValueError(f"{value!r} has a path; HAProxy passes paths on as they are, so name host and port only")
        return address

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable_name(cls, value: str | None) -> str | None:
        return variable_name(value)

    @field_validator("also", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _can_be_several(self) -> Self:
        if self.each and (urlsplit(self.url).scheme != "http" or self.process is not None):
            raise ValueError("each = true is for http: a certificate is for the name, not for its addresses")
        return self


class Adapter(Table):
    """A LoRA adapter that all servers of a model load while they run. `path`: where each of them finds it."""

    name: ModelName
    model: ModelName
    path: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")]


class Routing(Table):
    """What `model: "auto"` means, and what ties requests to a server."""

    affinity: Literal["none", "session", "prefix"] = "none"
    default: ModelName | None = None
    fast: ModelName | None = None
    hard: ModelName | None = None
    overflow: ModelName | None = None
    languages: dict[str, ModelName] = Field(default_factory=dict)
    fast_below_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 500.0
    easy_below: Share = 0.5
    hard_above: Share = 0.8
    reserve: Share = 0.3
    reserve_easy: Share = 0.1

    @model_validator(mode="after")
    def _has_a_default(self) -> Self:
        if self.default is None and (self.fast or self.hard or self.overflow or self.languages):
            raise ValueError('default is not set: it is the model of "auto" for whatever no other rule takes')
        return self

    def policy(self) -> Policy:
        """The rules as the pure functions take them."""
        return Policy(**self.model_dump(exclude={"affinity"}))


class Settings(Table):
    gateway: Gateway = Gateway()
    limits: Limits = Limits()
    health: Health = Health()
    policy: Routing = Routing()
    server: tuple[Server, ...] = ()
    cloud: tuple[Cloud, ...] = ()
    adapter: tuple[Adapter, ...] = ()

    @field_validator("server", "cloud", "adapter", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.server and not self.cloud:
            raise ValueError("there is no [[server]] and no [[cloud]]: name at least one")
        names = [one.name for one in self.server] + [one.name for one in self.cloud]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {twice[0]!r} is given twice; each server needs its own")
        for model in self.models:
            keys = {one.api_key_env for one in self.servers_of(model)}
            schemes = {urlsplit(one.url).scheme for one in self.servers_of(model)}
            if len(keys) > 1:
                raise ValueError(
                    f"the servers of the model {model!r} want different keys; a request may go to each of them, so "
                    "give all of them the same api_key_env"
                )
            unknown = [one.name for one in self.servers_of(model) if one.capacity is None]
            if unknown and len(unknown) < len(self.servers_of(model)):
                raise ValueError(
                    f"capacity is set for some servers of the model {model!r} and not for {unknown[0]}; "
                    "set it for all or none"
                )
            if len(schemes) > 1:
                raise ValueError(f"the servers of the model {model!r} are of http and of https; make them alike")
        for alias, model in self.aliases.items():
            if alias in self.models or alias == AUTO:
                raise ValueError(f"also = {alias!r} of the model {model!r} is a model's own name")
        for key, model in self._chosen().items():
            if model not in self.models:
                raise ValueError(f"policy.{key} = {model!r} is no model of a server or cloud: {', '.join(self.models)}")
        return self

    @model_validator(mode="after")
    def _has_ports_of_its_own(self) -> Self:
        own = self.gateway
        if own.port and (own.port, own.host) == (own.metrics_port, own.metrics_host):
            raise ValueError(f"gateway.port and gateway.metrics_port are both {own.port}; they need two")
        for one in self.server:
            # Each request would come back to it without end.
            if (own.port and _is_at(one.url, own.host, own.port)) or (
                own.metrics_port and _is_at(one.url, own.metrics_host, own.metrics_port)
            ):
                raise ValueError(f"the server {one.name!r} at {one.url} would be this gateway itself")
        return self

    @model_validator(mode="after")
    def _adapters_have_names_of_their_own(self) -> Self:
        taken = {*self.models, *self.aliases, AUTO}
        for one in self.adapter:
            if one.name in taken:
                raise ValueError(f"the adapter's name {one.name!r} is taken; each name stands for one thing")
            if not self.servers_of(one.model):
                raise ValueError(f"the adapter {one.name!r} is of {one.model!r}, which is no model of a [[server]]")
            taken.add(one.name)
        return self

    def _chosen(self) -> dict[str, str]:
        own = {key: getattr(self.policy, key) for key in ("default", "fast", "hard", "overflow")}
        spoken = {f"languages.{name}": model for name, model in self.policy.languages.items()}
        return {key: model for key, model in {**own, **spoken}.items() if model}

    @model_validator(mode="after")
    def _clouds_have_models_of_their_own(self) -> Self:
        in_clouds = [model for one in self.cloud for model in one.models]
        for model in in_clouds:
            if model in {server.model for server in self.server}:
                raise ValueError(f"the model {model!r} has servers and a cloud; give the cloud's its own name")
            if in_clouds.count(model) > 1:
                raise ValueError(f"the model {model!r} is named twice under [[cloud]]; give each its own name")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order in which they are first named."""
        return tuple(
            dict.fromkeys([one.model for one in self.server] + [model for one in self.cloud for model in one.models])
        )

    @property
    def aliases(self) -> dict[str, str]:
        """Other name → model."""
        return {other: one.model for one in self.server for other in one.also}

    def cloud_of(self, model: str) -> Cloud | None:
        """The cloud that a model is asked of; None for one of our own servers'."""
        return next((one for one in self.cloud if model in one.models), None)

    def adapters_of(self, model: str) -> tuple[Adapter, ...]:
        return tuple(one for one in self.adapter if one.model == model)

    def servers_of(self, model: str) -> tuple[Server, ...]:
        return tuple(one for one in self.server if one.model == model)


def _is_at(url: str, host: str, port: int) -> bool:
    """Whether an address is where a process of this machine listens that was told `host` and `port`."""
    parts = urlsplit(url)
    near = is_loopback(url) and (is_loopback(f"http://{host}") or host in ("0.0.0.0", "::", "*"))  # noqa: S104
    return parts.port == port and (near or parts.hostname == host)


def load(path: Path) -> Settings:
    """The settings in a TOML file. Raises SettingsError with file, key, value and what was expected."""
    try:
        values = files.read_settings(path)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return parse(values, str(path))


def parse(values: Mapping[str, Any], source: str) -> Settings:
    """The settings in a document; `source` is named in errors. Raises SettingsError."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(one, source) for one in error.errors())) from None


def parse_server(values: Mapping[str, Any], source: str) -> Server:
    """One server as it is added at run time. Raises SettingsError."""
    try:
        return Server.model_validate(values)
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(one, source, Server) for one in error.errors())) from None


def parse_adapter(values: Mapping[str, Any], source: str) -> Adapter:
    """One adapter as it is loaded at run time. Raises SettingsError."""
    try:
        return Adapter.model_validate(values)
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(one, source, Adapter) for one in error.errors())) from None


def _explain(error: Any, source: str, top: type[BaseModel] = Settings) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    secret = bool(location) and "key" in location[-1]
    value = "" if secret or isinstance(error["input"], dict) else f" = {error['input']!r}"
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".").replace("Input should be", "expected")
    match error["type"]:
        case "extra_forbidden":
            known = _known_beside(location, top)
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}."
            return f"{source}: unknown setting {key}; {hint}"
        case "missing":
            return f"{source}: {key} is not set."
        case "value_error" if not location:
            return f"{source}: {message}."
        case "string_pattern_mismatch":
            return f"{source}: {key}{value}: a name has letters, digits and . _ - (a model's also / and :)."
    return f"{source}: {key}{value}: {message}."


def _known_beside(location: Sequence[str], top: type[BaseModel]) -> list[str]:
    table = top
    for part in location[:-1]:
        if not part.isdecimal():
            annotation = table.model_fields[part].annotation
            candidates = (annotation, *get_args(annotation))
            table = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), table)
    return list(table.model_fields)
