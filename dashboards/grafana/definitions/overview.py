"""The first board to open: is everything there, is it fast, is it busy, and what is wrong?"""

from dashboards.grafana.limits import GPU_TEMPERATURE, KV_USAGE
from dashboards.grafana.panels import Board, Panel, Query, Row, high_is_bad, lines, low_is_bad, number
from dashboards.grafana.promql import ENGINE, RECENT, highest, quantile, rate, share_of
from dashboards.grafana.variables import INSTANCE, JOB, MODEL

UP = 'up{job=~"$job"}'

NOW = Row(
    "Now",
    (
        number(
            "Servers answering",
            "Share of the job's servers whose last scrape succeeded. A server that never answered counts too.",
            "percentunit",
            f"sum({UP}) / count({UP})",
            limits=low_is_bad(0.5, 1),
        ),
        number(
            "Alerts firing",
            "Alerts that fire now, the Watchdog left out. It reads 0 only while Prometheus evaluates our rules.",
            "short",
            'count(ALERTS{alertstate="firing",severity!="none"}) or 0 * count(nbridge_slo:budget_share)',
            limits=high_is_bad(1, 1),
            absent="no rules",
        ),
        number(
            "Requests",
            "Requests a second that the engine finished, well or with an error, over the last five minutes.",
            "reqps",
            rate("vllm:request_success_total", ENGINE, window=RECENT),
        ),
        number(
            "Engine errors",
            "Share of requests that the engine ended with an error, over the last five minutes.",
            "percentunit",
            share_of("vllm:request_success_total", 'finished_reason="error"', ENGINE, window=RECENT),
            limits=high_is_bad(0.001, 0.01),
            absent="no requests",
        ),
        number(
            "TTFT p95",
            "Time to the first token, 95th percentile of the last five minutes, estimated from bucket bounds.",
            "s",
            quantile(0.95, "vllm:time_to_first_token_seconds", ENGINE, window=RECENT),
            absent="no requests",
        ),
        number(
            "E2E p95",
            "From a request's arrival to its last token, 95th percentile of the last five minutes, estimated "
            "from bucket bounds.",
            "s",
            quantile(0.95, "vllm:e2e_request_latency_seconds", ENGINE, window=RECENT),
            absent="no requests",
        ),
        number(
            "Fullest KV cache",
            "Share in use of the fullest engine's KV cache.",
            "percentunit",
            highest("vllm:kv_cache_usage_perc", ENGINE),
            limits=KV_USAGE,
        ),
        number(
            "Hottest GPU",
            "The highest temperature of all GPUs that an exporter sees.",
            "celsius",
            "max(nbridge_gpu_temperature_celsius)",
            limits=GPU_TEMPERATURE,
            absent="no GPU",
        ),
    ),
)

WRONG = Row(
    "What is wrong",
    (
        Panel(
            "states",
            "Servers",
            "Whether each server of the job answered its scrapes. A server may answer and still hang: see the alerts.",
            "none",
            (Query(UP, "{{instance}}"),),
            width=12,
            height=6,
            names=((0, "down", "red"), (1, "up", "green")),
        ),
        Panel(
            "states",
            "Alerts",
            "Alerts while they fire, coloured by severity. Each has a section in docs/runbooks.md.",
            "none",
            tuple(
                Query(
                    f"{level} * max by (alertname, instance, gpu)"
                    f' (ALERTS{{alertstate="firing",severity="{severity}"}})',
                    "{{alertname}} {{instance}} {{gpu}}",
                )
                for level, severity in ((3, "critical"), (2, "warning"), (1, "info"))
            ),
            width=12,
            height=6,
            names=((1, "info", "blue"), (2, "warning", "yellow"), (3, "critical", "red")),
            absent="none fired, or no rules",
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        lines(
            "Requests running and waiting",
            "Requests in the engines' batches, and those queueing for a place, over all engines. Waiting that "
            "does not go back to 0 means more load than the engines can carry.",
            "short",
            Query(f"sum(vllm:num_requests_running{{{ENGINE}}})", "running"),
            Query(f"sum(vllm:num_requests_waiting{{{ENGINE}}})", "waiting"),
        ),
        lines(
            "Tokens per second",
            "Prompt tokens read and output tokens written, over all engines.",
            "si:tok/s",
            Query(rate("vllm:prompt_tokens_total", ENGINE), "prompt"),
            Query(rate("vllm:generation_tokens_total", ENGINE), "output"),
        ),
        lines(
            "How requests ended",
            "Requests per second by the reason they finished: stop and length are answers, error is the "
            "engine's. vLLM does not count requests whose client left.",
            "reqps",
            Query(rate("vllm:request_success_total", ENGINE, by="finished_reason"), "{{finished_reason}}"),
            stacked=True,
        ),
    ),
)

LATENCY = Row(
    "Latency",
    tuple(
        lines(
            title,
            f"{what}, over all engines and servers together. Estimated from bucket bounds: the exact share of requests "
            "within the objective is on the service level board.",
            "s",
            *(Query(quantile(q, histogram, ENGINE), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        )
        for title, what, histogram in (
            (
                "TTFT",
                "Time to first token: from a request's arrival to its first output token",
                "vllm:time_to_first_token_seconds",
            ),
            ("ITL", "Inter-token latency: between two output tokens of a request", "vllm:inter_token_latency_seconds"),
            ("E2E", "End to end: from a request's arrival to its last token", "vllm:e2e_request_latency_seconds"),
        )
    ),
)

GPUS = Row(
    "GPUs",
    (
        lines(
            "Temperature",
            "Of each GPU. No line: no GPU, or it does not tell.",
            "celsius",
            Query('nbridge_gpu_temperature_celsius{mig=""}', "{{instance}} GPU {{gpu}}"),
            limits=GPU_TEMPERATURE,
        ),
        lines(
            "Utilization",
            "Share of the time in which at least one kernel ran on each GPU. Near 1 is normal under load; it "
            "does not say how well the GPU is used.",
            "percentunit",
            Query('nbridge_gpu_utilization_ratio{mig=""}', "{{instance}} GPU {{gpu}}"),
            maximum=1.0,
        ),
        lines(
            "Memory in use",
            "Share of each GPU's memory. vLLM takes its share at the start and keeps it.",
            "percentunit",
            Query(
                'nbridge_gpu_memory_used_bytes{mig=""} / nbridge_gpu_memory_total_bytes{mig=""}',
                "{{instance}} GPU {{gpu}}",
            ),
            maximum=1.0,
        ),
    ),
)

BOARD = Board(
    "overview",
    "Neural Bridge / Overview",
    "Is everything there, is it fast, is it busy, and what is wrong?",
    (JOB, MODEL, INSTANCE),
    (NOW, WRONG, LOAD, LATENCY, GPUS),
)
