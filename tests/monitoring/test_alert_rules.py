"""Every alert against invented series, judged by promtool: silent before, fires with these words, resolves after."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from monitoring.alerting import rulefiles
from monitoring.alerting.alerts import WATCHDOG, section
from monitoring.alerting.thresholds import Thresholds, load

ROOT = Path(__file__).parents[2]
ENGINE = 'instance="a:8000",job="vllm",model_name="m",engine="0"'
OTHER = 'instance="b:8000",job="vllm",model_name="m",engine="0"'
GPU = 'instance="n:9400",job="gpu",gpu="0",uuid="GPU-1",name="H100"'
GPU_1 = 'instance="n:9400",job="gpu",gpu="1",uuid="GPU-2",name="H100"'


def labels(text: str, *left_out: str) -> dict[str, str]:
    """`a="b",c="d"` as a dict, without some."""
    pairs = [pair.split("=") for pair in text.split(",")]
    return {key: value.strip('"') for key, value in pairs if key not in left_out}


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, one value per `step`; when the alert must be silent, fire, and be over."""

    alert: str
    file: str
    series: dict[str, str]
    silent: str
    fires: str
    over: str
    labels: dict[str, str]
    summary: str
    step: str = "5s"
    severity: str = "critical"
    annotations: dict[str, str] = field(default_factory=dict)


