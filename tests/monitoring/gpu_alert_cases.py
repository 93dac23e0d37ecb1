"""Alerts on GPUs and on their exporter."""

from alert_case import GPU, GPU_1, Case, labels

GPU_CASES = [
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
]
