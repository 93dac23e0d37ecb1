"""The board of the gateway: who answers, who was put out, what clouds cost and what one's own servers saved.

Requests are HAProxy's counts, dollars the ledger's, tokens of one's own servers the engines' own. A cloud's day and
month are UTC's.
"""

from dashboards.grafana.limits import BUDGET
from dashboards.grafana.panels import Board, Panel, Query, Row, Variable, high_is_bad, lines, low_is_bad, number
from dashboards.grafana.promql import increase, rate, share_of

GATEWAY = Variable(
    "choice",
    "instance",
    "Gateway",
    "Gateways, as Prometheus scrapes them (host:port).",
    "label_values(nbridge_gateway_retries_allowed, instance)",
)
MODEL = Variable(
    "choice",
    "model",
    "Model",
    "Models that the gateway answers for, those of clouds included.",
    'label_values(nbridge_gateway_servers_up{instance=~"$instance"}, model)',
)

AT = 'instance=~"$instance"'
OF = f'{AT},model=~"$model"'
LOCAL = f'{OF},kind="local"'
REQUESTS, EJECTIONS = "nbridge_gateway_requests_total", "nbridge_gateway_ejections_total"
COST, SAVED = "nbridge_gateway_cost_usd_total", "nbridge_gateway_saved_usd_total"
SHARE = "nbridge_gateway_spent_usd{{{0}}} / nbridge_gateway_budget_usd{{{0}}}"


def spent(period: str) -> str:
    """The share of a limit that is spent; of several clouds the fullest."""
    matchers = f'{AT},period="{period}"'
    return f"max({SHARE.format(matchers)})"


NOW = Row(
    "Now",
    (
        number(
            "Own servers up",
            "Of one's own servers those that take requests, over those that are known.",
            "percentunit",
            f"sum(nbridge_gateway_server_up{{{LOCAL}}}) / count(nbridge_gateway_server_up{{{LOCAL}}})",
            limits=low_is_bad(0.5, 1),
            absent="no gateway",
        ),
        number(
            "Requests/s",
            "Answers over five minutes, of every status, by one's own servers and by clouds.",
            "reqps",
            rate(REQUESTS, OF, window="5m"),
            absent="no requests",
        ),
        number(
            "Waiting",
            "Requests that wait for a place now, over all chosen models.",
            "short",
            f"sum(nbridge_gateway_requests_waiting{{{OF}}})",
            decimals=0,
            limits=high_is_bad(1, 20),
        ),
        number(
            "Ejections",
            "Times that a server was put out within the time shown.",
            "short",
            increase(EJECTIONS, OF),
            decimals=0,
            limits=high_is_bad(1, 3),
        ),
        number(
            "Spent today",
            "Share of the limit for this day (UTC) that is spent; of several clouds the fullest.",
            "percentunit",
            spent("day"),
            limits=BUDGET,
            absent="no limit",
        ),
        number(
            "Spent this month",
            "Share of the limit for this month (UTC) that is spent; of several clouds the fullest.",
            "percentunit",
            spent("month"),
            limits=BUDGET,
            absent="no limit",
        ),
        number(
            "Clouds cost",
            "What clouds have cost within the time shown.",
            "currencyUSD",
            increase(COST, OF),
            decimals=2,
            absent="no cloud",
        ),
        number(
            "Own, at the API",
            "What the tokens of one's own servers would have cost at the API that is compared with, within the time "
            "shown. One's own machines cost, too: see the cost board.",
            "currencyUSD",
            increase(SAVED, OF),
            decimals=2,
            absent="not compared",
        ),
    ),
)

TRAFFIC = Row(
    "Requests",
    (
        lines(
            "Requests per second, by server",
            "Answers of every status. A cloud's line is its name.",
            "reqps",
            Query(rate(REQUESTS, OF, by="model, server"), "{{server}} ({{model}})"),
            stacked=True,
        ),
        lines(
            "Failed",
            "Share of answers by servers with status 5xx. What was repeated elsewhere and answered there is not in it.",
            "percentunit",
            Query(share_of(REQUESTS, 'code="5xx"', OF), "failed"),
        ),
        lines(
            "At servers, and waiting",
            "Requests that are answered now, by server, and those that wait for a place, by model.",
            "short",
            Query(f"nbridge_gateway_requests_running{{{OF}}}", "{{server}} ({{model}})"),
            Query(f"nbridge_gateway_requests_waiting{{{OF}}}", "waiting: {{model}}", limit=True),
        ),
    ),
)

SERVERS = Row(
    "Servers",
    (
        Panel(
            "states",
            "In and out",
            "Whether HAProxy sends a server requests. A cloud is out while its limit is spent.",
            "none",
            (Query(f"nbridge_gateway_server_up{{{OF}}}", "{{server}} ({{model}})"),),
            width=16,
            names=((0, "out", "red"), (1, "in", "green")),
        ),
        lines(
            "Repeated elsewhere",
            "Requests a second that were sent to another server because the first one failed before its first token.",
            "reqps",
            Query(rate("nbridge_gateway_retries_total", OF, by="model"), "{{model}}"),
        ),
    ),
)

CLOUDS = Row(
    "Clouds",
    (
        lines(
            "Spent of the limit",
            "Share of each limit that is spent, of a day and of a month (UTC). At 100 % the cloud is closed.",
            "percentunit",
            Query(SHARE.format(AT), "{{cloud}}, {{period}}"),
            limits=BUDGET,
        ),
        lines(
            "Dollars per hour",
            "What each cloud's model costs at the traffic of that moment.",
            "currencyUSD",
            Query(f"{rate(COST, OF, by='cloud, model')} * 3600", "{{model}} at {{cloud}}"),
            stacked=True,
        ),
        lines(
            "How requests ended",
            "Requests to clouds a second. Refused: by the provider. Left: the client went. Unknown: no answer, so what "
            "was reserved counts.",
            "reqps",
            Query(rate("nbridge_gateway_cloud_requests_total", OF, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "Tokens per second",
            "Tokens at clouds; cached ones are in the input, too.",
            "si:tok/s",
            Query(rate("nbridge_gateway_cloud_tokens_total", OF, by="kind"), "{{kind}}"),
        ),
        lines(
            "Estimated",
            "Share of requests to clouds whose tokens nobody told, so that they are estimated.",
            "percentunit",
            Query(
                f"{rate('nbridge_gateway_cloud_estimated_total', OF, by='cloud')} / "
                f"{rate('nbridge_gateway_cloud_requests_total', OF, by='cloud')}",
                "{{cloud}}",
            ),
            maximum=1.0,
        ),
        lines(
            "Own tokens at the API's price",
            "Dollars an hour that the tokens of one's own servers would cost at the API that is compared with, beside "
            "what clouds cost.",
            "currencyUSD",
            Query(f"{rate(SAVED, OF)} * 3600", "own servers, at the API's price"),
            Query(f"{rate(COST, OF)} * 3600", "clouds"),
        ),
    ),
)

BOARD = Board(
    "gateway",
    "Neural Bridge / Gateway",
    "Who answers behind the gateway, who was put out, what clouds cost and how much of their limits is spent.",
    (GATEWAY, MODEL),
    (NOW, TRAFFIC, SERVERS, CLOUDS),
)
