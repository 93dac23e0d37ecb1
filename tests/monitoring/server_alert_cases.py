"""Alerts on servers: down, hanging, full, slow, out of their error budget."""

from alert_case import ENGINE, OTHER, Case, labels

SERVER_CASES = [
    Case(
        "ServerDown",
        "engine.yml",
        {'up{instance="a:8000",job="vllm"}': "1x3 0x5 1x5", 'up{instance="n:9400",job="gpu"}': "0x20"},
        silent="30s",  # down since 20 s; a single lost scrape is no page
        fires="35s",
        over="50s",
        labels={"instance": "a:8000", "job": "vllm"},
        summary="a:8000 gives no metrics: it is down, or answers too late, or not as a vLLM server",
    ),
    Case(
        "ServerWithoutMetrics",
        "engine.yml",
        {
            'up{instance="a:8000",job="vllm"}': "1x40",
            'up{instance="b:8000",job="vllm"}': "1x40",
            f"vllm:num_requests_running{{{ENGINE}}}": "_x19 0x20",
            f"vllm:num_requests_running{{{OTHER}}}": "0x40",
        },
        silent="55s",
        fires="60s",
        over="100s",
        severity="warning",
        labels={"instance": "a:8000", "job": "vllm"},
        summary="a:8000 answers, but exports no vLLM metrics: no other alert can see it",
    ),
    Case(
        "EngineStalled",
        "engine.yml",
        {
            # a: 3 + 1 requests, steps end until 60 s, then none until 300 s. b: idle, no step either, and no alert.
            f"vllm:num_requests_running{{{ENGINE}}}": "3x80",
            f"vllm:num_requests_waiting{{{ENGINE}}}": "1x80",
            f"vllm:iteration_tokens_total_count{{{ENGINE}}}": "0+10x12 120x47 130+10x20",
            f"vllm:num_requests_running{{{OTHER}}}": "0x80",
            f"vllm:num_requests_waiting{{{OTHER}}}": "0x80",
            f"vllm:iteration_tokens_total_count{{{OTHER}}}": "500x80",
            # c has requests and no step, because it was put to sleep
            'vllm:num_requests_running{instance="c:8000",model_name="m",engine="0"}': "1x80",
            'vllm:num_requests_waiting{instance="c:8000",model_name="m",engine="0"}': "0x80",
            'vllm:iteration_tokens_total_count{instance="c:8000",model_name="m",engine="0"}': "9x80",
            'vllm:engine_sleep_state{sleep_state="awake",instance="c:8000",model_name="m",engine="0"}': "0x80",
        },
        silent="170s",  # the last step was seen at 60 s
        fires="185s",
        over="310s",
        labels=labels(ENGINE),
        summary="Engine 0 of a:8000 has 4 requests and has finished no step for 2m; /health may still say 200",
    ),
    Case(
        "CanaryFailing",
        "engine.yml",
        {
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://a:8000"}': "1x3 0x8 1x9",
            'nbridge_canary_up{instance="n:9400",job="gpu",server="https://b:8000/llm"}': "1x20",
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://c:8000"}': "0x20",  # asleep
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://d:8000"}': "0x20",  # no target any more
            # was down from 10 to 50 s: until its next canary at 60 s nobody knows whether it answers again
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://e:8000"}': "1x1 0x9 1x8",
            'up{instance="a:8000",job="vllm"}': "1x20",
            'up{instance="c:8000",job="vllm"}': "1x20",
            'up{instance="e:8000",job="vllm"}': "1x1 0x7 1x10",
            'vllm:engine_sleep_state{sleep_state="awake",instance="c:8000",model_name="m",engine="0"}': "0x20",
        },
        silent="35s",  # failed first at 20 s, the second one is told by 40 s
        fires="40s",
        over="65s",
        labels={"instance": "a:8000", "job": "gpu", "server": "http://a:8000"},
        summary="http://a:8000 has failed to produce one token at least 2 times in a row",
    ),
    Case(
        "CanaryNeverAnswered",
        "engine.yml",
        {
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://a:8000"}': "0x200 1x9",
            'nbridge_canary_up{instance="n:9400",job="gpu",server="http://b:8000"}': "1x1 0x208",  # CanaryFailing's
            'up{instance="a:8000",job="vllm"}': "1x210",
            'up{instance="b:8000",job="vllm"}': "1x210",
        },
        silent="14m55s",
        fires="15m5s",
        over="16m50s",
        severity="warning",
        labels={"instance": "a:8000", "job": "gpu", "server": "http://a:8000"},
        summary="http://a:8000 has not once given a canary what it asked for, in a day or since it is watched",
    ),
    Case(
        "ServerMemoryGrowing",
        "engine.yml",
        {
            # 10 MiB a minute is 600 MiB an hour; from minute 180 on it stays. b grows as fast, and is started anew.
            'process_resident_memory_bytes{instance="a:8000",job="vllm"}': "1e9+10485760x180 2887436800x200",
            'process_start_time_seconds{instance="a:8000",job="vllm"}': "100x400",
            'process_resident_memory_bytes{instance="b:8000",job="vllm"}': "1e9+10485760x100 2e9x300",
            'process_start_time_seconds{instance="b:8000",job="vllm"}': "100x100 6100x300",
        },
        step="1m",
        silent="119m",
        fires="150m",
        over="310m",
        severity="warning",
        labels={"instance": "a:8000", "job": "vllm"},
        summary="The API process of a:8000 has grown by 600MiB an hour for 2h, over 256 MiB an hour",
    ),
    Case(
        "RequestsWaiting",
        "engine.yml",
        {
            # two engines of one server add up to 24
            f"vllm:num_requests_waiting{{{ENGINE}}}": "0x3 12x30 0x20",
            'vllm:num_requests_waiting{instance="a:8000",job="vllm",model_name="m",engine="1"}': "0x3 12x30 0x20",
            f"vllm:num_requests_waiting{{{OTHER}}}": "20x60",
        },
        silent="135s",
        fires="140s",
        over="180s",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m"},
        summary="24 requests wait on a:8000, more than 20 for 2m",
    ),
    Case(
        "KvCachePressure",
        "engine.yml",
        {
            f"vllm:kv_cache_usage_perc{{{ENGINE}}}": "0.97x60 0.5x20",
            f"vllm:num_preemptions_total{{{ENGINE}}}": "0x5 1x80",
            f"vllm:kv_cache_usage_perc{{{OTHER}}}": "0.99x80",  # full of reusable prefixes: nobody is preempted
            f"vllm:num_preemptions_total{{{OTHER}}}": "7x80",
        },
        silent="85s",
        fires="95s",
        over="310s",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m", "engine": "0"},
        summary="The KV cache of engine 0 on a:8000 is 97% full, and requests are preempted and computed again",
    ),
    Case(
        "KvCachePressure",  # of vLLM up to 0.9, which calls the gauge otherwise
        "engine.yml",
        {
            f"vllm:gpu_cache_usage_perc{{{ENGINE}}}": "0.97x60 0.5x20",
            f"vllm:num_preemptions_total{{{ENGINE}}}": "0x5 1x80",
        },
        silent="85s",
        fires="95s",
        over="310s",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m", "engine": "0"},
        summary="The KV cache of engine 0 on a:8000 is 97% full, and requests are preempted and computed again",
    ),
    Case(
        "AdmissionRejections",
        "engine.yml",
        {
            'vllm:admission_rejections_total{instance="a:8000",model_name="m",reason="max_num_queued_reqs"}': (
                "0x3 4x120"
            ),
            'vllm:admission_rejections_total{instance="a:8000",model_name="m",reason="max_num_queued_tokens"}': "9x120",
        },
        silent="75s",
        fires="300s",
        over="330s",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m", "reason": "max_num_queued_reqs"},
        summary="a:8000 has turned away 4 requests in 5m (max_num_queued_reqs)",
    ),
    Case(
        "LoadPastKnee",
        "engine.yml",
        {
            f"vllm:num_requests_running{{{ENGINE}}}": "4x20 5x20 4x10",
            f"vllm:num_requests_waiting{{{ENGINE}}}": "0x20 1x20 0x10",
        },
        step="1m",
        silent="30m",
        fires="31m",
        over="43m",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m"},
        summary="6 requests are in flight on a:8000: past the measured knee of 4, more load only makes every request "
        "slower",
        annotations={"derivation": "From run r: the knee."},
    ),
    Case(
        "LatencyP95High",
        "latency.yml",
        {
            # 20 requests a minute end; first all within 5 s, from minute 10 on one in ten (2 of 20) takes longer.
            f'vllm:e2e_request_latency_seconds_bucket{{{ENGINE},le="5.0"}}': "0+20x10 218+18x20 598+20x20",
            f"vllm:e2e_request_latency_seconds_count{{{ENGINE}}}": "0+20x51",
            # b: all too long, but 2 requests in 5 minutes are no percentile
            f'vllm:e2e_request_latency_seconds_bucket{{{OTHER},le="5.0"}}': "0x51",
            f"vllm:e2e_request_latency_seconds_count{{{OTHER}}}": "0+0.4x51",
        },
        step="1m",
        silent="9m",
        fires="20m",
        over="45m",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m", "slo": "e2e"},
        summary="10% of requests to a:8000 took longer than 5 s in the last 5m, so the 95th percentile is over it",
    ),
    Case(
        "QueueTimeHigh",
        "latency.yml",
        {
            f'vllm:request_queue_time_seconds_bucket{{{ENGINE},le="1.0"}}': "0+20x10 210+10x20 430+20x20",
            f"vllm:request_queue_time_seconds_count{{{ENGINE}}}": "0+20x51",
            f"vllm:e2e_request_latency_seconds_count{{{ENGINE}}}": "0+20x51",
        },
        step="1m",
        silent="9m",
        fires="20m",
        over="45m",
        severity="warning",
        labels={"instance": "a:8000", "model_name": "m", "slo": "queue"},
        summary="50% of requests to a:8000 waited in the queue for more than 1 s in the last 5m, so the 95th "
        "percentile is over it",
    ),
    Case(
        "ErrorBudgetBurnFast",
        "burn.yml",
        {
            # Two servers of one model, 10 requests a minute each. From minute 60 to 119 all of a's are slow.
            f'vllm:time_to_first_token_seconds_bucket{{{ENGINE},le="1.0"}}': "0+10x60 600x59 610+10x120",
            f"vllm:time_to_first_token_seconds_count{{{ENGINE}}}": "0+10x240",
            f"vllm:e2e_request_latency_seconds_count{{{ENGINE}}}": "0+10x240",
            f'vllm:time_to_first_token_seconds_bucket{{{OTHER},le="1.0"}}': "0+10x240",
            f"vllm:time_to_first_token_seconds_count{{{OTHER}}}": "0+10x240",
            f"vllm:e2e_request_latency_seconds_count{{{OTHER}}}": "0+10x240",
        },
        step="1m",
        silent="75m",  # over five minutes half is bad, but over the hour only an eighth
        fires="120m",
        over="130m",  # the last five minutes are good again, though the hour is not
        labels={"model_name": "m", "slo": "ttft", "window": "1h"},
        summary="50% of requests for m were slower than promised (ttft) in 1h, of which 5 % may: the budget of 30 days "
        "is spent 5 times too fast or worse",
    ),
    Case(
        "ErrorBudgetBurnSlow",
        "burn.yml",
        {
            # 10 answers a minute to /v1; between hours 6 and 12 one in ten is a 5xx. /health does not count.
            'http_requests_total{instance="a:8000",job="vllm",handler="/v1/completions",status="2xx"}': (
                "0+30x120 3627+27x119 6870+30x139"
            ),
            'http_requests_total{instance="a:8000",job="vllm",handler="/v1/completions",status="5xx"}': (
                "0x120 3+3x119 360x140"
            ),
            'http_requests_total{instance="a:8000",job="vllm",handler="/health",status="5xx"}': "0+300x380",
            f"vllm:num_requests_running{{{ENGINE}}}": "0x380",
            f'vllm:request_success_total{{{ENGINE},finished_reason="error"}}': "0x380",
        },
        step="3m",
        silent="399m",  # 39 minutes into it: 1.1 % of six hours' requests, and 6 % are needed
        fires="720m",
        over="759m",
        severity="warning",
        labels={"model_name": "m", "slo": "availability", "window": "6h"},
        summary="10% of requests for m failed in 6h, of which 1 % may: the budget of 30 days is spent 6 times too fast "
        "or worse",
    ),
]
