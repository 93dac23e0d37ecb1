"""The images and the compose file for real: up, a request, a scrape, a drain without a cut stream, an alert, down.

`make test-deploy` runs it where podman is and `make containers` has built the images; elsewhere it is skipped with the
reason. Images of others that are not there are stood in for by Debian's packages under the same names (Prometheus,
Alertmanager, node exporter: labelled so); Grafana has no stand-in and is left out.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from podman import Podman, installed, path, tell
from typer.testing import CliRunner
from waiting import wait_for

from deploy.rendering.cli import render
from serve.processes import port

pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("NBRIDGE_CONTAINERS"), reason="containers run with `make test-deploy` only"),
    pytest.mark.timeout(1800),
]
BASE = os.environ.get("NBRIDGE_CONTAINERS_BASE", "docker.io/library/debian:bookworm-slim")
# Image of others → Debian's package, its program, and the folder that it writes.
STAND_INS = {
    "docker.io/prom/prometheus": ("prometheus", "/usr/bin/prometheus", "/prometheus"),
    "docker.io/prom/alertmanager": ("prometheus-alertmanager", "/usr/bin/prometheus-alertmanager", "/alertmanager"),
    "docker.io/prom/node-exporter": ("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter", "/nothing"),
}
WITHOUT = ("grafana", "gpu-exporter")


def stand_in(podman: Podman, image: str, folder: Path) -> None:
    package, program, data = STAND_INS[image.rpartition(":")[0]]
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        f"RUN apt-get update && apt-get install -y --no-install-recommends {package}"
        f" && mkdir -p {data} && chown 65534:65534 {data}\n"
        f'LABEL stand-in="Debian\'s {package}"\nENTRYPOINT ["{program}"]\n',
        encoding="utf-8",
    )
    podman("podman", "build", "--isolation", "chroot", "-q", "-t", image, folder)


@pytest.fixture(scope="module")
def podman(tmp_path_factory) -> Podman:
    return installed(tmp_path_factory.mktemp("podman"), "cpu", "gateway")


class Stack:
    """The compose folder as it runs."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman, self.folder = podman, folder
        self.ports = {name: port.pick("127.0.0.1") for name in ("GATEWAY", "PROMETHEUS", "ALERTMANAGER")}
        lines = (folder / "keys" / "gateway.env").read_text(encoding="utf-8").splitlines()
        self.user_key = next(line for line in lines if line.startswith("NBRIDGE_USER_KEYS=")).partition("=")[2]
        more = {f"{name}_PORT": str(number) for name, number in self.ports.items()}
        more |= {"SUBNET": "172.30.77", "SERVER_CPUS": "1", "SERVER_MEMORY": "4g"}
        with (folder / ".env").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in more.items())
        # What is left out has no image here; nothing else of the file is changed.
        document = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
        for name in WITHOUT:
            del document["services"][name]
        (folder / "compose.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        self.images = {one["image"] for one in document["services"].values()}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def compose(self, *argv: str, check: bool = True) -> str:
        program = shutil.which("podman-compose", path=path())
        return self.podman(program, "-p", "nbridge-test", *argv, check=check, cwd=self.folder)

    def ask(self, model: str, *, tokens: int = 4, **more: object) -> httpx.Response:
        return httpx.post(
            f"{self.url('GATEWAY')}/v1/completions",
            json={"model": model, "prompt": "def main", "max_tokens": tokens, "ignore_eos": True},
            headers={"Authorization": f"Bearer {self.user_key}"},
            timeout=120,
            **more,
        )


@pytest.fixture(scope="module")
def stack(podman, tmp_path_factory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    answer = CliRunner().invoke(render, ["compose", "--out", str(folder)])
    assert answer.exit_code == 0, answer.output
    running = Stack(podman, folder)
    for image in sorted(running.images):
        if image.rpartition(":")[0] in STAND_INS and not podman.has(image):
            stand_in(podman, image, tmp_path_factory.mktemp("stand-in"))
    started_s = time.monotonic()
    try:
        running.compose("up", "-d")
        wait_for(lambda: answered(running), timeout_s=600)
        tell(f"compose up to the first answer: {time.monotonic() - started_s:.1f} s")
        yield running
    finally:
        tell(running.compose("logs", check=False)[-3000:])
        running.compose("down", "-v", check=False)


def answered(stack: Stack) -> bool:
    try:
        return stack.ask("demo-1m").status_code == 200 and stack.ask("demo-1m-b").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_request_needs_a_key_and_passes(stack):
    assert httpx.get(f"{stack.url('GATEWAY')}/v1/models", timeout=30).status_code == 401
    for model in ("demo-1m", "demo-1m-b"):
        answer = stack.ask(model)
        assert (answer.status_code, answer.json()["model"], answer.json()["usage"]["completion_tokens"]) == (
            200,
            model,
            4,
        )


def up(stack: Stack) -> dict[str, str]:
    answer = httpx.get(f"{stack.url('PROMETHEUS')}/api/v1/query", params={"query": "up"}, timeout=30)
    found = answer.json()["data"]["result"]
    return {f"{one['metric']['job']} {one['metric']['instance']}": one["value"][1] for one in found}


def test_prometheus_scrapes_all_of_it(stack):
    wanted = {"vllm server-a:8000", "vllm server-b:8000", "node node-exporter:9100"}
    wanted |= {"gateway gateway:8405", "gateway-haproxy gateway:8405"}
    wait_for(lambda: wanted <= {name for name, value in up(stack).items() if value == "1"}, timeout_s=120)


def test_a_stream_outlives_the_stop_of_its_server_and_the_alert_fires_and_resolves(stack, podman):
    got: dict[str, object] = {}

    def read() -> None:
        with httpx.stream(
            "POST",
            f"{stack.url('GATEWAY')}/v1/completions",
            json={"model": "demo-1m-b", "prompt": "def", "max_tokens": 1500, "ignore_eos": True, "stream": True},
            headers={"Authorization": f"Bearer {stack.user_key}"},
            timeout=300,
        ) as answer:
            lines = []
            for line in answer.iter_lines():
                lines.append(line)
                began.set()
        got["lines"] = [line for line in lines if line]

    began = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(120)
    name = podman("podman", "ps", "--format", "{{.Names}}", "--filter", "name=server-b").split()[0]
    podman("podman", "stop", "-t", "165", name)
    reader.join(300)
    assert got["lines"][-1] == "data: [DONE]" and len(got["lines"]) > 100
    assert stack.ask("demo-1m-b").status_code == 503
    assert stack.ask("demo-1m").status_code == 200

    def alerts() -> set[str]:
        found = httpx.get(f"{stack.url('ALERTMANAGER')}/api/v2/alerts", timeout=30).json()
        return {one["labels"]["alertname"] for one in found if one["status"]["state"] == "active"}

    wait_for(lambda: "ServerDown" in alerts(), timeout_s=180)
    podman("podman", "start", name)
    wait_for(lambda: stack.ask("demo-1m-b").status_code == 200, timeout_s=300)
    wait_for(lambda: "ServerDown" not in alerts(), timeout_s=180)
