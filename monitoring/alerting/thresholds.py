"""Every number of the rules: one frozen, validated settings object.

It is read from `rules/thresholds.toml`, which holds all defaults, and one file of yours, which holds what differs.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inputs import files
from monitoring.alerting.receivers import Chat, Email, Heartbeat, Receiver, Webhook
from monitoring.errors import SettingsError

DEFAULTS = Path(__file__).parents[1] / "rules" / "thresholds.toml"
Latency = Literal["ttft", "itl", "e2e", "queue"]
LATENCIES: tuple[Latency, ...] = get_args(Latency)

Seconds = Annotated[float, Field(gt=0)]
HoldS = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Bounds = Annotated[tuple[Seconds, ...], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(_Table):
    scrape_interval_s: Seconds
    scrape_timeout_s: Seconds
    evaluation_interval_s: Seconds
    window_s: Seconds
    group_wait_s: HoldS
    group_interval_s: Seconds
    repeat_interval_s: Seconds
    retention_days: Count

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scrape_interval_s > self.evaluation_interval_s:
            raise ValueError("scrape_interval_s must not exceed evaluation_interval_s: a rule would see old values")
        if self.scrape_timeout_s > self.scrape_interval_s:
            raise ValueError("scrape_timeout_s must not exceed scrape_interval_s")
        if self.window_s < 4 * self.scrape_interval_s:
            raise ValueError("window_s must be at least four scrape intervals, or one lost scrape empties it")
        return self


class Jobs(_Table):
    servers: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    gpus: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    gateways: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]


class Server(_Table):
    down_for_s: HoldS
    without_metrics_for_s: HoldS
    memory_growth_bytes_per_hour: Count
    memory_window_s: Seconds


class Engine(_Table):
    stalled_s: Seconds
    waiting_max: Count
    waiting_for_s: HoldS
    kv_usage_max: Share
    kv_for_s: HoldS
    rejections_for_s: HoldS


class Canary(_Table):
    interval_s: Annotated[float, Field(ge=1)]
    timeout_s: Annotated[float, Field(ge=0.1)]
    failures: Count


class Objective(_Table):
    """`budget_share` of requests (for itl: of tokens) may take longer than `threshold_s`."""

    threshold_s: Seconds
    budget_share: Share


class Availability(_Table):
    budget_share: Share


class Objectives(_Table):
    ttft: Objective
    itl: Objective
    e2e: Objective
    queue: Objective
    availability: Availability

    def latency(self, name: Latency) -> Objective:
        """The objective of one latency."""
        found: Objective = getattr(self, name)
        return found


class LatencyAlert(_Table):
    for_s: HoldS
    requests_min: Count


class BurnSpeed(_Table):
    """One pace of spending an error budget: too fast over the long window and still so over the short one."""

    spends: Share
    long_s: Seconds
    short_s: Seconds
    bad_share_max: Share
    requests_min: Count

    @model_validator(mode="after")
    def _is_shorter(self) -> Self:
        if self.short_s >= self.long_s:
            raise ValueError("short_s must be shorter than long_s")
        return self

    def factor(self, budget_share: float, period_days: float) -> float:
        """How many times as fast as it lasts a budget may be spent, fitted so that at most bad_share_max is bad."""
        return min(self.spends * period_days * 86400 / self.long_s, self.bad_share_max / budget_share)


class Burn(_Table):
    period_days: Annotated[float, Field(gt=0)]
    fast: BurnSpeed
    slow: BurnSpeed


class Gpu(_Table):
    temperature_max_c: Annotated[float, Field(gt=0, lt=150)]
    temperature_for_s: HoldS
    utilization_max: Share
    utilization_for_s: HoldS
    throttle_share_max: Share
    throttle_for_s: HoldS
    fault_window_s: Seconds
    xid_fatal: tuple[Count, ...]
    missing_for_s: HoldS
    exporter_down_for_s: HoldS
    stale_s: Seconds


class Gateway(_Table):
    down_for_s: HoldS
    servers_down_for_s: HoldS
    budget_warn_share: Share
    ejections_max: Count
    ejections_window_s: Seconds


class Load(_Table):
    """What only a measured run can say: the requests in flight at the knee."""

    in_flight_max: Annotated[float, Field(gt=0)]
    for_s: HoldS = 600


class Buckets(_Table):
    ttft: Bounds
    itl: Bounds
    e2e: Bounds
    queue: Bounds

    def bounds(self, name: Latency) -> tuple[float, ...]:
        """The upper bounds in seconds of one latency's histogram, +Inf left out."""
        found: tuple[float, ...] = getattr(self, name)
        return found