CASES = [
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
    Case(
        "GpuHot",
        "gpu.yml",
        {
            f"nbridge_gpu_temperature_celsius{{{GPU}}}": "70x3 91x5 84x5",
            f"nbridge_gpu_temperature_celsius{{{GPU_1}}}": "85x20",
        },
        silent="30s",
        fires="35s",
        over="50s",
        severity="warning",
        labels=labels(GPU),
        summary="GPU 0 (H100) on n:9400 is at 91 °C, over 85 °C",
    ),
    Case(
        "GpuUtilizationHigh",
        "gpu.yml",
        {
            f"nbridge_gpu_utilization_ratio{{{GPU}}}": "0.99x140 0.1x60",
            f"nbridge_gpu_utilization_ratio{{{GPU_1}}}": "0.9x200",
        },
        silent="295s",
        fires="600s",
        over="800s",
        severity="info",
        labels=labels(GPU),
        summary="GPU 0 (H100) on n:9400 was 99% busy over 5m; normal under load",
    ),
    Case(
        "GpuThrottled",
        "gpu.yml",
        {
            # 2.5 s of every 5 s; the power limit is not heat
            f'nbridge_gpu_throttle_seconds_total{{{GPU},reason="hw_thermal_slowdown"}}': "0x5 0+2.5x120 300x80",
            f'nbridge_gpu_throttle_seconds_total{{{GPU},reason="sw_power_cap"}}': "0+5x200",
        },
        silent="60s",
        fires="600s",
        over="940s",
        severity="warning",
        labels={**labels(GPU), "reason": "hw_thermal_slowdown"},
        summary="GPU 0 (H100) on n:9400 was slowed down for heat 50% of the last 5m (hw_thermal_slowdown)",
    ),
    Case(
        "GpuEccUncorrected",
        "gpu.yml",
        {
            f'nbridge_gpu_ecc_errors_total{{{GPU},type="uncorrected"}}': "3x30 5x100",  # 3 from before: no news
            f'nbridge_gpu_ecc_errors_total{{{GPU},type="corrected"}}': "0+1x130",
        },
        step="1m",
        silent="29m",
        fires="60m",
        over="93m",
        labels={**labels(GPU), "type": "uncorrected"},
        summary="GPU 0 (H100) on n:9400 had 2 uncorrectable memory errors in 1h",
    ),
    Case(
        "GpuXidFatal",
        "gpu.yml",
        {
            # The series appears with its first event, so that increase() sees nothing.
            f'nbridge_gpu_xid_errors_total{{{GPU},xid="79"}}': "_x29 1x100",
            f'nbridge_gpu_xid_errors_total{{{GPU},xid="31"}}': "_x29 1x100",
        },
        step="1m",
        silent="28m",
        fires="31m",
        over="92m",
        labels={**labels(GPU), "xid": "79"},
        summary="GPU 0 (H100) on n:9400 reported XID 79 in the last 1h; a GPU that reports it must be reset or "
        "replaced",
    ),
    Case(
        "GpuXid",
        "gpu.yml",
        {
            f'nbridge_gpu_xid_errors_total{{{GPU},xid="31"}}': "4x89 5x100",
            f'nbridge_gpu_xid_errors_total{{{GPU},xid="79"}}': "4x89 5x100",
        },
        step="1m",
        silent="85m",  # the four are from before this hour
        fires="95m",
        over="152m",
        severity="warning",
        labels={**labels(GPU), "xid": "31"},
        summary="GPU 0 (H100) on n:9400 reported XID 31 in the last 1h; most often the program on it",
    ),
    Case(
        "GpuRowRemapFailed",
        "gpu.yml",
        {f"nbridge_gpu_row_remap_failure{{{GPU}}}": "0x3 1x3 0x3"},
        silent="15s",
        fires="20s",
        over="40s",
        labels=labels(GPU),
        summary="GPU 0 (H100) on n:9400 could not replace a broken row of its memory: it must be replaced",
    ),
    Case(
        "GpuMissing",
        "gpu.yml",
        {
            'nbridge_gpu_expected_count{instance="n:9400",job="gpu"}': "2x30",
            f"nbridge_gpu_up{{{GPU}}}": "1x30",
            f"nbridge_gpu_up{{{GPU_1}}}": "1x3 0x10 1x20",
            f'nbridge_gpu_up{{{GPU},mig="0"}}': "1x30",  # a slice of GPU 0 stands for no other GPU
            'nbridge_gpu_expected_count{instance="cpu-only:9400",job="gpu"}': "0x30",
        },
        silent="45s",
        fires="50s",
        over="75s",
        labels={"instance": "n:9400"},
        summary="GPUs that are gone or do not answer on n:9400: 1",
    ),
    Case(
        "GpuExporterDown",
        "gpu.yml",
        {'up{instance="n:9400",job="gpu"}': "1x3 0x10 1x5", 'up{instance="a:8000",job="vllm"}': "0x20"},
        silent="45s",
        fires="50s",
        over="75s",
        severity="warning",
        labels={"instance": "n:9400", "job": "gpu"},
        summary="The GPU exporter n:9400 gives no metrics: GPUs and canaries are not watched",
    ),
    Case(
        "GpuExporterStale",
        "gpu.yml",
        {
            # Collected every second until 60 s. That clock is an hour ahead of Prometheus': no matter.
            'nbridge_gpu_last_collect_timestamp_seconds{instance="n:9400",job="gpu"}': "3600+5x12 3660x20 3700+5x20",
            'nbridge_gpu_expected_count{instance="n:9400",job="gpu"}': "1x60",
            'nbridge_gpu_last_collect_timestamp_seconds{instance="cpu-only:9400",job="gpu"}': "5x60",
            'nbridge_gpu_expected_count{instance="cpu-only:9400",job="gpu"}': "0x60",
            'up{instance="n:9400",job="gpu"}': "1x60",
            'up{instance="cpu-only:9400",job="gpu"}': "1x60",
        },
        silent="85s",
        fires="105s",
        over="175s",
        severity="warning",
        labels={"instance": "n:9400", "job": "gpu"},
        summary="The GPU exporter n:9400 has collected nothing new for 30s: the driver hangs or is broken",
    ),
    Case(
        "GpuExporterStale",
        "gpu.yml",
        # The driver hangs from its first call on, until 100 s: no collection has ever ended.
        {
            'up{instance="n:9400",job="gpu"}': "1x60",
            'nbridge_gpu_last_collect_timestamp_seconds{instance="n:9400",job="gpu"}': "_x20 100+5x40",
        },
        silent="10s",
        fires="60s",
        over="110s",
        severity="warning",
        labels={"instance": "n:9400", "job": "gpu"},
        summary="The GPU exporter n:9400 has collected nothing new for 30s: the driver hangs or is broken",
    ),
    Case(
        "RulesFailing",
        "self.yml",
        {
            'prometheus_rule_evaluation_failures_total{instance="p:9090",rule_group="x;nbridge-gpu"}': "0x10 3x80",
        },
        silent="45s",
        fires="60s",
        over="360s",
        severity="warning",
        labels={"instance": "p:9090", "rule_group": "x;nbridge-gpu"},
        summary="Prometheus could not evaluate rules of x;nbridge-gpu: its alerts may be silent",
    ),
    Case(
        "NotificationsFailing",
        "self.yml",
        {
            'alertmanager_notifications_failed_total{instance="p:9093",job="alertmanager",integration="webhook"}': (
                "0x10 2x80"
            ),
            'alertmanager_notifications_failed_total{instance="p:9093",job="alertmanager",integration="email"}': "0x90",
        },
        silent="45s",
        fires="300s",
        over="360s",
        labels={"instance": "p:9093", "integration": "webhook"},
        summary="Alertmanager could not deliver 2 notifications by webhook in 5m: alerts do not reach anybody there",
    ),
]


