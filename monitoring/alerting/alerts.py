"""Alert rules. Pure: settings → rules as Prometheus' rule files hold them.

Each alert has a severity (critical: somebody must act now; warning: today; info: worth knowing; none: no alarm), a
summary with the value, and a section in docs/runbooks.md. Causes stand after what they explain: when both end in one
evaluation, the explained one must be over first, or Alertmanager would tell it in the moment in which nothing explains
it any more.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from monitoring.alerting.receivers import Severity
from monitoring.alerting.recording import BURNING, Rule, duration, either
from monitoring.alerting.thresholds import BurnSpeed, Thresholds

WATCHDOG = "Watchdog"
P95_SHARE = 0.05  # the 95th percentile is over a threshold when more than this share is
_ENGINE = "instance, model_name, engine"
_AWAKE = 'vllm:engine_sleep_state{sleep_state="awake"}'


def section(alert: str) -> str:
    """The anchor of an alert's section in the runbooks: GpuHot → gpu-hot, LatencyP95High → latency-p95-high."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", alert).lower()


class Alerts:
    """Collects the alerts of one group with what is the same for all of them."""

    def __init__(self, settings: Thresholds) -> None:
        self.settings = settings
        self.rules: list[Rule] = []

    def alert(
        self,
        name: str,
        severity: Severity | Literal["none"],
        expr: str,
        summary: str,
        *,
        for_s: float = 0,
        labels: Mapping[str, str] | None = None,
        derived_from: tuple[str, ...] = (),
    ) -> None:
        derivation = [words for key in derived_from if (words := self.settings.derived.get(key))]
        rule: dict[str, Any] = {
            "alert": name,
            "expr": expr,
            **({"for": duration(for_s)} if for_s else {}),
            "labels": {"severity": severity, **(labels or {})},
            "annotations": {
                "summary": summary,
                "runbook_url": f"{self.settings.runbooks.url}#{section(name)}",
                **({"derivation": " ".join(derivation)} if derivation else {}),
            },
        }
        self.rules.append(rule)


def server_alerts(settings: Thresholds) -> list[Rule]:
    """Is the server there, does it say what it does, does it keep its memory?"""
    rules, server = Alerts(settings), settings.server
    up = f'up{{job="{settings.jobs.servers}"}}'
    rules.alert(
        "ServerWithoutMetrics",
        "warning",
        f"{up} == 1 unless on (instance) vllm:num_requests_running",
        "{{ $labels.instance }} answers, but exports no vLLM metrics: no other alert can see it",
        for_s=server.without_metrics_for_s,
    )
    growth = server.memory_growth_bytes_per_hour
    window = duration(server.memory_window_s)
    process = f'{{job="{settings.jobs.servers}"}}'
    rules.alert(
        "ServerMemoryGrowing",
        "warning",
        f"deriv(process_resident_memory_bytes{process}[{window}]) * 3600 > {growth}\n"
        "  and on (instance)\n"
        f"(process_start_time_seconds{process} == process_start_time_seconds{process} offset {window})",
        "The API process of {{ $labels.instance }} has grown by {{ $value | humanize1024 }}B an hour for "
        f"{window}, over {_bytes(growth)} an hour",
    )
    rules.alert(
        "ServerDown",
        "critical",
        f"{up} == 0",
        "{{ $labels.instance }} gives no metrics: it is down, or answers too late, or not as a vLLM server",
        for_s=server.down_for_s,
    )
    return rules.rules


