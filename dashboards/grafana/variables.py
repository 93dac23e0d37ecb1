"""Variables that several boards share. A choice begins with all of its values, unless it names a default."""

from dashboards.grafana.limits import SETTINGS
from dashboards.grafana.panels import Variable

JOB = Variable(
    "choice",
    "job",
    "Job",
    f"The scrape job of the servers; `nbridge stack` calls it {SETTINGS.jobs.servers}.",
    "label_values(up, job)",
    default=SETTINGS.jobs.servers,
)
MODEL = Variable(
    "choice",
    "model",
    "Model",
    "The name under which a model is served.",
    "label_values(vllm:num_requests_running, model_name)",
)
INSTANCE = Variable(
    "choice",
    "instance",
    "Server",
    "Servers of the chosen models, as Prometheus scrapes them (host:port).",
    'label_values(vllm:num_requests_running{model_name=~"$model"}, instance)',
)
HOST = Variable(
    "choice",
    "host",
    "GPU exporter",
    "GPU exporters, as Prometheus scrapes them; one per machine.",
    "label_values(nbridge_gpu_expected_count, instance)",
)
GPU = Variable(
    "choice",
    "gpu",
    "GPU",
    "GPUs of the chosen machines, by NVML's number.",
    'label_values(nbridge_gpu_up{instance=~"$host"}, gpu)',
)
