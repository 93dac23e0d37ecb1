"""What a month costs by API and on own hardware. Pure arithmetic on numbers or on arrays of draws, element by element.

    fixed/month = (price·(1−residual))·CRF + hours·rent·(1−discount) + power + work·wage + storage + upkeep,
                  each machine's part times the number of replicas, spare ones included
    CRF         = i / (1 − (1+i)^−n)            i per month, n months; 1/n without interest
    power       = PUE · hours · (u·P_load + (1−u)·P_idle) / 1000 · price per kWh
    requests/s  = (output tokens/s ÷ out₀) · (w·in₀ + out₀) ÷ (w·in + out), measured at in₀ and out₀ tokens a request;
                  w = the time of an input token ÷ that of an output token
    replicas    = ceil(peak rate ÷ goodput of one ÷ headroom) + spares
    $/M tokens  = month ÷ tokens *served*: at full load, at the goodput within the SLO, and as asked for
    break-even  = fixed ÷ (API price − own marginal price), as far as the capacity reaches, else one replica more

The residual is the share of the price that is left at the end, in today's money. Tokens are input and output together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planning.cost.api_prices import PER_MTOK, ApiPrice
from planning.cost.assumptions import Case
from planning.cost.uncertainty import Number

FULL, SLO, ACTUAL = "full load", "within the SLO", "as asked for"
_SECONDS_PER_HOUR = 3600.0
# Keeps a demand that is exactly n replicas from asking for n + 1 through rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Fleet:
    """What own hardware costs and can carry. `service_usd` is paid however many replicas there are, `replica_usd` for
    each, idle power included; `marginal_usd_per_token` is the power that a token adds."""

    service_usd: Number
    replica_usd: Number
    marginal_usd_per_token: Number
    tokens_per_request: Number
    full_tokens: Number
    slo_tokens: Number
    planned_tokens: Number
    upfront_usd: Number
    capital_usd: Number
    spares: int
    max_replicas: int

    def month_usd(self, replicas: Number, tokens: Number) -> Number:
        """Return the cost of a month with so many replicas in use, and the spare ones, serving so many tokens."""
        return self.service_usd + (replicas + self.spares) * self.replica_usd + tokens * self.marginal_usd_per_token

    def replicas(self, tokens: Number) -> Number:
        """Return how many replicas carry so many tokens a month at its peak; inf when more than there can be."""
        needed = np.maximum(1.0, np.ceil(np.asarray(tokens / self.planned_tokens) - _ROUNDING))
        return _plain(np.where(needed > self.max_replicas, np.inf, needed))


@dataclass(frozen=True)
class Month:
    """A month both ways, in USD. Arrays when the inputs were. Own cost is inf where the demand cannot be carried."""

    api_usd: Number
    api_usd_per_mtok: Number
    own_usd: Number
    own_usd_per_mtok: dict[str, Number]
    replicas: Number
    utilization: Number
    payback_months: Number
    parts_usd: dict[str, Number]
    fleet: Fleet

    @property
    def saving_usd(self) -> Number:
        return self.api_usd - self.own_usd


def capital_recovery(interest_per_year: Number, months: Number) -> Number:
    """Return the share of a sum to pay each month so that it is repaid with interest after `months`."""
    monthly = np.asarray(interest_per_year, dtype=np.float64) / 12
    safe = np.where(monthly > 0, monthly, 1.0)
    return _plain(np.where(monthly > 0, safe / (1 - (1 + safe) ** -np.asarray(months)), 1 / np.asarray(months)))


def power_usd(
    pue: Number, hours: Number, utilization: Number, load_w: Number, idle_w: Number, kwh_usd: Number
) -> Number:
    """Return the cost of one machine's power over `hours`, of which it is busy the share `utilization`."""
    return pue * hours * (utilization * load_w + (1 - utilization) * idle_w) / 1000 * kwh_usd


def usd_per_mtok(usd: Number, tokens: Number) -> Number:
    """Return USD per million served tokens."""
    return usd / tokens * PER_MTOK


def month(case: Case, price: ApiPrice, values: Mapping[str, Number]) -> Month:
    """Return a month's cost by API and on own hardware for the inputs' `values` (assumptions.quantities' names)."""
    tokens = values["tokens_per_month"]
    fleet = fleet_of(case, values)
    api_usd = tokens / fleet.tokens_per_request * request_usd(case, price, values)
    replicas = fleet.replicas(tokens)
    # What cannot be carried is counted as if by all replicas there can be, and then costs without end.
    used = np.minimum(replicas, fleet.max_replicas)
    total = used + fleet.spares
    own_usd = _plain(np.where(np.isinf(replicas), np.inf, fleet.month_usd(used, tokens)))
    running = fleet.month_usd(used, tokens) - total * fleet.capital_usd
    return Month(
        api_usd=api_usd,
        api_usd_per_mtok=usd_per_mtok(api_usd, tokens),
        own_usd=own_usd,
        own_usd_per_mtok=_bases(case, fleet, used, tokens, own_usd),
        replicas=replicas,
        utilization=tokens / (total * fleet.full_tokens),
        payback_months=payback_months(total * fleet.upfront_usd, api_usd, running),
        parts_usd=_parts(case, values, fleet, total, tokens),
        fleet=fleet,
    )


