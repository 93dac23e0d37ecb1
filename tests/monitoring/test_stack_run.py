"""`nbridge stack` with the real Prometheus and Alertmanager."""

import contextlib
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fake_targets import Page, Webhook, gpu_page, vllm_page

from monitoring import rulefiles
from monitoring.errors import StackFailed
from monitoring.metrics import fetch, parse
from monitoring.stack import Part, Stack
from serve.server import Server

ROOT = Path(__file__).parents[2]
log = logging.getLogger(__name__)
# Short, so that a test takes seconds, but long enough for a machine that also computes tokens on all its cores.
QUICK = """
[timing]
scrape_interval_s = 2
scrape_timeout_s = 2
evaluation_interval_s = 2
window_s = 8
group_wait_s = 1
group_interval_s = 1
[server]
down_for_s = 8
[engine]
stalled_s = 10
[canary]
interval_s = 1
timeout_s = 5
[latency]
for_s = 0
requests_min = 1
[gpu]
temperature_for_s = 0
"""


def wait_for(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true value of `what`; fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def running_stack(tmp_path: Path, *words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The started command and its JSON document; killed at the end if it still runs."""
    argv = [sys.executable, "-m", "nbridge", "stack", "--json", "--data", str(tmp_path / "data")]
    argv += ["--prometheus-port", "0", "--alertmanager-port", "0", "--exporter-port", "0", *map(str, words)]
    errors = (tmp_path / "stderr.txt").open("w+")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line, (tmp_path / "stderr.txt").read_text()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        errors.close()
        if process.stdout:
            process.stdout.close()


def parts(document: dict[str, Any]) -> list[int]:
    return [document[name]["pid"] for name in ("exporter", "alertmanager", "prometheus")]


def query(document: dict[str, Any], expr: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{document['prometheus']['url']}/api/v1/query", params={"query": expr}, timeout=10)
    return list(answer.json()["data"]["result"])


def settings_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def webhook_settings(webhook: Webhook) -> str:
    return f'{QUICK}\n[[receivers]]\nkind = "webhook"\nname = "test"\nurl = "{webhook.url}/told"\n'


def load_until(server: Server, enough: threading.Event) -> None:
    """Four users with requests of 600 tokens, one after the other, until it is enough."""
    body = {"model": server.model_name, "prompt": "1", "max_tokens": 600, "ignore_eos": True}

    def user(_: int) -> None:
        while not enough.is_set():
            httpx.post(f"{server.base_url}/v1/completions", json=body, timeout=120).raise_for_status()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(user, range(4)))


@pytest.mark.engine
def test_alerts_reach_the_webhook_and_resolve(engine_server: Server, tmp_path: Path) -> None:
    """A real server gets slow; a fake one goes down, one hangs, a fake GPU gets hot: each is told, and told over."""
    hooked = engine_server.base_url.removeprefix("http://")
    idle, busy = vllm_page(), vllm_page(running=2, waiting=1, steps=7)
    with Webhook() as webhook, Page(*idle) as hung, Page(*gpu_page(temperature_c=60)) as gpu:
        doomed = Page(*idle)
        # Not the guide's 5 s: on two cores the small model's speed jumps by a factor of nine; 1 s is crossed at any.
        settings = settings_file(tmp_path, f"{webhook_settings(webhook)}\n[slo.e2e]\nthreshold_s = 1.0")
        targets = tmp_path / "targets.json"
        targets.write_text(json.dumps([{"targets": [hung.instance, doomed.instance]}]))
        words = ("--server", engine_server.base_url, "--targets", targets, "--exporter", gpu.url)
        with running_stack(tmp_path, *words, "--settings", settings) as (process, document):
            wait_for(lambda: len(query(document, 'up{job=~"vllm|gpu"} == 1')) == 5)
            slow = threading.Thread(target=load_until, args=(engine_server, enough := threading.Event()))
            slow.start()
            try:
                wait_for(partial(webhook.first, "LatencyP95High", hooked, "firing"))
            finally:
                enough.set()
                slow.join()  # before the rest: it takes all cores, also from what is timed below
            caused_s = {}
            for alert, instance, cause in (
                ("ServerDown", doomed.instance, doomed.close),
                ("GpuHot", gpu.instance, lambda: setattr(gpu, "lines", gpu_page(temperature_c=91.5))),
                ("EngineStalled", hung.instance, lambda: setattr(hung, "lines", busy)),
            ):
                caused_s[alert, instance] = time.monotonic()
                cause()
            expected = [*caused_s, ("LatencyP95High", hooked)]
            for alert, instance in expected:
                at_s, told = wait_for(partial(webhook.first, alert, instance, "firing"))
                assert told["annotations"]["runbook_url"].startswith("docs/runbooks.md#")
                if (alert, instance) in caused_s:
                    log.info("%s: %.2f s from cause to webhook", alert, at_s - caused_s[alert, instance])
            assert "91.5 °C" in webhook.first("GpuHot", gpu.instance, "firing")[1]["annotations"]["summary"]
            _, stalled = webhook.first("EngineStalled", hung.instance, "firing")
            assert "has 3 requests" in stalled["annotations"]["summary"]

            gpu.lines, hung.lines = gpu_page(temperature_c=61), vllm_page(steps=8)
            targets.write_text(json.dumps([{"targets": [hung.instance]}]))  # the dead server is taken out
            for alert, instance in expected:
                wait_for(partial(webhook.first, alert, instance, "resolved"))
            # The dead server's canary failed, too, and nobody was paged twice; what is well stayed silent.
            named = {(told["labels"]["alertname"], told["labels"].get("instance")) for _, told in webhook.told}
            assert ("CanaryFailing", doomed.instance) not in named
            assert {alert for alert, instance in named if instance == hooked} <= {"LatencyP95High"}
            assert not query(document, "increase(prometheus_rule_evaluation_failures_total[1m]) > 0")
            process.terminate()
            assert process.wait(timeout=30) == 0
            assert not any(psutil.pid_exists(pid) for pid in parts(document))


@pytest.mark.engine
def test_every_metric_in_the_rules_is_one_that_the_server_exports(engine_server: Server) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in rulefiles.FOLDER.glob("*.yml"))
    named = set(re.findall(r"\b(?:vllm:\w+|http_requests_total|process_\w+)", text))
    exported = {sample.name for sample in parse(fetch(engine_server.base_url))}
    assert named
    assert named <= exported


def test_what_is_no_page_counts_as_down_and_nothing_is_left_when_killed(tmp_path: Path) -> None:
    with Page(*vllm_page()) as well, Page() as html, Page("vllm:num_requests_running{ 3") as malformed:
        html.html = "<html><body>Welcome to the proxy</body></html>"
        servers = [word for page in (well, html, malformed) for word in ("--server", page.url)]
        settings = settings_file(tmp_path, QUICK)
        with running_stack(tmp_path, *servers, "--settings", settings) as (process, document):
            wait_for(lambda: len(query(document, 'up{job="vllm"}')) == 3)
            up = {one["metric"]["instance"]: one["value"][1] for one in query(document, 'up{job="vllm"}')}
            assert up == {well.instance: "1", html.instance: "0", malformed.instance: "0"}
            config = tmp_path / "data" / "config"
            assert (config.stat().st_mode & 0o077, (config / "alertmanager.yml").stat().st_mode & 0o077) == (0, 0)
            again = [sys.executable, "-m", "nbridge", "stack", "--server", well.url, "--data", str(tmp_path / "data")]
            refused = subprocess.run(again, capture_output=True, text=True, check=False, cwd=ROOT)
            assert (refused.returncode, "Another stack keeps its data in" in refused.stderr) == (2, True)
            assert all(psutil.pid_exists(pid) for pid in parts(document))
            process.kill()
            wait_for(lambda: not any(psutil.pid_exists(pid) for pid in parts(document)), timeout_s=30)


class Ended:
    """A process as the stack sees it, which has ended with `status` or runs."""

    def __init__(self, pid: int, status: int | None, stopped: list[int]) -> None:
        self.pid, self.status, self.stopped = pid, status, stopped

    def exit_status(self) -> int | None:
        return self.status

    def stop(self, grace_s: float) -> None:
        self.stopped.append(self.pid)


def test_a_part_that_ends_takes_the_others_with_it(tmp_path: Path) -> None:
    log_path = tmp_path / "a.log"
    log_path.write_text("level=info msg=started\nlevel=error msg=no space left on device\nlevel=info msg=bye\n")
    stopped: list[int] = []
    running = Stack()
    parts = [Part(name, (name,), "http://127.0.0.1:1", "/ready", log_path) for name in ("exporter", "prometheus")]
    running.running = [(parts[0], Ended(1, None, stopped)), (parts[1], Ended(2, -9, stopped))]
    with pytest.raises(StackFailed) as error:
        running.watch(lambda: False)
    assert str(error.value) == (
        "prometheus was killed by signal 9; the rest is stopped. "
        f'It said: "level=error msg=no space left on device". Its log: {log_path}'
    )
    running.stop()
    assert stopped == [2, 1]