def engine_alerts(settings: Thresholds) -> list[Rule]:
    """Does the engine move, and does it answer?"""
    rules, engine = Alerts(settings), settings.engine
    looked_back = max(engine.stalled_s / 4, 4 * settings.timing.scrape_interval_s)
    rules.alert(
        "EngineStalled",
        "critical",
        "(vllm:num_requests_running + vllm:num_requests_waiting) > 0\n"
        f"  and on ({_ENGINE})\n"
        f"increase(vllm:iteration_tokens_total_count[{duration(looked_back)}]) == 0\n"
        f"  unless on ({_ENGINE}) {_AWAKE} == 0",
        "Engine {{ $labels.engine }} of {{ $labels.instance }} has {{ $value }} requests and has finished no step for "
        f"{duration(engine.stalled_s)}; /health may still say 200",
        for_s=max(0.0, engine.stalled_s - looked_back),
    )
    canary = settings.canary
    # Of a server that is there: while it is down ServerDown says so, and after that the next canary must have its turn.
    there = duration(2 * (canary.interval_s + canary.timeout_s))
    rules.alert(
        "CanaryFailing",
        "critical",
        # One that has never had an answer says nothing of the engine: CanaryNeverAnswered.
        "label_replace(nbridge_canary_up == 0 and max_over_time(nbridge_canary_up[1d]) > 0, "
        '"instance", "$1", "server", "https?://([^/]+).*")\n'
        f'  and on (instance) avg_over_time(up{{job="{settings.jobs.servers}"}}[{there}]) > 0.5\n'
        f"  unless on (instance) {_AWAKE} == 0",
        f"{{{{ $labels.server }}}} has failed to produce one token at least {canary.failures} times in a row",
        for_s=(canary.failures - 1) * canary.interval_s + canary.timeout_s,
    )
    rules.alert(
        "CanaryNeverAnswered",
        "warning",
        'label_replace(max_over_time(nbridge_canary_up[1d]) == 0, "instance", "$1", "server", "https?://([^/]+).*")\n'
        f'  and on (instance) avg_over_time(up{{job="{settings.jobs.servers}"}}[{there}]) > 0.5\n'
        f"  unless on (instance) {_AWAKE} == 0",
        "{{ $labels.server }} has not once given a canary what it asked for, in a day or since it is watched",
        for_s=900,
    )
    return rules.rules


def load_alerts(settings: Thresholds) -> list[Rule]:
    """Is there more load than the server carries?"""
    rules, engine, timing = Alerts(settings), settings.engine, settings.timing
    window = duration(timing.window_s)
    rules.alert(
        "RequestsWaiting",
        "warning",
        f"instance:nbridge_requests_waiting:sum > {engine.waiting_max}\n  unless on (instance) {_AWAKE} == 0",
        f"{{{{ $value }}}} requests wait on {{{{ $labels.instance }}}}, more than {engine.waiting_max} for "
        f"{duration(engine.waiting_for_s or 1)}",
        for_s=engine.waiting_for_s,
        derived_from=("engine.waiting_max",),
    )
    rules.alert(
        "KvCachePressure",
        "warning",
        f"max by ({_ENGINE}) ({either('vllm:kv_cache_usage_perc')}) > {engine.kv_usage_max:g}\n"
        f"  and on ({_ENGINE})\n"
        f"increase(vllm:num_preemptions_total[{window}]) > 0",
        "The KV cache of engine {{ $labels.engine }} on {{ $labels.instance }} is {{ $value | humanizePercentage }} "
        "full, and requests are preempted and computed again",
        for_s=engine.kv_for_s,
    )
    rules.alert(
        "AdmissionRejections",
        "warning",
        f"sum by (instance, model_name, reason) (increase(vllm:admission_rejections_total[{window}])) > 0",
        '{{ $labels.instance }} has turned away {{ $value | printf "%.0f" }} requests in '
        f"{window} ({{{{ $labels.reason }}}})",
        for_s=engine.rejections_for_s,
    )
    if settings.load is not None:
        rules.alert(
            "LoadPastKnee",
            "warning",
            "instance:nbridge_requests_running:sum + instance:nbridge_requests_waiting:sum "
            f"> {settings.load.in_flight_max:g}",
            "{{ $value }} requests are in flight on {{ $labels.instance }}: past the measured knee of "
            f"{settings.load.in_flight_max:g}, more load only makes every request slower",
            for_s=settings.load.for_s,
            derived_from=("load.in_flight_max",),
        )
    return rules.rules


