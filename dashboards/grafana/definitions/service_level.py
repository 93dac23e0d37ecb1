"""The board of the service level: the share of requests that were good enough, and how fast the error budget burns.

Its first rows show what the recording rules compute, so that a reader sees the very numbers that the alerts judge.
"""

from dashboards.grafana.limits import SETTINGS
from dashboards.grafana.panels import Board, Limits, Panel, Query, Row, heatmap, lines, number
from dashboards.grafana.promql import ENGINE, buckets, mean, quantile, share_within
from dashboards.grafana.variables import INSTANCE, MODEL
from monitoring.alerting.recording import duration

PER_MODEL = 'model_name=~"$model"'
OBJECTIVES = (
    ("ttft", "TTFT", "requests whose first token came within the threshold"),
    ("itl", "ITL", "gaps between tokens within the threshold"),
    ("e2e", "E2E", "requests answered in full within the threshold"),
    ("queue", "Queue", "requests that waited for the engine no longer than the threshold"),
    ("availability", "Availability", "requests that neither the server nor the engine failed"),
)


LONG = duration(SETTINGS.burn.fast.long_s)
LAST = f',window="{LONG}"'
OVERDRAWN = Limits("green", ((1, "red"),))


def burn(more: str = "") -> str:
    """Bad share over allowed share, by model, objective and window."""
    return f"model:nbridge_slo_bad:window_share{{{PER_MODEL}{more}}} / on (slo) group_left () nbridge_slo:budget_share"


def good(slo: str, level: str, matchers: str) -> str:
    """The exact share of what met an objective."""
    return f'1 - {level}:nbridge_slo_bad:share{{{matchers},slo="{slo}"}}'


NOW = Row(
    "Good enough, now",
    (
        *(
            number(
                f"{title}: good",
                f"Share of {what}, of the worst of the chosen models; exact, over the rules' window. Thresholds "
                "and budgets are the alert settings.",
                "percentunit",
                f"min({good(slo, 'model', PER_MODEL)})",
                width=4,
                decimals=2,
                limits=Limits("red", ((round(1 - getattr(SETTINGS.slo, slo).budget_share, 6), "green"),)),
                absent="no traffic",
            )
            for slo, title, what in OBJECTIVES
        ),
        number(
            f"Budget burn, {LONG}",
            "How many times as fast as it lasts the error budget was used over this window, by the worst objective of "
            "the worst model: 1 uses exactly the budget, more overdraws it.",
            "suffix:×",
            f"max({burn(LAST)})",
            width=4,
            decimals=2,
            limits=OVERDRAWN,
            absent="no traffic",
        ),
    ),
)

BUDGET = Row(
    "Error budget",
    (
        lines(
            "Bad share, by objective",
            "Exact share that missed each objective, of the worst of the chosen models, over the rules' window.",
            "percentunit",
            Query(f"max by (slo) (model:nbridge_slo_bad:share{{{PER_MODEL}}})", "{{slo}}"),
        ),
        lines(
            f"Budget burn by objective, {LONG}",
            "Bad share divided by the share that the objective allows, of the worst of the chosen models. Above 1 the "
            "budget is overdrawn.",
            "suffix:×",
            Query(f"max by (slo) ({burn(LAST)})", "{{slo}}"),
            limits=OVERDRAWN,
        ),
        lines(
            "Budget burn by window",
            "The same for the worst objective, over several windows. The short ones say that it is so now, the "
            "long ones that it lasted: an alert needs both.",
            "suffix:×",
            Query(f"max by (window) ({burn()})", "{{window}}"),
            limits=OVERDRAWN,
        ),
    ),
)

THRESHOLDS = Row(
    "Latency against its thresholds",
    tuple(
        lines(
            title,
            f"{what}, of the slowest of the chosen models, estimated from bucket bounds; the threshold is the alert's.",
            "s",
            Query(f"max(model:nbridge_{slo}_seconds:p50{{{PER_MODEL}}})", "p50"),
            Query(f"max(model:nbridge_{slo}_seconds:p95{{{PER_MODEL}}})", "p95"),
            Query(f"max(model:nbridge_{slo}_seconds:p99{{{PER_MODEL}}})", "p99"),
            Query(f'max(nbridge_slo:threshold_seconds{{slo="{slo}"}})', "threshold", limit=True),
        )
        for slo, title, what in (
            ("ttft", "TTFT", "Time to first token: from a request's arrival to its first output token"),
            ("itl", "ITL", "Inter-token latency: between two output tokens of a request"),
            ("e2e", "E2E", "End to end: from a request's arrival to its last token"),
        )
    ),
)

WHERE = Row(
    "Where the time goes",
    (
        lines(
            "Mean time by phase",
            "Mean seconds that a request waited, had its prompt read, and had its answer written. Means add up, "
            "percentiles do not: this is the split of the mean end-to-end time inside the engine.",
            "s",
            Query(mean("vllm:request_queue_time_seconds", ENGINE), "queue"),
            Query(mean("vllm:request_prefill_time_seconds", ENGINE), "prefill"),
            Query(mean("vllm:request_decode_time_seconds", ENGINE), "decode"),
            stacked=True,
            width=6,
        ),
        lines(
            "Requests that queued",
            "Exact share of requests that waited for a place in the batch longer than so many seconds.",
            "percentunit",
            *(
                Query(f"1 - {share_within('vllm:request_queue_time_seconds', bound, ENGINE)}", f"over {bound:.3} s")
                for bound in ("0.3", "1.0", "5.0")
            ),
            width=6,
        ),
        heatmap(
            "E2E, distribution",
            "Requests per second by their end-to-end time. Two bands are two kinds of request, or two kinds of server.",
            "s",
            buckets("vllm:e2e_request_latency_seconds", ENGINE),
            width=6,
        ),
        lines(
            "E2E p95 by server",
            "Per server, estimated from bucket bounds: one line above the others is a server in trouble.",
            "s",
            Query(quantile(0.95, "vllm:e2e_request_latency_seconds", ENGINE, by="instance"), "{{instance}}"),
            width=6,
        ),
    ),
)

CANARY = Row(
    "Canary",
    (
        lines(
            "Canary latency",
            "Time that a one-token request took, sent at regular intervals by the exporter to each server it watches.",
            "s",
            Query("nbridge_canary_latency_seconds", "{{server}}"),
            width=12,
            height=6,
            absent="no canary",
        ),
        Panel(
            "states",
            "Canary answered",
            "Whether each server answered a one-token request. It finds an engine that hangs while /health says 200.",
            "none",
            (Query("nbridge_canary_up", "{{server}}"),),
            width=12,
            height=6,
            names=((0, "no answer", "red"), (1, "answered", "green")),
            absent="no canary",
        ),
    ),
)

BOARD = Board(
    "service-level",
    "Neural Bridge / Service level",
    "The share of requests that were good enough, and how fast the error budget burns. "
    "The upper rows need Neural Bridge's recording rules (monitoring/rules).",
    (MODEL, INSTANCE),
    (NOW, BUDGET, THRESHOLDS, WHERE, CANARY),
)
