"""Rendered overlays, and what one looks up in them."""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("dev", "prod", "multi-model")
OPTIONS = ("monitoring", "keda", "hpa", "route", "gpu-exporter")
Manifest = dict[str, Any]


def kustomized(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder; skips where there is no kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@functools.cache
def overlay(name: str) -> tuple[Manifest, ...]:
    return tuple(kustomized(KUBERNETES / "overlays" / name))


@functools.cache
def option(name: str) -> tuple[Manifest, ...]:
    return tuple(kustomized(KUBERNETES / "options" / name))


def of_kind(manifests: tuple[Manifest, ...] | list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def pods(manifests: tuple[Manifest, ...] | list[Manifest]) -> dict[str, Manifest]:
    """Name of the workload → its pod template."""
    found = of_kind(manifests, "Deployment", "DaemonSet", "StatefulSet", "Job")
    return {one["metadata"]["name"]: one["spec"]["template"] for one in found}


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector matches, as the API has it: all of matchLabels and all of matchExpressions (In)."""
    assert {one["operator"] for one in selector.get("matchExpressions", [])} <= {"In"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )
