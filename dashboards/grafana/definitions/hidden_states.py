"""The board of the hidden-states route: its load and latency, and what it does to the requests beside it."""

from dashboards.grafana.panels import Board, Query, Row, heatmap, high_is_bad, lines, number
from dashboards.grafana.promql import (
    ENGINE,
    RECENT,
    SERVER,
    buckets,
    increase,
    mean,
    quantile,
    rate,
    share_of,
    share_within,
)
from dashboards.grafana.variables import INSTANCE, MODEL

REQUESTS = "nbridge_hidden_states_requests_total"
TOKENS = "nbridge_hidden_states_prompt_tokens_total"
LATENCY = "nbridge_hidden_states_request_latency_seconds"
ROUTE = f'{SERVER},handler="/v1/hidden_states"'

NOW = Row(
    "Now",
    (
        number(
            "Requests per second",
            "Requests for hidden states that ended, whatever their outcome, over the last five minutes.",
            "reqps",
            rate(REQUESTS, SERVER, window=RECENT),
            width=4,
            absent="never asked",
        ),
        number(
            "In flight",
            "Requests for hidden states now in work.",
            "short",
            f"sum(nbridge_hidden_states_in_flight{{{SERVER}}})",
            width=4,
        ),
        number(
            "Failed by the server",
            "Share that ended in an error of the server's, over the last five minutes. Refused requests (bad "
            "input) and clients that left are not failures.",
            "percentunit",
            share_of(REQUESTS, 'outcome="error"', SERVER, window=RECENT),
            width=4,
            limits=high_is_bad(0.001, 0.01),
            absent="no requests",
        ),
        number(
            "Latency p95",
            "From arrival to answer, answered requests of the last five minutes, estimated from bucket bounds.",
            "s",
            quantile(0.95, LATENCY, SERVER, window=RECENT),
            width=4,
            absent="no requests",
        ),
        number(
            "Within 1 s",
            "Exact share of answered requests that took at most one second, over the last five minutes.",
            "percentunit",
            share_within(LATENCY, "1.0", SERVER, window=RECENT),
            width=4,
            decimals=2,
            absent="no requests",
        ),
        number(
            "Prompt tokens answered",
            "Tokens whose hidden states were answered within the time shown.",
            "short",
            increase(TOKENS, SERVER),
            width=4,
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        lines(
            "Requests by outcome",
            "ok: answered. refused: bad input. cancelled: the client left. error: the server's fault.",
            "reqps",
            Query(rate(REQUESTS, SERVER, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "Requests by pooling",
            "last and mean answer one vector a prompt; all answers one per token, and its answers are large.",
            "reqps",
            Query(rate(REQUESTS, SERVER, by="pooling"), "{{pooling}}"),
            stacked=True,
        ),
        lines(
            "Prompt tokens per second",
            "Tokens whose hidden states were answered.",
            "si:tok/s",
            Query(rate(TOKENS, SERVER), "tokens"),
        ),
    ),
)

TIME = Row(
    "Latency",
    (
        lines(
            "Latency",
            "From arrival to answer, answered requests only, estimated from bucket bounds.",
            "s",
            *(Query(quantile(q, LATENCY, SERVER), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
            Query(mean(LATENCY, SERVER), "mean"),
        ),
        heatmap(
            "Latency, distribution",
            "Answered requests per second by the time they took.",
            "s",
            buckets(LATENCY, SERVER),
        ),
        lines(
            "In flight, by server",
            "Requests for hidden states in work on each server.",
            "short",
            Query(f"sum by (instance) (nbridge_hidden_states_in_flight{{{SERVER}}})", "{{instance}}"),
        ),
    ),
)

BESIDE = Row(
    "Beside it",
    (
        lines(
            "ITL of the same servers",
            "What users of completions feel while hidden states are computed; estimated from bucket bounds.",
            "s",
            *(Query(quantile(q, "vllm:inter_token_latency_seconds", ENGINE), f"p{q * 100:g}") for q in (0.5, 0.95)),
        ),
        lines(
            "Share of prompt tokens",
            "Tokens whose hidden states were answered, of all prompt tokens that the servers read.",
            "percentunit",
            Query(
                f"{rate(TOKENS, SERVER)} / {rate('vllm:prompt_tokens_total', ENGINE)}",
                "hidden states",
            ),
        ),
        lines(
            "Bytes answered per second",
            "Bodies of the route's answers. base64 is a third of the size of JSON numbers.",
            "Bps",
            Query(rate("http_response_size_bytes_sum", ROUTE), "answers"),
        ),
    ),
)

BOARD = Board(
    "hidden-states",
    "Neural Bridge / Hidden states",
    "Load and latency of /v1/hidden_states, and what it does to the requests beside it.",
    (MODEL, INSTANCE),
    (NOW, LOAD, TIME, BESIDE),
)