def latency_alerts(settings: Thresholds) -> list[Rule]:
    """Do requests take longer than promised? Judged by the exact share over the threshold, not by a percentile."""
    rules, window = Alerts(settings), duration(settings.timing.window_s)
    enough = (
        "\n  and on (instance, model_name)\n"
        f"sum by (instance, model_name) (increase(vllm:e2e_request_latency_seconds_count[{window}]))"
        f" >= {settings.latency.requests_min}"
    )
    for name, slo, words in (
        ("LatencyP95High", "e2e", "of requests to {{ $labels.instance }} took longer than"),
        ("QueueTimeHigh", "queue", "of requests to {{ $labels.instance }} waited in the queue for more than"),
    ):
        threshold_s = getattr(settings.slo, slo).threshold_s
        rules.alert(
            name,
            "warning",
            f'instance:nbridge_slo_bad:share{{slo="{slo}"}} > {P95_SHARE}{enough}',
            f"{{{{ $value | humanizePercentage }}}} {words} {threshold_s:g} s in the last {window}, so the 95th "
            "percentile is over it",
            for_s=settings.latency.for_s,
            derived_from=(f"slo.{slo}.threshold_s",),
        )
    return rules.rules


def burn_alerts(settings: Thresholds) -> list[Rule]:
    """Is an error budget spent too fast, over all servers of a model?"""
    rules = Alerts(settings)
    for name, severity, speed in (
        ("ErrorBudgetBurnFast", "critical", settings.burn.fast),
        ("ErrorBudgetBurnSlow", "warning", settings.burn.slow),
    ):
        for slo in BURNING:
            _burn(rules, name, "critical" if severity == "critical" else "warning", slo, speed)
    return rules.rules


def _burn(rules: Alerts, name: str, severity: Severity, slo: str, speed: BurnSpeed) -> None:
    budget = getattr(rules.settings.slo, slo).budget_share
    factor = speed.factor(budget, rules.settings.burn.period_days)
    long, short = duration(speed.long_s), duration(speed.short_s)
    share = 'model:nbridge_slo_bad:window_share{{slo="{}", window="{}"}} > {:g}'
    counted = "http_requests_total" if slo == "availability" else "vllm:e2e_request_latency_seconds_count"
    if slo == "availability":  # failed requests never reach the engine's own counters
        enough = (
            f'sum by (model_name) (sum by (instance) (increase({counted}{{handler=~"/v1/.*"}}[{long}]))'
            " * on (instance) group_left (model_name) group by (instance, model_name) (vllm:num_requests_running))"
        )
    else:
        enough = f"sum by (model_name) (increase({counted}[{long}]))"
    what = {
        "availability": "of requests for {{ $labels.model_name }} failed",
        "itl": "of tokens of {{ $labels.model_name }} came later than promised (itl)",
    }.get(slo, f"of requests for {{{{ $labels.model_name }}}} were slower than promised ({slo})")
    rules.alert(
        name,
        severity,
        f"{share.format(slo, long, factor * budget)}\n"
        "  and on (model_name)\n"
        f"{share.format(slo, short, factor * budget)}\n"
        "  and on (model_name)\n"
        f"{enough} >= {speed.requests_min}",
        f"{{{{ $value | humanizePercentage }}}} {what} in {long}, of which {budget * 100:g} % may: the budget of "
        f"{rules.settings.burn.period_days:g} days is spent {factor:g} times too fast or worse",
        labels={"slo": slo},
        derived_from=(f"slo.{slo}.threshold_s",),
    )


def self_alerts(settings: Thresholds) -> list[Rule]:
    """Does the monitoring itself work?"""
    rules, window = Alerts(settings), duration(settings.timing.window_s)
    rules.alert(
        WATCHDOG,
        "none",
        "vector(1)",
        "Rules are evaluated and alerts delivered: no alarm, but when this stays away there will be no alarms either",
    )
    rules.alert(
        "RulesFailing",
        "warning",
        f"sum by (instance, rule_group) (increase(prometheus_rule_evaluation_failures_total[{window}])) > 0",
        "Prometheus could not evaluate rules of {{ $labels.rule_group }}: its alerts may be silent",
    )
    rules.alert(
        "NotificationsFailing",
        "critical",
        f"sum by (instance, integration) (increase(alertmanager_notifications_failed_total[{window}])) > 0",
        'Alertmanager could not deliver {{ $value | printf "%.0f" }} notifications by {{ $labels.integration }} in '
        f"{window}: alerts do not reach anybody there",
    )
    return rules.rules


def _bytes(count: int) -> str:
    return f"{count / 2**20:g} MiB"
