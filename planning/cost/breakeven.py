"""From how many tokens a month own hardware is cheaper than the API, replica by replica.

With n replicas in use the month costs F + (n + spares)·f + m·T and carries up to n·c tokens; the API asks p·T. So n
replicas are cheaper from T = (F + (n + spares)·f) ÷ (p − m) on, if they can carry that much. Where they cannot, one
more replica is tried; each starts an interval of its own. When a full replica is never worth its price: never.
"""

import math
from dataclasses import dataclass

import numpy as np

from inputs.quantities import trimmed
from planning.cost.api_prices import PER_MTOK
from planning.cost.monthly import Fleet
from planning.cost.uncertainty import Number


@dataclass(frozen=True)
class Step:
    """Tokens a month between which own hardware with so many replicas in use is cheaper than the API."""

    replicas: int
    from_tokens: float
    to_tokens: float


@dataclass(frozen=True)
class BreakEven:
    """`first_tokens`: from here on own hardware can be cheaper; `always_tokens`: from here on it stays cheaper, as far
    as replicas go. None for never. `steps` are the intervals, those that touch joined. `reason` says in a clause why
    never; None where it does turn."""

    first_tokens: float | None
    always_tokens: float | None
    steps: tuple[Step, ...]
    reason: str | None


def break_even(fleet: Fleet, api_usd_per_mtok: float) -> BreakEven:
    """Return the intervals of demand in which own hardware is cheaper, for one set of numbers."""
    gain = api_usd_per_mtok / PER_MTOK - float(fleet.marginal_usd_per_token)
    service, replica, capacity = float(fleet.service_usd), float(fleet.replica_usd), float(fleet.planned_tokens)
    if gain <= 0:
        own = float(fleet.marginal_usd_per_token) * PER_MTOK
        return _never(
            f"a million tokens adds ${trimmed(own)} of power, the API asks ${trimmed(api_usd_per_mtok)} for them"
        )
    if gain * capacity <= replica:
        return _never(
            f"a replica costs ${replica:,.0f} a month and carries {capacity / PER_MTOK:,.1f} M tokens, for which "
            f"the API asks ${api_usd_per_mtok / PER_MTOK * capacity:,.0f}"
        )
    first = max(1, math.ceil((service + fleet.spares * replica) / (gain * capacity - replica) - 1e-9))
    if first > fleet.max_replicas:
        return _never(f"it would take {first:,} replicas, and {fleet.max_replicas:,} is the limit")
    steps: list[Step] = []
    for count in range(first, fleet.max_replicas + 1):
        start = (service + (count + fleet.spares) * replica) / gain
        if steps and start <= steps[-1].to_tokens:
            # From here on each further replica pays for itself before the last is full.
            steps[-1] = Step(steps[-1].replicas, steps[-1].from_tokens, fleet.max_replicas * capacity)
            return BreakEven(steps[0].from_tokens, steps[-1].from_tokens, tuple(steps), None)
        steps.append(Step(count, start, count * capacity))
    always = steps[-1].from_tokens if len(steps) == 1 else None
    return BreakEven(steps[0].from_tokens, always, tuple(steps), None)


def first_tokens(fleet: Fleet, api_usd_per_mtok: Number) -> Number:
    """Return the break-even in tokens a month for arrays of draws; inf for never."""
    gain = np.asarray(api_usd_per_mtok / PER_MTOK - fleet.marginal_usd_per_token, dtype=np.float64)
    left = gain * fleet.planned_tokens - fleet.replica_usd
    possible = (gain > 0) & (left > 0)
    safe_gain, safe_left = np.where(possible, gain, 1.0), np.where(possible, left, 1.0)
    fixed = fleet.service_usd + fleet.spares * fleet.replica_usd
    count = np.maximum(1.0, np.ceil(fixed / safe_left - 1e-9))
    tokens = (fixed + count * fleet.replica_usd) / safe_gain
    return np.asarray(np.where(possible & (count <= fleet.max_replicas), tokens, np.inf))


def _never(why: str) -> BreakEven:
    return BreakEven(None, None, (), why)
