"""Where values turn yellow and red: red where the default alert settings say so, yellow a little before."""

from dashboards.grafana.panels import high_is_bad
from monitoring.alerting import thresholds

SETTINGS = thresholds.load()

KV_USAGE = high_is_bad(round(SETTINGS.engine.kv_usage_max - 0.1, 6), SETTINGS.engine.kv_usage_max)
GPU_TEMPERATURE = high_is_bad(SETTINGS.gpu.temperature_max_c - 10, SETTINGS.gpu.temperature_max_c)
GPU_THROTTLED = high_is_bad(round(SETTINGS.gpu.throttle_share_max / 2, 6), SETTINGS.gpu.throttle_share_max)
GPU_STALE_S = high_is_bad(SETTINGS.gpu.stale_s / 2, SETTINGS.gpu.stale_s)
WAITING = high_is_bad(1, SETTINGS.engine.waiting_max)
BUDGET = high_is_bad(SETTINGS.gateway.budget_warn_share, 1)
