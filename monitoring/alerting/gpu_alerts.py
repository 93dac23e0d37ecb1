"""Alert rules on GPUs and their exporter. Pure, as monitoring.alerting.alerts is.

No rule compares clocks of two machines, and a series that only appears with its first event counts as an event.
"""

from monitoring.alerting.alerts import Alerts
from monitoring.alerting.recording import Rule, duration
from monitoring.alerting.thresholds import Thresholds

_GPU = "GPU {{ $labels.gpu }} ({{ $labels.name }}) on {{ $labels.instance }}"


def gpu_alerts(settings: Thresholds) -> list[Rule]:
    """Heat, use and throttling of GPUs."""
    rules, gpu = Alerts(settings), settings.gpu
    window = duration(settings.timing.window_s)
    rules.alert(
        "GpuHot",
        "warning",
        f"nbridge_gpu_temperature_celsius > {gpu.temperature_max_c:g}",
        f"{_GPU} is at {{{{ $value }}}} °C, over {gpu.temperature_max_c:g} °C",
        for_s=gpu.temperature_for_s,
    )
    rules.alert(
        "GpuUtilizationHigh",
        "info",
        f"avg_over_time(nbridge_gpu_utilization_ratio[{window}]) > {gpu.utilization_max:g}",
        f"{_GPU} was {{{{ $value | humanizePercentage }}}} busy over {window}; normal under load",
        for_s=gpu.utilization_for_s,
    )
    rules.alert(
        "GpuThrottled",
        "warning",
        f'rate(nbridge_gpu_throttle_seconds_total{{reason=~".*thermal.*"}}[{window}]) > {gpu.throttle_share_max:g}',
        f"{_GPU} was slowed down for heat {{{{ $value | humanizePercentage }}}} of the last {window} "
        "({{ $labels.reason }})",
        for_s=gpu.throttle_for_s,
    )
    return rules.rules


def gpu_fault_alerts(settings: Thresholds) -> list[Rule]:
    """Broken GPUs."""
    rules, gpu = Alerts(settings), settings.gpu
    faults = duration(gpu.fault_window_s)
    rules.alert(
        "GpuEccUncorrected",
        "critical",
        f'increase(nbridge_gpu_ecc_errors_total{{type=~".*uncorrect.*"}}[{faults}]) > 0',
        f'{_GPU} had {{{{ $value | printf "%.0f" }}}} uncorrectable memory errors in {faults}',
    )
    fatal = "|".join(map(str, gpu.xid_fatal))
    for name, severity, operator, words in (
        ("GpuXidFatal", "critical", "=~", "a GPU that reports it must be reset or replaced"),
        ("GpuXid", "warning", "!~", "most often the program on it"),
    ):
        events = f'nbridge_gpu_xid_errors_total{{xid{operator}"{fatal}"}}'
        rules.alert(
            name,
            "critical" if severity == "critical" else "warning",
            f"increase({events}[{faults}]) > 0\n  or\n({events} > 0 unless {events} offset {faults})",
            f"{_GPU} reported XID {{{{ $labels.xid }}}} in the last {faults}; {words}",
        )
    rules.alert(
        "GpuRowRemapFailed",
        "critical",
        "nbridge_gpu_row_remap_failure > 0",
        f"{_GPU} could not replace a broken row of its memory: it must be replaced",
    )
    return rules.rules


def gpu_exporter_alerts(settings: Thresholds) -> list[Rule]:
    """Lost GPUs, and an exporter that cannot tell."""
    rules, gpu = Alerts(settings), settings.gpu
    stale = duration(gpu.stale_s)
    rules.alert(
        "GpuExporterDown",
        "warning",
        f'up{{job="{settings.jobs.gpus}"}} == 0',
        "The GPU exporter {{ $labels.instance }} gives no metrics: GPUs and canaries are not watched",
        for_s=gpu.exporter_down_for_s,
    )
    rules.alert(
        "GpuExporterStale",
        "warning",
        f"(changes(nbridge_gpu_last_collect_timestamp_seconds[{stale}]) == 0\n"
        "  and on (instance) nbridge_gpu_expected_count > 0)\n"
        # A driver that hangs from its first call on, or never worked, leaves no time of a collection at all.
        f'or (up{{job="{settings.jobs.gpus}"}} == 1\n'
        "  unless on (instance) nbridge_gpu_last_collect_timestamp_seconds)",
        f"The GPU exporter {{{{ $labels.instance }}}} has collected nothing new for {stale}: "
        "the driver hangs or is broken",
        for_s=gpu.stale_s / 2,
    )
    rules.alert(
        "GpuMissing",
        "critical",
        "nbridge_gpu_expected_count\n"
        "  - on (instance)\n"
        '(sum by (instance) (nbridge_gpu_up{mig=""}) or on (instance) 0 * nbridge_gpu_expected_count)\n'
        "  > 0",
        "GPUs that are gone or do not answer on {{ $labels.instance }}: {{ $value }}",
        for_s=gpu.missing_for_s,
    )
    return rules.rules
