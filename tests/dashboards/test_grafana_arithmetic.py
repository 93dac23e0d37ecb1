"""What the boards compute, by Prometheus itself on series whose answers were worked out by hand.

Two servers of one model, `a` with two engines and `b` with one, scraped every 15 s for ten minutes. Each engine writes
10, 20 and 30 tokens a second: 60 together, not 20.
"""

import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_pages import VALUES

from dashboards.grafana.boards import BOARDS
from dashboards.grafana.promql import substitute

ENGINES = {"a:1": {"0": 10, "1": 20}, "b:1": {"0": 30}}
PRICES = {"usd_per_hour": "0.50", "usd_per_mtok_in": "2", "usd_per_mtok_out": "10", "usd_per_kwh": "0.25"}
STEPS = 40  # of 15 s


def counter(name: str, labels: str, per_second: float) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": f"0+{per_second * 15:g}x{STEPS}"}


def gauge(name: str, labels: str, value: float) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": f"{value:g}x{STEPS}"}


def world() -> list[dict[str, str]]:
    """The series of the two servers, a third that is down, and two GPUs."""
    series = [gauge("up", f'job="vllm",instance="{server}"', value) for server, value in (("a:1", 1), ("b:1", 1))]
    series += [gauge("up", 'job="vllm",instance="c:1"', 0)]
    for server, engines in ENGINES.items():
        for engine, tokens in engines.items():
            labels = f'instance="{server}",model_name="m",engine="{engine}"'
            series += [
                counter("vllm:generation_tokens_total", labels, tokens),
                counter("vllm:prompt_tokens_total", labels, 2 * tokens),
                counter("vllm:prefix_cache_queries_total", labels, 2 * tokens),
                counter("vllm:prefix_cache_hits_total", labels, tokens / 2),
                counter("vllm:request_success_total", f'{labels},finished_reason="stop"', 1),
                counter("vllm:request_success_total", f'{labels},finished_reason="abort"', 0),
                gauge("vllm:kv_cache_usage_perc", labels, tokens / 100),
                gauge("vllm:num_requests_running", labels, tokens / 10),
            ]
            # On b every request takes 2.5 to 5 s to its first token, on a 0.5 to 0.75 s.
            for bound, share in (("0.5", 0), ("0.75", 1), ("2.5", 1), ("5.0", 1), ("+Inf", 1)):
                within = share if server == "a:1" or bound in {"5.0", "+Inf"} else 0
                series.append(
                    counter("vllm:time_to_first_token_seconds_bucket", f'{labels},le="{bound}"', within * tokens)
                )
    for gpu, watts in (("0", 300), ("1", 500)):
        labels = f'instance="h:1",gpu="{gpu}",mig=""'
        series += [
            gauge("nbridge_gpu_power_watts", labels, watts),
            gauge("nbridge_gpu_up", labels, 1),
            gauge("nbridge_gpu_temperature_celsius", labels, 40 + watts / 10),
            counter("nbridge_gpu_energy_joules_total", labels, watts),
        ]
    # A slice repeats its parent's index: counted again, power and memory would be twice what they are.
    series.append(gauge("nbridge_gpu_power_watts", 'instance="h:1",gpu="0",mig="0"', 300))
    series.append(gauge("nbridge_gpu_expected_count", 'instance="h:1"', 2))
    series.append(gauge("nbridge_gpu_expected_count", 'instance="without-gpu:1"', 0))
    return series


def expressions(board: str, title: str) -> list[str]:
    found = [panel for one in BOARDS if one.slug == board for panel in one.panels if panel.title == title]
    assert len(found) == 1, f"{board}: {title}"
    values = VALUES | PRICES | {"__range": "10m"}
    return [substitute(query.expr, values) for query in found[0].queries]


def answers(tmp_path: Path, series: list[dict[str, str]], expected: dict[str, list[dict[str, object]]]) -> str:
    """What promtool says about the expressions after ten minutes: empty when all are as expected."""
    test = {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [
            {"expr": expr, "eval_time": "10m", "exp_samples": samples} for expr, samples in expected.items()
        ],
    }
    file = tmp_path / "arithmetic.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}), encoding="utf-8")
    answer = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


def one(value: float, labels: str = "{}") -> list[dict[str, object]]:
    return [{"labels": labels, "value": value}]


