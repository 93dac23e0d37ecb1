"""The rule files: rendered from the settings and nothing else, and their sums, shares and percentiles right."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerting import rulefiles
from monitoring.alerting.recording import SERIES, bound, duration
from monitoring.alerting.thresholds import load
from monitoring.gpu.exporter import DEVICE_METRICS, XIDS

A0, A1, B0 = (f'instance="{i}:8000",job="vllm",model_name="m",engine="{e}"' for i, e in (("a", 0), ("a", 1), ("b", 0)))
E2E, TTFT = SERIES["e2e"], SERIES["ttft"]


def test_committed_files_are_what_the_defaults_render() -> None:
    rendered = rulefiles.render(load())
    committed = {path.name: path.read_text(encoding="utf-8") for path in rulefiles.FOLDER.glob("*.yml")}
    assert committed == rendered, "python -m monitoring.alerting.rulefiles writes them anew"
    assert rulefiles.render(load()) == rendered


def test_all_files_together_satisfy_promtool() -> None:
    argv = ["promtool", "check", "rules", *sorted(rulefiles.FOLDER.glob("*.yml"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_durations_and_bounds_are_as_prometheus_writes_them() -> None:
    assert [duration(s) for s in (0.5, 1, 90, 300, 3600, 5400)] == ["500ms", "1s", "90s", "5m", "1h", "90m"]
    assert [bound(s) for s in (5.0, 0.075, 2.5)] == ["5([.]0)?", "0[.]075", "2[.]5"]


def evaluated(
    tmp_path: Path, file: str, series: dict[str, str], tests: list[tuple[str, str, dict[str, float]]]
) -> None:
    """Have promtool evaluate expressions after an hour of one-minute samples."""
    checks = [
        {
            "eval_time": moment,
            "expr": expr,
            "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
        }
        for moment, expr, expected in tests
    ]
    document: dict[str, Any] = {
        "rule_files": [str(rulefiles.FOLDER / file)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": checks,
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_several_servers_add_up_before_they_are_divided(tmp_path: Path) -> None:
    # a: 60 requests a minute on each of two engines, none over 5 s; b: 6 a minute, all over 5 s. The mean of the two
    # servers' shares would be one half; of 126 requests 6 are over, a share of 1/21.
    series = {}
    for labels, rate, within in ((A0, 60, 60), (A1, 60, 60), (B0, 6, 0)):
        series[f'{E2E}_bucket{{{labels},le="5.0"}}'] = f"0+{within}x60"
        series[f'{E2E}_bucket{{{labels},le="10.0"}}'] = f"0+{rate}x60"
        series[f'{E2E}_bucket{{{labels},le="+Inf"}}'] = f"0+{rate}x60"
        series[f"{E2E}_count{{{labels}}}"] = f"0+{rate}x60"
    name, slo = "nbridge_slo_bad:share", 'slo="e2e"'
    evaluated(
        tmp_path,
        "latency.yml",
        series,
        [
            (
                "30m",
                f"instance:{name}{{{slo}}}",
                {
                    f'instance:{name}{{{slo},instance="a:8000",model_name="m"}}': 0,
                    f'instance:{name}{{{slo},instance="b:8000",model_name="m"}}': 1,
                },
            ),
            ("30m", f"round(model:{name}{{{slo}}}, 0.0001)", {f'{{{slo},model_name="m"}}': 0.0476}),
            # 99 % of 126 is 124.74: 4.74 of b's 6 into the bucket from 5 to 10 s.
            (
                "30m",
                "round(model:nbridge_e2e_seconds:p99, 0.001)",
                {'{model_name="m"}': 8.95},
            ),
        ],
    )


def test_a_counter_that_starts_again_counts_no_more_and_no_less(tmp_path: Path) -> None:
    # 10 a minute; at minute 20 the server is started again and counts from 0.
    again = "0+10x19 0+10x40"
    evaluated(
        tmp_path,
        "engine.yml",
        {f"{E2E}_count{{{A0}}}": again, f"vllm:generation_tokens_total{{{A0}}}": again},
        [
            # From 18 to 23 minutes: +10, then the restart, which shows no growth, then +10, +10, +10.
            ("23m", "round(model:nbridge_requests:rate * 60, 0.01)", {'{model_name="m"}': 8}),
            ("40m", "round(model:nbridge_requests:rate * 60, 0.01)", {'{model_name="m"}': 10}),
        ],
    )


def test_without_traffic_there_is_no_sample(tmp_path: Path) -> None:
    series = {
        f'{TTFT}_bucket{{{A0},le="1.0"}}': "7x60",
        f'{TTFT}_bucket{{{A0},le="+Inf"}}': "9x60",
        f"{TTFT}_count{{{A0}}}": "9x60",
    }
    asked = ["instance:nbridge_ttft_seconds:p95", "model:nbridge_slo_bad:share", "instance:nbridge_slo_bad:share"]
    evaluated(tmp_path, "latency.yml", series, [("30m", expr, {}) for expr in asked])


def test_failures_are_5xx_of_the_api_and_requests_that_the_engine_ended(tmp_path: Path) -> None:
    v1 = 'instance="a:8000",job="vllm",method="POST",handler="/v1/completions"'
    series = {
        f"vllm:num_requests_running{{{A0}}}": "0x60",
        f"vllm:num_requests_running{{{A1}}}": "0x60",  # two engines of one server: its answers are counted once
        f'http_requests_total{{{v1},status="2xx"}}': "0+90x60",
        f'http_requests_total{{{v1},status="5xx"}}': "0+6x60",
        f'http_requests_total{{{v1},status="4xx"}}': "0+24x60",  # the client's own fault
        'http_requests_total{instance="a:8000",job="vllm",handler="/tokenize",status="5xx"}': "0+99x60",
        f'vllm:request_success_total{{{A0},finished_reason="error"}}': "0+3x60",
        f'vllm:request_success_total{{{A1},finished_reason="error"}}': "0+3x60",
        f'vllm:request_success_total{{{A1},finished_reason="abort"}}': "0+9x60",
    }
    share = 'model:nbridge_slo_bad:share{slo="availability"}'
    evaluated(
        tmp_path,
        "latency.yml",
        series,
        [("30m", share, {'model:nbridge_slo_bad:share{slo="availability",model_name="m"}': 0.1})],
    )


@pytest.mark.parametrize("level", ["instance", "model"])
def test_every_level_has_every_latency(level: str) -> None:
    rules = yaml.safe_load((rulefiles.FOLDER / "latency.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    recorded = {rule.get("record") for rule in rules}
    assert {f"{level}:nbridge_{name}_seconds:{q}" for name in SERIES for q in ("p50", "p95", "p99")} <= recorded


def test_every_gpu_metric_in_the_rules_is_one_that_the_exporter_exports() -> None:
    text = (rulefiles.FOLDER / "gpu.yml").read_text(encoding="utf-8")
    own = {"nbridge_gpu_expected_count", "nbridge_gpu_last_collect_timestamp_seconds", XIDS[0]}
    assert set(re.findall(r"nbridge_gpu_\w+", text)) <= own | {f"nbridge_gpu_{name}" for name in DEVICE_METRICS}
