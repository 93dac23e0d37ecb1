"""The images and the compose file for real: up, a request, a scrape, a drain without a cut stream, an alert, down.

`make test-deploy` runs it where podman is and `make containers` has built the images; elsewhere it is skipped with the
reason. Images of others that are not there are stood in for by Debian's packages under the same names (Prometheus,
Alertmanager, node exporter: labelled so); Grafana has no stand-in and is left out.
"""

import contextlib
import os
import shutil
import threading
import time
from collections import Counter
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
        # One client for all: to make one takes longer than to ask, and servers start meanwhile on the same cores.
        self.client = httpx.Client(trust_env=False, timeout=120)
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

    def stream(self, body: dict[str, object]):
        headers = {"Authorization": f"Bearer {self.user_key}"}
        return httpx.stream("POST", f"{self.url('GATEWAY')}/v1/completions", json=body, headers=headers, timeout=300)

    def ask(self, model: str, *, tokens: int = 4, **more: object) -> httpx.Response:
        return self.client.post(
            f"{self.url('GATEWAY')}/v1/completions",
            json={"model": model, "prompt": "def main", "max_tokens": tokens, "ignore_eos": True},
            headers={"Authorization": f"Bearer {self.user_key}"},
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
    time.sleep(0.2)  # the servers that start are on the same cores
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


class Users:
    """Users of one model who stream answer after answer, until they are told to stop."""

    def __init__(self, stack: Stack, model: str, count: int) -> None:
        self.stack, self.model, self.over = stack, model, threading.Event()
        self.ended: list[tuple[str, float]] = []  # "whole", "cut" or a status, and when
        self.began = [threading.Event() for _ in range(count)]
        self.threads = [threading.Thread(target=self.ask, args=(began,)) for began in self.began]
        for thread in self.threads:
            thread.start()

    def ask(self, began: threading.Event) -> None:
        body = {"model": self.model, "prompt": "def", "max_tokens": 400, "ignore_eos": True, "stream": True}
        while not self.over.is_set():
            how, last = "cut", ""
            with contextlib.suppress(httpx.HTTPError), self.stack.stream(body) as answer:
                if answer.status_code != 200:
                    how = str(answer.status_code)
                for line in answer.iter_lines():
                    last = line or last
                    began.set()
            self.ended.append(("whole" if last == "data: [DONE]" else how, time.monotonic()))
            if how != "cut":
                self.over.wait(0.5)  # refused: as a client would

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(300)


def test_no_stream_is_cut_by_the_stop_of_its_server_and_the_alert_fires_and_resolves(stack, podman):
    users = Users(stack, "demo-1m-b", count=6)
    try:
        assert all(began.wait(120) for began in users.began)
        name = podman("podman", "ps", "--format", "{{.Names}}", "--filter", "name=server-b").split()[0]
        told_s = time.monotonic()
        podman("podman", "stop", "-t", "165", name)
        gone_s = time.monotonic()
    finally:
        users.stop()
    after = Counter(how for how, at_s in users.ended if at_s > told_s)
    status = podman("podman", "inspect", "--format", "{{.State.ExitCode}}", name).strip()
    tell(
        f"SIGTERM under the load of {len(users.began)} users: {after['whole']} streams ended whole after it, "
        f"{after['cut']} cut, {after['503']} requests refused (no other server has the model); the container was gone "
        f"after {gone_s - told_s:.1f} s of 165 s grace, exit code {status}"
    )
    assert (after["cut"], status) == (0, "0") and after["whole"] >= len(users.began)
    assert stack.ask("demo-1m-b").status_code == 503
    assert stack.ask("demo-1m").status_code == 200

    def alerts() -> set[str]:
        found = httpx.get(f"{stack.url('ALERTMANAGER')}/api/v2/alerts", timeout=30).json()
        return {one["labels"]["alertname"] for one in found if one["status"]["state"] == "active"}

    wait_for(lambda: "ServerDown" in alerts(), timeout_s=180)
    tell(f"ServerDown reached Alertmanager {time.monotonic() - gone_s:.1f} s after the container was gone")
    podman("podman", "start", name)
    wait_for(lambda: stack.ask("demo-1m-b").status_code == 200, timeout_s=300)
    wait_for(lambda: "ServerDown" not in alerts(), timeout_s=180)


def test_down_leaves_nothing(stack, podman):
    """The last one: all of it goes, with its data."""
    stack.compose("down", "-v")
    for what in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        assert "nbridge-test" not in podman("podman", *what)
