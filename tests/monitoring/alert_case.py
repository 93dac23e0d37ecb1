"""What a case of an alert is, and the labels of the invented series that the cases speak of."""

from dataclasses import dataclass, field

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