def request_usd(case: Case, price: ApiPrice, values: Mapping[str, Number]) -> Number:
    """Return what the API asks for one request of the mix: each kind priced as one request, then weighed."""
    batch_share = values["batch_share"] if price.batch else 0.0
    mean: Number = 0.0
    for kind, weight in _weights(case):
        input_tokens, output_tokens = values[f"{kind}.input_tokens"], values[f"{kind}.output_tokens"]
        cached = values[f"{kind}.cached_share"] * input_tokens
        usd = price.standard.request_usd(input_tokens, output_tokens, cached)
        if price.batch:
            waiting = price.batch.request_usd(input_tokens, output_tokens, cached)
            usd = (1 - batch_share) * usd + batch_share * waiting
        mean = mean + weight * usd
    return values["api_price_ratio"] * mean


def fleet_of(case: Case, values: Mapping[str, Number]) -> Fleet:
    """Return cost and capacity per replica. Capacity is in tokens a month of the mix, input and output."""
    inputs = sum((w * values[f"{kind}.input_tokens"] for kind, w in _weights(case)), 0.0)
    outputs = sum((w * values[f"{kind}.output_tokens"] for kind, w in _weights(case)), 0.0)
    hours = values["hours_per_month"] * values["hours_per_day"] / 24
    seconds = hours * _SECONDS_PER_HOUR * (1 - values["lost_share"])
    # Longer requests than those of the measured mix take longer: an input token the share `weight` of an output token.
    known_inputs, known_outputs = case.speed_mix
    weight = values["input_token_weight"]
    requests_per_output = (weight * known_inputs / known_outputs + 1) / (weight * inputs + outputs)
    full = values["output_tok_s"] * requests_per_output * (inputs + outputs) * seconds
    slo = full
    if "slo_output_tok_s" in values:
        # Goodput cannot pass full load, even where the two ranges overlap.
        slo = _plain(np.minimum(values["slo_output_tok_s"] * requests_per_output * (inputs + outputs) * seconds, full))
    upfront: Number = 0.0
    capital: Number = 0.0
    marginal: Number = 0.0
    if case.hosting.kind == "buy":
        upfront = values["hardware_usd"]
        capital = (
            upfront
            * (1 - values["residual_share"])
            * capital_recovery(values["interest_per_year"], values["lifetime_months"])
        )
        idle = power_usd(values["pue"], hours, 0.0, 0.0, values["idle_power_w"], values["electricity_usd_per_kwh"])
        added_w = values["load_power_w"] - values["idle_power_w"]
        marginal = power_usd(values["pue"], hours, 1.0, added_w, 0.0, values["electricity_usd_per_kwh"]) / full
        machine = capital + idle
        machine = machine + values["upkeep_usd_per_month"]
    else:
        rent = values["rent_usd_per_gpu_hour"] * (1 - values["rent_discount_share"])
        machine = case.hosting.gpus_per_replica * hours * rent
    return Fleet(
        service_usd=values["ops_hours_per_month"] * values["wage_usd_per_hour"] + values["storage_usd_per_month"],
        replica_usd=machine,
        marginal_usd_per_token=marginal,
        tokens_per_request=inputs + outputs,
        full_tokens=full,
        slo_tokens=slo,
        planned_tokens=slo * values["headroom"] / values["peak_to_mean"],
        upfront_usd=upfront,
        capital_usd=capital,
        spares=case.hosting.spare_replicas,
        max_replicas=case.hosting.max_replicas,
    )


def payback_months(upfront_usd: Number, api_usd: Number, running_usd: Number) -> Number:
    """Return the months after which what was paid upfront has come back; 0 without an upfront sum, inf for never."""
    gain = np.asarray(api_usd - running_usd, dtype=np.float64)
    safe = np.where(gain > 0, gain, 1.0)
    return _plain(np.where(gain > 0, np.asarray(upfront_usd) / safe, np.inf))


def _bases(case: Case, fleet: Fleet, replicas: Number, tokens: Number, own_usd: Number) -> dict[str, Number]:
    """USD per million tokens if the replicas in use served at full load, at their goodput, and what is asked for."""
    served = {FULL: replicas * fleet.full_tokens}
    if "slo_output_tok_s" in case.inputs:
        served[SLO] = replicas * fleet.slo_tokens
    bases = {name: usd_per_mtok(fleet.month_usd(replicas, many), many) for name, many in served.items()}
    return {**bases, ACTUAL: usd_per_mtok(own_usd, tokens)}


def _parts(case: Case, values: Mapping[str, Number], fleet: Fleet, total: Number, tokens: Number) -> dict[str, Number]:
    """The month's cost by what it is paid for; the parts sum to the whole."""
    parts: dict[str, Number] = {}
    if case.hosting.kind == "buy":
        upkeep = values["upkeep_usd_per_month"]
        idle = fleet.replica_usd - fleet.capital_usd - upkeep
        parts["capital"] = total * fleet.capital_usd
        parts["power"] = total * idle + tokens * fleet.marginal_usd_per_token
        parts["upkeep"] = total * upkeep
    else:
        parts["rent"] = total * fleet.replica_usd
    parts["labour"] = values["ops_hours_per_month"] * values["wage_usd_per_hour"]
    parts["storage"] = values["storage_usd_per_month"]
    return parts


def _weights(case: Case) -> list[tuple[str, float]]:
    total = math.fsum(kind.weight for kind in case.requests)
    return [(kind.name, kind.weight / total) for kind in case.requests]


def _plain(value: Number) -> Number:
    """A number for one case, an array for many."""
    array = np.asarray(value, dtype=np.float64)
    return float(array) if array.ndim == 0 else array
