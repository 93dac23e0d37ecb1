"""The board of the engine: what it works on, how fast it steps, and how full its KV cache is."""

from dashboards.grafana.limits import KV_USAGE, WAITING
from dashboards.grafana.panels import Board, Panel, Query, Row, heatmap, high_is_bad, lines, number
from dashboards.grafana.promql import ENGINE, RECENT, SERVER, buckets, highest, increase, mean, quantile, rate
from dashboards.grafana.variables import INSTANCE, MODEL

BY_ENGINE = "instance, engine"
EACH = "{{instance}} engine {{engine}}"

WORK = Row(
    "Work",
    (
        lines(
            "Requests running and waiting",
            "Requests in the engines' batches, and those queueing for a place in them, over all engines. Waiting "
            "that does not go back to 0 means that the load is above what the engines can carry.",
            "short",
            Query(f"sum(vllm:num_requests_running{{{ENGINE}}})", "running"),
            Query(f"sum(vllm:num_requests_waiting{{{ENGINE}}})", "waiting"),
        ),
        lines(
            "Waiting, by reason",
            "capacity: no room in the batch or the KV cache. deferred: held back for something else (a grammar, "
            "a transfer of cache).",
            "short",
            Query(f"sum by (reason) (vllm:num_requests_waiting_by_reason{{{ENGINE}}})", "{{reason}}"),
            stacked=True,
        ),
        lines(
            "Tokens per second",
            "Prompt tokens read and output tokens written, over all engines. Prompt tokens found in the cache "
            "are counted as read.",
            "si:tok/s",
            Query(rate("vllm:prompt_tokens_total", ENGINE), "prompt"),
            Query(rate("vllm:generation_tokens_total", ENGINE), "output"),
        ),
    ),
)

STEPS = Row(
    "Steps",
    (
        lines(
            "Engine steps per second",
            "Forward passes of each engine. Requests running and no steps: the engine hangs, whatever /health says.",
            "si:steps/s",
            Query(rate("vllm:iteration_tokens_total_count", ENGINE, by=BY_ENGINE), EACH),
        ),
        lines(
            "Tokens per step",
            "Mean tokens handled in one forward pass, prompt and output together. Low with many requests "
            "waiting: raise max_num_seqs or max_num_batched_tokens; low with none waiting: there is no more work.",
            "si:tok",
            Query(mean("vllm:iteration_tokens_total", ENGINE), "mean of all engines"),
        ),
        heatmap(
            "Tokens per step, distribution",
            "Steps per second by the number of tokens in them. Decoding makes the low band, one token a request; "
            "prompts being read make the high one.",
            "short",
            buckets("vllm:iteration_tokens_total", ENGINE),
        ),
    ),
)

KV = Row(
    "KV cache",
    (
        lines(
            "KV cache in use",
            "Share of each engine's KV cache that holds tokens of requests. Near 1, requests wait or are preempted.",
            "percentunit",
            Query(highest("vllm:kv_cache_usage_perc", ENGINE, by=BY_ENGINE), EACH),
            limits=KV_USAGE,
            maximum=1.0,
        ),
        lines(
            "Preemptions per second",
            "Requests thrown out of the KV cache to make room, to be computed again: work done twice. More than a few: "
            "fewer sequences at a time, a shorter context, an 8-bit KV cache, or more memory.",
            "si:/s",
            Query(rate("vllm:num_preemptions_total", ENGINE, by=BY_ENGINE), EACH),
        ),
        lines(
            "Prefix cache hits",
            "Share of prompt tokens found in the cache instead of computed, over all engines. No line: no prompts.",
            "percentunit",
            Query(
                f"{rate('vllm:prefix_cache_hits_total', ENGINE)} / {rate('vllm:prefix_cache_queries_total', ENGINE)}",
                "hits",
            ),
            maximum=1.0,
        ),
        Panel(
            "facts",
            "KV cache configuration",
            "What each engine made of its memory when it started.",
            "none",
            (Query(f"vllm:cache_config_info{{{SERVER}}}"),),
            width=24,
            height=4,
            labels=(
                ("instance", "server"),
                ("engine", "engine"),
                ("kv_cache_size_tokens", "tokens"),
                ("num_gpu_blocks", "blocks"),
                ("block_size", "tokens per block"),
                ("cache_dtype", "element type"),
                ("kv_cache_max_concurrency", "full-length requests at once"),
                ("enable_prefix_caching", "prefix cache"),
                ("gpu_memory_utilization", "share of memory"),
            ),
        ),
    ),
)