@pytest.fixture(scope="module")
def settings() -> Thresholds:
    """The defaults, and what only a measured run can set."""
    return load(derived={"load": {"in_flight_max": 4}, "derived": {"load.in_flight_max": "From run r: the knee."}})


@pytest.fixture(scope="module")
def rule_folder(settings: Thresholds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    rulefiles.write(settings, folder)
    return folder


def promtool_test(case: Case, rule_file: Path) -> dict[str, Any]:
    """The case as promtool reads it; what fires must be exactly the one expected alert, labels and words."""
    fired = {
        "exp_labels": {**case.labels, "severity": case.severity},
        "exp_annotations": {
            "summary": case.summary,
            "runbook_url": f"docs/runbooks.md#{section(case.alert)}",
            **case.annotations,
        },
    }
    moments = [(case.silent, []), (case.fires, [fired]), (case.over, [])]
    return {
        "rule_files": [str(rule_file)],
        "evaluation_interval": case.step,
        "tests": [
            {
                "interval": case.step,
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {"eval_time": moment, "alertname": case.alert, "exp_alerts": alerts} for moment, alerts in moments
                ],
            }
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_and_resolves(case: Case, rule_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.yml"
    path.write_text(rulefiles.to_yaml(promtool_test(case, rule_folder / case.file)), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_case(settings: Thresholds) -> None:
    rules = [rule for _, group in rulefiles.groups(settings).values() for rule in group if "alert" in rule]
    assert {rule["alert"] for rule in rules} == {case.alert for case in CASES} | {WATCHDOG}


def test_the_watchdog_fires_whatever_happens(settings: Thresholds) -> None:
    rules = [rule for _, group in rulefiles.groups(settings).values() for rule in group]
    (watchdog,) = [rule for rule in rules if rule.get("alert") == WATCHDOG]
    # Of no series, and at once: that it arrives is tested with the real programs.
    assert (watchdog["expr"], watchdog.get("for"), watchdog["labels"]) == ("vector(1)", None, {"severity": "none"})


def test_every_alert_has_its_runbook(settings: Thresholds) -> None:
    headings = {
        line.removeprefix("## ").strip()
        for line in (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("## ")
    }
    alerts = {rule["alert"] for _, rules in rulefiles.groups(settings).values() for rule in rules if "alert" in rule}
    # A heading's anchor is its text in lower case with dashes for blanks: "GPU hot" → gpu-hot.
    assert {section(alert) for alert in alerts} <= {heading.lower().replace(" ", "-") for heading in headings}
