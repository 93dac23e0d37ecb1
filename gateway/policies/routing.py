"""Which model answers a request, and why; which of its servers. Pure; `route.lua` holds the same rules.

The deployment guide (§2.3) compares a `localCapacity` with 0.3 and 0.1 and never says what it is; and its 0.3 changes
nothing, because what fails there meets the 0.1 next. Here capacity is the share of places that are free, of a model's
servers that are up; what looks easy stays while more than 0.1 is free, what does not leaves from 0.3 on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.policies.prompts import Ask, complexity, language

AUTO = "auto"
NAME_CHARACTERS = 200  # of what a client may have made up


@dataclass(frozen=True)
class Policy:
    """The models that `auto` chooses from, by name, and its limits; None: there is no such model."""

    default: str | None = None
    fast: str | None = None
    hard: str | None = None
    overflow: str | None = None
    languages: Mapping[str, str] = field(default_factory=dict)
    fast_below_ms: float = 500.0
    easy_below: float = 0.5
    hard_above: float = 0.8
    reserve: float = 0.3
    reserve_easy: float = 0.1


@dataclass(frozen=True)
class Load:
    """A model's servers now: how many are up, their free places, requests at them, requests that wait for one."""

    up: int
    free: int
    in_flight: int
    waiting: int = 0

    @property
    def capacity(self) -> float:
        """The share of places that are free."""
        return self.free / (self.free + self.in_flight) if self.up and self.free + self.in_flight else 0.0


@dataclass(frozen=True)
class Decision:
    """Where a request goes and why; or the HTTP status that refuses it, with `reason` as its words."""

    model: str | None
    reason: str
    status: int = 200


def decide(
    ask: Ask | None,
    policy: Policy,
    loads: Mapping[str, Load],
    *,
    aliases: Mapping[str, str] | None = None,
    max_ttft_ms: float | None = None,
    queue_limit: int = 64,
) -> Decision:
    """Choose the model for a request. `aliases`: other names of a model. `ask` None: a body that is no JSON object."""
    named = ask.model if ask else None
    if named == AUTO and policy.default and AUTO not in loads:
        ways = auto(ask or Ask(), policy, loads, max_ttft_ms)
        taken = next((way for way in ways if has_place(loads[way[0]], queue_limit)), None)
        if taken:
            return Decision(*taken)
        return refused(ways[0][0], loads[ways[0][0]], queue_limit)
    if named is None:
        only = policy.default or (next(iter(loads)) if len(loads) == 1 else None)
        if only is None:
            return Decision(None, "The request names no model.", 400)
        name, reason = only, "the only model" if len(loads) == 1 else "no model named"
    else:
        name, reason = (aliases or {}).get(named, named), "model"
    if name not in loads:
        return Decision(None, f"The model {(named or name)[:NAME_CHARACTERS]} is not served here.", 404)
    if not has_place(loads[name], queue_limit):
        return refused(name, loads[name], queue_limit)
    return Decision(name, reason)


def auto(ask: Ask, policy: Policy, loads: Mapping[str, Load], max_ttft_ms: float | None) -> list[tuple[str, str]]:
    """The models for `auto` with the reason for each, the wanted one first; the rest is for when it has no place."""
    score, spoken = complexity(ask.text), language(ask.text)
    ways: list[tuple[str, str]] = []
    if policy.fast and max_ttft_ms is not None and max_ttft_ms < policy.fast_below_ms:
        ways.append((policy.fast, "latency"))
    if policy.hard and score > policy.hard_above:
        ways.append((policy.hard, f"complexity {score:.2f}"))
    if spoken is not None and spoken in policy.languages:
        ways.append((policy.languages[spoken], f"language {spoken}"))
    default = policy.default or ""
    capacity = loads[default].capacity
    needed = policy.reserve_easy if score < policy.easy_below else policy.reserve
    if policy.overflow and capacity <= needed:
        ways.append((policy.overflow, f"capacity {capacity:.2f}"))
    ways.append((default, "default"))
    if policy.overflow:
        ways.append((policy.overflow, "default has no place"))
    return ways


def has_place(load: Load, queue_limit: int) -> bool:
    """Whether a model's servers take another request, at once or after a wait."""
    return load.up > 0 and load.waiting < queue_limit


def refused(name: str, load: Load, queue_limit: int) -> Decision:
    """The refusal by a model that takes no more."""
    if load.up == 0:
        return Decision(name, f"No server of the model {name} is up.", 503)
    return Decision(name, f"{load.waiting} requests wait for the model {name}; the limit is {queue_limit}.", 429)


def least_outstanding(servers: Sequence[tuple[str, float, int]]) -> str | None:
    """Of (name, capacity, outstanding requests) the server that has the least per capacity, this request included.

    It is what HAProxy does by `balance leastconn` with weights; of equal ones the first. None when there is none.
    """
    able = [one for one in servers if one[1] > 0]
    return min(able, key=lambda one: (one[2] + 1) / one[1])[0] if able else None