REQUESTS = Row(
    "Requests",
    (
        lines(
            "Prompt length",
            "Tokens of a prompt, estimated from bucket bounds (1, 2, 5, 10, 20, 50 …).",
            "si:tok",
            Query(quantile(0.5, "vllm:request_prompt_tokens", ENGINE), "p50"),
            Query(quantile(0.95, "vllm:request_prompt_tokens", ENGINE), "p95"),
            Query(mean("vllm:request_prompt_tokens", ENGINE), "mean"),
            width=6,
        ),
        lines(
            "Output length",
            "Tokens of an answer, estimated from bucket bounds (1, 2, 5, 10, 20, 50 …).",
            "si:tok",
            Query(quantile(0.5, "vllm:request_generation_tokens", ENGINE), "p50"),
            Query(quantile(0.95, "vllm:request_generation_tokens", ENGINE), "p95"),
            Query(mean("vllm:request_generation_tokens", ENGINE), "mean"),
            width=6,
        ),
        lines(
            "How requests ended",
            "Requests per second by the reason they finished: stop and length are answers, error is the "
            "engine's. vLLM does not count requests whose client left.",
            "reqps",
            Query(rate("vllm:request_success_total", ENGINE, by="finished_reason"), "{{finished_reason}}"),
            stacked=True,
            width=6,
        ),
        lines(
            "Prompt tokens, by source",
            "Where prompt tokens came from: computed here, found in the prefix cache, or brought from elsewhere.",
            "si:tok/s",
            Query(rate("vllm:prompt_tokens_by_source_total", ENGINE, by="source"), "{{source}}"),
            stacked=True,
            width=6,
        ),
    ),
)

NOW = Row(
    "Now",
    (
        number("Running", "Requests in the engines' batches.", "short", f"sum(vllm:num_requests_running{{{ENGINE}}})"),
        number(
            "Waiting",
            "Requests queueing for a place in a batch.",
            "short",
            f"sum(vllm:num_requests_waiting{{{ENGINE}}})",
            limits=WAITING,
        ),
        number(
            "Fullest KV cache",
            "Share in use of the fullest engine's KV cache.",
            "percentunit",
            highest("vllm:kv_cache_usage_perc", ENGINE),
            limits=KV_USAGE,
        ),
        number(
            "Preemptions",
            "Requests thrown out of the KV cache within the time shown.",
            "short",
            increase("vllm:num_preemptions_total", ENGINE),
            decimals=0,
        ),
        number(
            "Turned away",
            "Requests refused at the door within the time shown, because a queue limit was reached.",
            "short",
            increase("vllm:admission_rejections_total", ENGINE),
            decimals=0,
            limits=high_is_bad(1, 10),
        ),
        number(
            "Engines awake",
            "Engines that hold their weights; a sleeping one answers nothing.",
            "short",
            f'sum(vllm:engine_sleep_state{{{ENGINE},sleep_state="awake"}})',
        ),
        number(
            "Output tokens",
            "A second, over all engines and the last five minutes.",
            "si:tok/s",
            rate("vllm:generation_tokens_total", ENGINE, window=RECENT),
        ),
        number(
            "API memory",
            "Resident memory of the HTTP processes, the engines not included; a steady rise is a leak. Servers "
            "with several API processes do not report it.",
            "bytes",
            f"sum(process_resident_memory_bytes{{{SERVER}}})",
            absent="not reported",
        ),
    ),
)

BOARD = Board(
    "engine",
    "Neural Bridge / Engine and KV cache",
    "What the engines work on, how fast they step, and how full their KV caches are.",
    (MODEL, INSTANCE),
    (NOW, WORK, KV, STEPS, REQUESTS),
)