class Runbooks(_Table):
    url: str


class Thresholds(_Table):
    """All settings of rules, routing and receivers. `derived` tells, by setting, what measured run a value is from."""

    timing: Timing
    jobs: Jobs
    server: Server
    engine: Engine
    canary: Canary
    slo: Objectives
    latency: LatencyAlert
    burn: Burn
    gpu: Gpu
    gateway: Gateway
    load: Load | None = None
    buckets: Buckets
    runbooks: Runbooks
    receivers: tuple[Receiver, ...] = ()
    derived: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        for name in LATENCIES:
            if problem := bound_problem(self.slo.latency(name).threshold_s, self.buckets.bounds(name)):
                raise ValueError(f"slo.{name}.threshold_s = {problem}")
        return self

    @model_validator(mode="after")
    def _burns_more_than_the_budget(self) -> Self:
        for name, speed in (("fast", self.burn.fast), ("slow", self.burn.slow)):
            for slo in ("ttft", "itl", "e2e", "availability"):
                budget = getattr(self.slo, slo).budget_share
                if speed.factor(budget, self.burn.period_days) <= 1:
                    raise ValueError(
                        f"burn.{name}.bad_share_max = {speed.bad_share_max:g} and spends = {speed.spends:g} would "
                        f"alert on slo.{slo} within its budget_share = {budget:g}; bad_share_max must be above it"
                    )
        return self

    @model_validator(mode="after")
    def _receivers_have_their_own_names(self) -> Self:
        names = ["nowhere", *(receiver.name for receiver in self.receivers)]  # the first is Alertmanager's default here
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"receivers: the name {sorted(twice)[0]!r} is taken")
        return self


def bound_problem(threshold_s: float, bounds: tuple[float, ...]) -> str | None:
    """Why requests over a threshold cannot be counted in a histogram with these bounds; None when they can."""
    if threshold_s in bounds:
        return None
    below = max((bound for bound in bounds if bound < threshold_s), default=None)
    above = min((bound for bound in bounds if bound > threshold_s), default=None)
    near = " or ".join(f"{bound:g}" for bound in (below, above) if bound is not None)
    return (
        f"{threshold_s:g} is no bound of the server's histogram, so requests over it cannot be counted exactly; "
        f"the nearest bounds are {near}"
    )


def load(path: Path | None = None, *, derived: Mapping[str, Any] | None = None) -> Thresholds:
    """The defaults, overlaid by the values derived from a run, overlaid by the settings file at `path`.

    `derived` is nested like the file. Raises SettingsError naming the file, the key, the value and what was expected.
    """
    values = files.read_toml(DEFAULTS)
    source = str(path) if path else "the settings"
    own = _read(path) if path else {}
    for overlay in (derived or {}, own):
        values = _overlaid(values, overlay)
    for key in _leaves(own):  # what you set yourself is yours and not the run's
        values.get("derived", {}).pop(key, None)
    try:
        return Thresholds.model_validate(values)
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(one, source) for one in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.read_settings(path)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlaid(merged[key], value) if nested else value
    return merged


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found


def _explain(error: Any, source: str) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    # What stands in a receiver's table may be a secret in the wrong place, so it is not repeated.
    value = "" if location[:1] == ["receivers"] else f" = {error['input']!r}"
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".").replace("Input should be", "expected")
    match error["type"]:
        case "extra_forbidden":
            known = _known_beside(location)
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}."
            return f"{source}: unknown setting {key}{value}; {hint}"
        case "missing":
            return f"{source}: {key} is not set."
        case "value_error" if location:
            return f"{source}: [{key}] {message}."
        case "value_error":
            return f"{source}: {message}."
    return f"{source}: {key}{value}: {message}."


def _known_beside(location: list[str]) -> list[str]:
    """The settings that exist in the table of an unknown one."""
    if location[0] == "receivers":
        kinds: dict[str, type[BaseModel]] = {"webhook": Webhook, "email": Email, "chat": Chat, "heartbeat": Heartbeat}
        return list(kinds[location[2]].model_fields)
    table: type[_Table] = Thresholds
    for part in location[:-1]:
        annotation = table.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        table = next(one for one in candidates if isinstance(one, type) and issubclass(one, _Table))
    return list(table.model_fields)
