"""What the programs really export, as captured, and what a PromQL expression asks for."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml

from monitoring.scrape.metrics import Sample, parse

DATA = Path(__file__).parent / "data"
RULES = Path(__file__).parent.parent.parent / "monitoring" / "rules"
# What Prometheus itself makes, with the labels it gives.
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity", "instance", "gpu"}}
TARGET_LABELS = {"job", "instance"}
# Values of Grafana's own variables, and of ours where a board is not told them.
VALUES = {
    "__rate_interval": "1m",
    "__range": "1h",
    "job": "vllm",
    "model": ".+",
    "instance": ".+",
    "host": ".+",
    "gpu": ".+",
}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_WINDOW = re.compile(r"\[[^\]]*\]")
_METRIC = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?!\s*\()(?![\w:])")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_WORDS = {"or", "and", "unless", "bool", "by", "on"}


@cache
def captured() -> tuple[Sample, ...]:
    """Every sample of the captured pages: a hooked server's and the GPU exporter's."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(DATA.glob("*.prom"))]
    return tuple(sample for page in pages for sample in parse(page))


@cache
def recorded() -> frozenset[str]:
    """The names that Neural Bridge's recording rules make."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES.glob("*.yml")]
    rules = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    return frozenset(rule["record"] for rule in rules if "record" in rule)


def labels_by_metric(samples: Sequence[Sample]) -> dict[str, set[str]]:
    """The label names that each metric carries on the page."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(metric, [(label, operator, value)]) of every series that an expression selects."""
    bare = _WINDOW.sub("", _GROUPING.sub("", expr))
    for match in _METRIC.finditer(bare):
        inside = _STRING.sub("", bare[: match.start()]).count("{") != _STRING.sub("", bare[: match.start()]).count("}")
        if match[1] not in _WORDS and not inside:
            yield match[1], _MATCHER.findall(match[2] or "")


def grouped(expr: str) -> set[str]:
    """The labels that an expression groups by or matches on."""
    return {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",") if label.strip()}
