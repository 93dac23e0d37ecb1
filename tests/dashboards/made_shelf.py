"""Run folders and metrics pages made up for the tests of the app."""

import json
import shutil
from pathlib import Path
from typing import Any

from recordings import RECORDED


def add_run(
    folder: Path, run_id: str, *, created: str, records: bool = False, speed: float = 1.0, **changes: Any
) -> Path:
    """A copy of the reference run under another id and date, `speed` times as fast in run.json."""
    document = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))
    document |= {"run_id": run_id, "created": created, **changes}
    for cell in document["cells"]:
        metrics = cell["metrics"]
        metrics["output_throughput_tok_s"] *= speed
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            metrics[name] = {key: v if key == "n" else v / speed for key, v in metrics[name].items()}
    path = folder / run_id
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    if records:
        shutil.copytree(RECORDED / "cells", path / "cells")
    return path


def page(*, tokens: float = 0, requests: float = 0, ttft_sum_s: float = 0, waiting: float = 0, kv: float = 0.25) -> str:
    """A vLLM server's metrics page as far as the app reads it; every TTFT lies between 0.1 and 0.25 s."""
    labels = 'engine="0",model_name="demo-1m"'
    return f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{labels}}} {waiting}
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{labels}}} {kv}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{labels}}} {tokens}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{labels}}} {2 * tokens}
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{labels},finished_reason="length"}} {requests}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{le="0.1",{labels}}} 0.0
vllm:time_to_first_token_seconds_bucket{{le="0.25",{labels}}} {requests}
vllm:time_to_first_token_seconds_bucket{{le="+Inf",{labels}}} {requests}
vllm:time_to_first_token_seconds_count{{{labels}}} {requests}
vllm:time_to_first_token_seconds_sum{{{labels}}} {ttft_sum_s}
"""


def gpu_page(*, celsius: float = 61.0) -> str:
    """An exporter's page with one GPU that answers and one that is lost."""
    one = 'gpu="0",uuid="GPU-a",name="Example GPU",mig=""'
    two = 'gpu="1",uuid="GPU-b",name="Example GPU",mig=""'
    return f"""# TYPE nbridge_gpu_up gauge
nbridge_gpu_up{{{one}}} 1.0
nbridge_gpu_up{{{two}}} 0.0
# TYPE nbridge_gpu_temperature_celsius gauge
nbridge_gpu_temperature_celsius{{{one}}} {celsius}
# TYPE nbridge_gpu_memory_used_bytes gauge
nbridge_gpu_memory_used_bytes{{{one}}} 8589934592.0
# TYPE nbridge_gpu_memory_total_bytes gauge
nbridge_gpu_memory_total_bytes{{{one}}} 25769803776.0
# TYPE nbridge_gpu_utilization_ratio gauge
nbridge_gpu_utilization_ratio{{{one}}} 0.5
# TYPE nbridge_gpu_power_watts gauge
nbridge_gpu_power_watts{{{one}}} 250.0
"""
