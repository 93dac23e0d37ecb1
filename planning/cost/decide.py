"""API, the same open model by somebody else's API, or own hardware: one sentence, and what would change it. Pure."""

import math
import re
from dataclasses import dataclass

from inputs.quantities import in_words, plural
from planning.cost import api_prices
from planning.cost.assumptions import Api, Case, mean_request, quantities
from planning.cost.estimate import Estimate, estimate
from planning.cost.uncertainty import Range
from planning.cost.wording import HOW, break_even_text, figure_text
from planning.errors import UnknownName

# A seller's model of this name is another model, or does something else.
_OTHER = re.compile(r"hermes|dolphin|guard|vision|embed|coder|math|-vl|_vl|distill|rerank")
_SURE, _LIKELY = 0.95, 0.6


@dataclass(frozen=True)
class Way:
    """One way to get the tokens: what a month costs, and on what that rests."""

    name: str
    kind: str  # API, same model, own hardware
    usd: Range
    basis: str


@dataclass(frozen=True)
class Decision:
    """The ways, the cheapest first; the answer in a sentence; and what would change it."""

    ways: tuple[Way, ...]
    sentence: str
    changes: tuple[str, ...]
    against: Estimate
    sellers: int


def sellers(model: str) -> list[str]:
    """The `provider/model` of everybody who sells this open model by the token, by its name."""
    wanted = _plain(model.rpartition("/")[2])
    if len(wanted) < 4:
        return []
    whole = re.compile(rf"{re.escape(wanted)}(?![0-9])")
    return [name for name in api_prices.known() if whole.search(_plain(name)) and not _OTHER.search(name.lower())]


def cheapest(model: str, case: Case) -> tuple[str | None, int]:
    """Who sells the model for the least at the case's requests, and how many do; None where nobody does."""
    inputs, outputs = mean_request(case.requests)
    found = []
    for name in sellers(model):
        try:
            price = api_prices.find(name)
        except UnknownName:
            continue
        usd = float(price.standard.request_usd(inputs, outputs))
        if usd > 0:  # what is free has a limit, and is no price
            found.append((usd, name))
    return (min(found)[1] if found else None), len(found)


def decide(case: Case, *, model: str | None, proof: str, draws: int = 20_000) -> Decision:
    """Return the decision for a case whose own hardware runs `model`; `proof` says where its speed comes from."""
    other = estimate(case, draws=draws)
    same, count = cheapest(model, case) if model else (None, 0)
    of_same = estimate(case.model_copy(update={"api": Api(model=same)}), draws=draws) if same else None
    ways = [
        Way(other.price.name, "API", other.api_usd, f"list prices of {other.price.on}"),
        Way(f"own hardware ({HOW[case.hosting.kind]})", "own hardware", other.own_usd, proof),
    ]
    if of_same is not None:
        basis = f"the cheapest of {plural(count, 'seller')}, list prices of {of_same.price.on}"
        ways.append(Way(of_same.price.name, "same model by API", of_same.api_usd, basis))
    ways.sort(key=lambda way: way.usd.p50)
    against = of_same if of_same is not None and of_same.api_usd.p50 <= other.api_usd.p50 else other
    return Decision(tuple(ways), _sentence(ways, against), tuple(_changes(against, other, proof)), against, count)


def _sentence(ways: list[Way], against: Estimate) -> str:
    api = next(way for way in ways if way.name == against.price.name)
    own = next(way for way in ways if way.kind == "own hardware")
    p = against.probability_cheaper
    tokens = figure_text(quantities(against.case)["tokens_per_month"].median, "tokens/month")
    what = f"{api.name} by API" if api.kind == "API" else f"{api.name}, the same model by API"
    costs = f"at {tokens} it costs {_usd(api.usd)} a month, {own.name} {_usd(own.usd)}"
    of = f"of {in_words(len(ways))} ways"
    if max(p, 1 - p) < _LIKELY:
        return f"Too close to call between {what} and {own.name}: {costs}."
    sure = "" if max(p, 1 - p) >= _SURE else "probably "
    if p < 0.5:
        return f"Take {what}: {sure}the cheapest {of}; {costs}."
    mine = f"at {tokens} it costs {_usd(own.usd)} a month, {api.name} {_usd(api.usd)}"
    return f"Take {own.name}: {sure}the cheapest {of}; {mine}."


def _changes(against: Estimate, other: Estimate, proof: str) -> list[str]:
    """What would turn the answer: demand, the widest assumption, a measurement, and what no price tells."""
    found = [f"Demand. Beside {against.price.name}: {break_even_text(against)}"]
    if against.tornado:
        swing = against.tornado[0]
        found.append(
            f"{swing.label[0].upper()}{swing.label[1:]}: from {swing.low:,.6g} to {swing.high:,.6g} {swing.unit} it "
            f"moves the monthly saving from {_amount(swing.at_low)} to {_amount(swing.at_high)}. Nothing else moves it "
            "as much."
        )
    if proof.startswith("not measured"):
        found.append("A measurement: the speed of own hardware is a guess from bounds here.")
    if against is not other:
        found.append(f"The model: {other.price.name} is another one. Prices say nothing of which answers better.")
    return found


def _usd(amount: Range) -> str:
    if math.isinf(amount.p5):
        return _amount(amount.p5)
    return f"{_amount(amount.p50)} ({_amount(amount.p5)} to {_amount(amount.p95)})"


def _amount(value: float) -> str:
    if math.isinf(value):
        return "more than the replicas allowed carry"
    return figure_text(round(value) if abs(value) >= 10 else value, "USD")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
