"""The rule files: one group per file, recording rules before the alerts that read them, rendered the same every time.

`python -m monitoring.alerting.rulefiles` writes the committed defaults into monitoring/rules/.
"""

from pathlib import Path
from typing import Any

import yaml

from monitoring.alerting import alerts, gateway_alerts, gpu_alerts, recording
from monitoring.alerting.thresholds import Thresholds, load

FOLDER = Path(__file__).parents[1] / "rules"
_HEADER = """\
# {title}
# Rendered from thresholds.toml by `python -m monitoring.alerting.rulefiles`; change that, not this.
"""


def groups(settings: Thresholds) -> dict[str, tuple[str, list[recording.Rule]]]:
    """File name → what it is about, and its rules in the order in which they are evaluated."""
    return {
        "engine.yml": (
            "Servers and engines: traffic, queue, caches; down, stalled, overloaded.",
            recording.engine_rules(settings)
            + alerts.load_alerts(settings)
            + alerts.engine_alerts(settings)
            + alerts.server_alerts(settings),
        ),
        "latency.yml": (
            "Latency: percentiles, which are estimates, and exact shares over the objectives' thresholds.",
            recording.latency_rules(settings) + recording.slo_rules(settings) + alerts.latency_alerts(settings),
        ),
        "burn.yml": (
            "Error budgets: the share of bad requests over several windows, and alerts on how fast a budget is spent.",
            recording.burn_rules(settings) + alerts.burn_alerts(settings),
        ),
        "gpu.yml": (
            "GPUs: heat, throttling, faults, and the exporter itself.",
            gpu_alerts.gpu_alerts(settings)
            + gpu_alerts.gpu_fault_alerts(settings)
            + gpu_alerts.gpu_exporter_alerts(settings),
        ),
        "gateway.yml": (
            "The gateway: its servers, and its clouds' limits.",
            gateway_alerts.gateway_alerts(settings),
        ),
        "self.yml": ("The monitoring itself.", alerts.self_alerts(settings)),
    }


def render(settings: Thresholds) -> dict[str, str]:
    """File name → the text of the rule file."""
    return {name: _file(name, title, rules, settings) for name, (title, rules) in groups(settings).items()}


def write(settings: Thresholds, folder: Path) -> list[Path]:
    """Write all rule files into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in render(settings).items():
        (folder / name).write_text(text, encoding="utf-8")
        paths.append(folder / name)
    return paths


def to_yaml(document: Any) -> str:
    """A document as YAML with keys in the given order and long expressions as blocks."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def _file(name: str, title: str, rules: list[recording.Rule], settings: Thresholds) -> str:
    group = {
        "name": f"nbridge-{Path(name).stem}",
        "interval": recording.duration(settings.timing.evaluation_interval_s),
        "rules": rules,
    }
    return _HEADER.format(title=title) + to_yaml({"groups": [group]})


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a literal block, everything in full (no anchors)."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    write(load(), FOLDER)
