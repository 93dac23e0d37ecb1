"""The gateway's own metrics page: servers in and out, requests, ejections, what clouds cost, what one's own saved.

Counters of requests are HAProxy's, those of money the ledger's, those of tokens the engines' own: they count everything
that a server did, canaries and requests past the gateway included.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.cloud.ledger import NANO, Total
from gateway.haproxy.render import backend_name
from gateway.haproxy.runtime import Row
from gateway.settings import Settings

LOCAL, CLOUD = "local", "cloud"
PREFIX = "nbridge_gateway"


@dataclass(frozen=True)
class Against:
    """The API that one's own tokens are compared with: its name, USD per million tokens in and out."""

    name: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float


@dataclass(frozen=True)
class Own:
    """What the agent knows of one server: its ejections, and the tokens of its engine since it is watched."""

    model: str
    name: str
    ejections: int
    tokens: tuple[float, float] | None


@dataclass(frozen=True)
class Seen:
    """Everything on the page. `spent`: cloud → nano-dollars of this day, of this month, reserved; None: not known."""

    settings: Settings
    rows: Mapping[tuple[str, str], Row]
    own: Sequence[Own]
    retries: bool
    looked_at: float
    spent: Mapping[str, tuple[int, int, int]] | None
    totals: Sequence[Total]
    against: Against | None


def page(seen: Seen) -> bytes:
    """The page in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(seen))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def collect(self) -> Iterable[Metric]:
        yield from _traffic(self.seen)
        yield from _servers(self.seen)
        yield from _money(self.seen)
        yield from _saved(self.seen)


def _traffic(seen: Seen) -> Iterable[Metric]:
    labels = ("model", "server", "kind")
    requests = _counter("requests", "Answers by a server, by the class of their status", *labels, "code")
    running = _gauge("requests_running", "Requests at a server now", *labels)
    up = _gauge("server_up", "Whether HAProxy sends a server requests", *labels)
    waiting = _gauge("requests_waiting", "Requests that wait for a place", "model")
    retries = _counter("retries", "Requests that were sent to another server", "model")
    able = _gauge("servers_up", "Servers of a model that take requests", "model", "kind")
    for model in seen.settings.models:
        kind = CLOUD if seen.settings.cloud_of(model) else LOCAL
        backend = backend_name(seen.settings, model)
        servers = {name: row for (where, name), row in seen.rows.items() if where == backend}
        whole = servers.pop("BACKEND", None)
        if whole is None:
            continue  # HAProxy says nothing
        waiting.add_metric([model], whole.waiting)
        retries.add_metric([model], whole.retries)
        able.add_metric([model, kind], sum(row.is_up for row in servers.values()))
        for name, row in servers.items():
            running.add_metric([model, name, kind], row.sessions)
            up.add_metric([model, name, kind], row.is_up)
            for code, count in row.answers.items():
                requests.add_metric([model, name, kind, code], count)
    yield from (requests, running, up, waiting, retries, able)


def _servers(seen: Seen) -> Iterable[Metric]:
    ejections = _counter("ejections", "Times that a server was put out", "model", "server")
    for one in seen.own:
        ejections.add_metric([one.model, one.name], one.ejections)
    yield ejections
    allowed = _gauge("retries_allowed", "Whether failed requests are repeated; 0 while too many fail")
    allowed.add_metric([], seen.retries)
    yield allowed
    looked = _gauge("agent_looked_timestamp_seconds", "When the agent last looked at its servers")
    looked.add_metric([], seen.looked_at)
    yield looked


def _money(seen: Seen) -> Iterable[Metric]:
    if not seen.settings.cloud:
        return
    requests = _counter("cloud_requests", "Requests to a cloud, by how they ended", "cloud", "model", "outcome")
    estimated = _counter("cloud_estimated", "Requests to a cloud whose tokens are estimated", "cloud", "model")
    tokens = _counter("cloud_tokens", "Tokens at a cloud; cached ones are in the input", "cloud", "model", "kind")
    cost = _counter("cost_usd", "What a cloud's model has cost", "cloud", "model")
    sums: dict[tuple[str, str], list[int]] = {}
    for one in seen.totals:
        requests.add_metric([one.cloud, one.model, one.outcome], one.requests)
        values = (one.estimated, one.nano_usd, one.input_tokens, one.cached_tokens, one.output_tokens)
        key = (one.cloud, one.model)
        sums[key] = [before + value for before, value in zip(sums.get(key, [0] * 5), values, strict=True)]
    for (cloud, model), (guesses, nano_usd, *counts) in sums.items():
        estimated.add_metric([cloud, model], guesses)
        cost.add_metric([cloud, model], nano_usd / NANO)
        for kind, count in zip(("input", "cached", "output"), counts, strict=True):
            tokens.add_metric([cloud, model, kind], count)
    yield from (requests, estimated, tokens, cost)
    limit = _gauge("budget_usd", "What a cloud may spend a day or month of UTC", "cloud", "period")
    spent = _gauge("spent_usd", "What a cloud has spent this day and this month of UTC", "cloud", "period")
    reserved = _gauge("reserved_usd", "What requests in work at a cloud may still cost", "cloud")
    for each in seen.settings.cloud:
        for period, most in (("day", each.usd_per_day), ("month", each.usd_per_month)):
            if most is not None:
                limit.add_metric([each.name, period], most)
        if seen.spent is not None:
            day, month, held = (nano_usd / NANO for nano_usd in seen.spent.get(each.name, (0, 0, 0)))
            spent.add_metric([each.name, "day"], day)
            spent.add_metric([each.name, "month"], month)
            reserved.add_metric([each.name], held)
    yield from (limit, spent, reserved)


def _saved(seen: Seen) -> Iterable[Metric]:
    tokens = _counter("tokens", "Tokens of one's own engine since it is watched", "model", "server", "kind")
    saved = _counter("saved_usd", "What its tokens would have cost at an API", "model", "server", "against")
    for one in seen.own:
        if one.tokens is None:
            continue
        for kind, count in zip(("input", "output"), one.tokens, strict=True):
            tokens.add_metric([one.model, one.name, kind], count)
        if seen.against is not None:
            rates = (seen.against.input_usd_per_mtok, seen.against.output_usd_per_mtok)
            usd = sum(count * rate for count, rate in zip(one.tokens, rates, strict=True)) / 1e6
            saved.add_metric([one.model, one.name, seen.against.name], usd)
    yield tokens
    if seen.against is not None:
        yield saved


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", f"{words}.", labels=labels)


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", f"{words}.", labels=labels)
