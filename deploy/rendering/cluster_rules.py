"""The rules as the prometheus-operator takes them: the same groups as everywhere, in a PrometheusRule.

`python -m deploy.rendering.cluster_rules` writes the committed one.
"""

from pathlib import Path
from typing import Any

from monitoring.alerting.recording import duration
from monitoring.alerting.rulefiles import groups, to_yaml
from monitoring.alerting.thresholds import Thresholds, load

FILE = Path(__file__).parents[1] / "kubernetes" / "options" / "monitoring" / "rules.yaml"
_HEADER = """\
# The alerts of docs/runbooks.md, rendered from monitoring/rules/thresholds.toml by
# `python -m deploy.rendering.cluster_rules`; change that, not this. `nbridge render kubernetes` writes one for a run.
"""


def document(settings: Thresholds, name: str = "nbridge") -> dict[str, Any]:
    """The PrometheusRule with every group."""
    interval = duration(settings.timing.evaluation_interval_s)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "neural-bridge"}},
        "spec": {
            "groups": [
                {"name": f"nbridge-{Path(file).stem}", "interval": interval, "rules": rules}
                for file, (_, rules) in groups(settings).items()
            ]
        },
    }


def text(settings: Thresholds) -> str:
    """The file's text, rendered the same every time."""
    return _HEADER + to_yaml(document(settings))


if __name__ == "__main__":
    FILE.write_text(text(load()), encoding="utf-8")