def test_what_the_boards_compute(tmp_path: Path) -> None:
    prompt, output = expressions("overview", "Tokens per second")
    (p50, p95, _) = expressions("overview", "TTFT")
    expected = {
        output: one(60),  # 10 + 20 + 30
        prompt: one(120),
        expressions("overview", "Requests")[0]: one(3),
        # No request ever ended with an error: that series does not exist, and the share is 0 of 3 a second.
        expressions("overview", "Engine errors")[0]: one(0),
        expressions("overview", "Servers answering")[0]: one(2 / 3),
        expressions("overview", "Fullest KV cache")[0]: one(0.3),  # the fullest, neither sum nor mean
        expressions("overview", "Requests running and waiting")[0]: one(6),
        expressions("overview", "Hottest GPU")[0]: one(90),
        # Of 60 requests a second 30 are within 0.75 s: the median is that bound. The 57th of 60 is in the last tenth
        # of the bucket from 2.5 to 5 s, 27 of its 30: 2.5 + 2.5 × 0.9 = 4.75. A mean of two servers' p95 says 2.8.
        p50: one(0.75),
        p95: one(4.75),
        expressions("engine", "Prefix cache hits")[0]: one(0.25),  # 30 of 120 a second
        expressions("gpu", "GPUs answering")[0]: one(1),
        expressions("gpu", "Power together")[0]: one(800),
        # 800 W for ten minutes is 480,000 J.
        expressions("gpu", "Energy")[0]: one(480_000 / 3.6e6),
        # Three servers are paid for, one of them down: 20 half minutes each.
        expressions("cost", "Own machines")[0].replace("[10m:", "[595s:"): one(0.5 * 3 * 20 / 120),
        # In ten minutes 72,000 prompt tokens at $2 and 36,000 output tokens at $10 a million.
        expressions("cost", "Same tokens, API")[0]: one(0.144 + 0.36),
        expressions("cost", "Dollars per hour")[0]: one(1.5),
        expressions("cost", "Dollars per hour")[1]: one((120 * 2 + 60 * 10) * 3600 / 1e6),
        # $1.50 an hour for 180 tokens a second, 648,000 an hour.
        expressions("cost", "Dollars per million tokens")[0]: one(1.5 / 0.648),
        expressions("cost", "Energy per output token")[0]: one(800 / 60),
        expressions("cost", "Electricity of all GPUs")[0]: one(0.2),
    }
    assert answers(tmp_path, world(), expected) == ""


def test_what_is_not_there_has_no_value(tmp_path: Path) -> None:
    """Without a server, a GPU or a rule every panel is empty; no zero stands for what is not known."""
    expected: dict[str, list[dict[str, object]]] = {
        substitute(query.expr, VALUES | PRICES | {"__range": "10m"}): []
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    }
    assert len(expected) > 100
    assert answers(tmp_path, [gauge("something_else", "", 1)], expected) == ""


@pytest.mark.parametrize("rules", [True, False])
def test_no_alert_is_only_good_news_while_the_rules_are_evaluated(rules: bool, tmp_path: Path) -> None:
    series = [gauge("nbridge_slo:budget_share", 'slo="ttft"', 0.05)] if rules else [gauge("up", 'job="vllm"', 1)]
    asked = expressions("overview", "Alerts firing")[0]
    assert answers(tmp_path, series, {asked: one(0) if rules else []}) == ""
    watchdog = gauge("ALERTS", 'alertname="Watchdog",alertstate="firing",severity="none"', 1)
    assert answers(tmp_path, [*series, watchdog], {asked: one(0) if rules else []}) == ""
    hot = gauge("ALERTS", 'alertname="GpuHot",alertstate="firing",severity="warning"', 1)
    firing = [*series, watchdog, hot]
    assert answers(tmp_path, firing, {asked: one(1)}) == ""


def test_a_restart_does_not_make_a_rate_negative_or_huge(tmp_path: Path) -> None:
    """The counter runs at 10 a second to 3,000, begins again at 0 after five minutes, and runs on."""
    series = [
        {
            "series": 'vllm:generation_tokens_total{instance="a:1",model_name="m",engine="0"}',
            "values": "0+150x19 0+150x20",
        }
    ]
    asked = expressions("overview", "Tokens per second")[1].replace("[1m]", "[10m]")
    assert answers(tmp_path, series, {f"floor({asked})": one(9)}) == ""
