"""`nbridge stack` with the real Prometheus and Alertmanager."""

import contextlib
import email
import json
import logging
import re
import subprocess
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
from aiosmtpd.controller import Controller
from waiting import wait_for

from bench.studies.alerting import QUICK, bound_s, holds_s, settings_file, stack
from bench.studies.targets import Page, Webhook, gpu_page, vllm_page
from monitoring.alerting import rulefiles
from monitoring.alerting.stack import Part, Stack
from monitoring.alerting.thresholds import load
from monitoring.errors import StackFailed
from monitoring.scrape.metrics import current_name, fetch, parse, total
from serve.engine.server import Server
from serve.processes import port

pytestmark = pytest.mark.slow

log = logging.getLogger(__name__)
E2E = "vllm:e2e_request_latency_seconds"


def parts(document: dict[str, Any]) -> list[int]:
    return [document[name]["pid"] for name in ("exporter", "alertmanager", "prometheus")]


def query(document: dict[str, Any], expr: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{document['prometheus']['url']}/api/v1/query", params={"query": expr}, timeout=300)
    return list(answer.json()["data"]["result"])


def engine_of(server: Server) -> psutil.Process:
    (engine,) = [process for pid in server.pids() if "EngineCore" in (process := psutil.Process(pid)).name()]
    return engine


def ask(
    server: Server, tokens: int, at_first_token: Callable[[], None] = lambda: None, request_id: str = "of-the-stack"
) -> None:
    """One request, until the end of its answer."""
    body = {"model": server.model_name, "prompt": "1", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    url, headers = f"{server.base_url}/v1/completions", {"X-Request-Id": request_id}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=300) as answer:
        answer.raise_for_status()
        chunks = answer.iter_bytes()
        next(chunks)
        at_first_token()
        for _ in chunks:
            pass


@contextlib.contextmanager
def hanging(server: Server, pool: ThreadPoolExecutor) -> Iterator[float]:
    """The server's engine stands still with a request under way, which is answered after it; the instant."""
    engine = engine_of(server)
    for _ in range(20):
        halted = threading.Event()

        def halt(halted: threading.Event = halted) -> None:
            engine.suspend()
            halted.set()

        asked = pool.submit(ask, server, 900, halt)
        try:
            assert halted.wait(300)
            halted_s = time.monotonic()
            # What it had answered by then is counted after half a second. A quick engine may have answered everything.
            wait_for(lambda since_s=halted_s: time.monotonic() > since_s + 0.5)
            if caught := total(parse(fetch(server.base_url)), "vllm:num_requests_running"):
                yield halted_s
        finally:
            engine.resume()
        asked.result()
        if caught:
            return
    raise AssertionError("the engine was never caught with a request under way")


def slow_requests(server: Server, pool: ThreadPoolExecutor) -> float:
    """Four requests that take over 5 s whatever the speed of the model: the engine takes none of them up before.

    Returns the instant at which the first of them ended, as the server counts it.
    """
    before = parse(fetch(server.base_url))
    engine = engine_of(server)
    ids = [f"slow-{number}" for number in range(4)]
    engine.suspend()
    try:
        asked = [pool.submit(ask, server, 4, request_id=one) for one in ids]
        # The API process has them, whose clock starts a moment later.
        wait_for(lambda: all(one in server.log_path.read_text(encoding="utf-8") for one in ids))
        received_s = time.monotonic()
        wait_for(lambda: time.monotonic() > received_s + 5.5)
    finally:
        engine.resume()
    resumed_s = time.monotonic()
    for one in asked:
        one.result()
    after = parse(fetch(server.base_url))

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more(f"{E2E}_count") - more(f"{E2E}_bucket", le="5.0") >= 4
    return resumed_s


@pytest.mark.engine
def test_alerts_reach_the_webhook_and_resolve(engine_server: Server, tmp_path: Path) -> None:
    """A real server's requests take over 5 s, its engine hangs, another is down, a fake GPU hot: all of it is told."""
    hooked = engine_server.base_url.removeprefix("http://")
    with (
        Webhook() as webhook,
        Page(*gpu_page(temperature_c=60)) as gpu,
        ThreadPoolExecutor(4) as pool,
        contextlib.ExitStack() as held,
    ):
        doomed = held.enter_context(Page(*vllm_page()))
        path = settings_file(tmp_path, webhook)
        settings = load(path)
        assert settings.slo.e2e.threshold_s == 5  # the guide's
        targets = tmp_path / "targets.json"
        targets.write_text(json.dumps([{"targets": [doomed.instance]}]))
        words = ("--server", engine_server.base_url, "--targets", targets, "--exporter", gpu.url, "--settings", path)
        with stack(tmp_path, *words) as (process, document):
            wait_for(lambda: len(query(document, 'up{job=~"vllm|gpu"} == 1')) == 4)
            # Quick requests are judged, and are no reason to tell anybody anything.
            ask(engine_server, 4)
            share = f'instance:nbridge_slo_bad:share{{slo="e2e",instance="{hooked}"}}'
            wait_for(lambda: [one["value"][1] for one in query(document, share)] == ["0"])
            assert webhook.told == []

            caused_s = {("LatencyP95High", hooked): slow_requests(engine_server, pool)}
            wait_for(partial(webhook.first, "LatencyP95High", hooked, "firing"))
            wait_for(partial(webhook.first, "LatencyP95High", hooked, "resolved"))

            with hanging(engine_server, pool) as caused_s["EngineStalled", hooked]:
                caused_s["ServerDown", doomed.instance] = time.monotonic()
                doomed.close()
                caused_s["GpuHot", gpu.instance] = time.monotonic()
                gpu.lines = gpu_page(temperature_c=91.5)
                for (alert, instance), since_s in caused_s.items():
                    at_s, told = wait_for(partial(webhook.first, alert, instance, "firing"))
                    assert told["annotations"]["runbook_url"].startswith(("http://127.0.0.1:", "file:///"))
                    bound = bound_s(settings, holds_s(settings)[alert])
                    log.info("%s: told %.2f s after its cause; bound %g s", alert, at_s - since_s, bound)
            words_of = {told["labels"]["alertname"]: told["annotations"]["summary"] for _, told in webhook.told}
            assert "took longer than 5 s" in words_of["LatencyP95High"]
            assert "91.5 °C" in words_of["GpuHot"]
            assert "has finished no step" in words_of["EngineStalled"]

            gpu.lines = gpu_page(temperature_c=61)
            targets.write_text(json.dumps([{"targets": []}]))  # the dead server is taken out
            for alert, instance in caused_s:
                wait_for(partial(webhook.first, alert, instance, "resolved"))
            # The dead server's canary failed, too, and nobody was paged twice; what is well stayed silent.
            named = {(told["labels"]["alertname"], told["labels"].get("instance")) for _, told in webhook.told}
            assert named == set(caused_s)
            assert not query(document, "increase(prometheus_rule_evaluation_failures_total[1m]) > 0")
            process.terminate()
            assert process.wait(timeout=300) == 0
            assert not any(psutil.pid_exists(pid) for pid in parts(document))


@pytest.mark.engine
def test_every_metric_in_the_rules_is_one_that_the_server_exports(engine_server: Server) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in rulefiles.FOLDER.glob("*.yml"))
    # Some are also asked for by the name that they had up to vLLM 0.9.
    named = {current_name(name) for name in re.findall(r"\b(?:vllm:\w+|http_requests_total|process_\w+)", text)}
    exported = {sample.name for sample in parse(fetch(engine_server.base_url))}
    assert named
    assert named <= exported


def test_what_is_no_page_counts_as_down_and_nothing_is_left_when_killed(
    tmp_path: Path, nbridge: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(QUICK, encoding="utf-8")
    with (
        Page(*vllm_page()) as well,
        Page(*vllm_page(), delay_s=4) as late,
        Page() as html,
        Page("vllm:num_requests_running{ 3") as malformed,
    ):
        html.html = "<html><body>Welcome to the proxy</body></html>"
        servers = [word for page in (well, late, html, malformed) for word in ("--server", page.url)]
        with stack(tmp_path, *servers, "--settings", settings) as (process, document):
            wait_for(lambda: len(query(document, 'up{job="vllm"}')) == 4)
            up = {one["metric"]["instance"]: one["value"][1] for one in query(document, 'up{job="vllm"}')}
            assert up == {well.instance: "1", late.instance: "0", html.instance: "0", malformed.instance: "0"}
            config = tmp_path / "data" / "config"
            assert (config.stat().st_mode & 0o077, (config / "alertmanager.yml").stat().st_mode & 0o077) == (0, 0)
            refused = nbridge("stack", "--server", well.url, "--data", tmp_path / "data")
            assert (refused.returncode, "Another stack keeps its data in" in refused.stderr) == (2, True)
            assert all(psutil.pid_exists(pid) for pid in parts(document))
            process.kill()
            wait_for(lambda: not any(psutil.pid_exists(pid) for pid in parts(document)))


class Mailbox:
    """An SMTP server's handler that keeps what it is handed."""

    def __init__(self) -> None:
        self.mails: list[email.message.Message] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"


def test_every_kind_of_receiver_is_told_one_cause_once_and_a_broken_one_is_reported(tmp_path: Path) -> None:
    """Alerts as Prometheus sends them, to the stack's Alertmanager; real HTTP and SMTP at the other end."""
    mailbox = Mailbox()
    mail = Controller(mailbox, hostname="127.0.0.1", port=port.pick("127.0.0.1"))
    mail.start()
    with contextlib.ExitStack() as ends, Page(*vllm_page()) as server:
        ends.callback(mail.stop)
        pager, chat, heart, gone = (ends.enter_context(Webhook()) for _ in range(4))
        gone.close()
        (tmp_path / "chat-url").write_text(f"{chat.url}/hook\n")
        receivers = f"""
            [[receivers]]
            kind = "email"
            name = "team"
            to = "team@example.org"
            sender = "alerts@example.org"
            smarthost = "127.0.0.1:{mail.port}"
            require_tls = false
            [[receivers]]
            kind = "chat"
            name = "channel"
            url_file = "{tmp_path}/chat-url"
            channel = "#inference"
            [[receivers]]
            kind = "heartbeat"
            name = "switch"
            url = "{heart.url}"
            interval_s = 2
            [[receivers]]
            kind = "webhook"
            name = "broken"
            url = "{gone.url}"
            severities = ["warning"]
        """
        path = settings_file(tmp_path, pager, receivers)
        with stack(tmp_path, "--server", server.url, "--settings", path) as (_, document):
            at = {"instance": "a:8000"}
            for alert, severity in (
                ("CanaryFailing", "critical"),
                ("EngineStalled", "critical"),
                ("GpuHot", "warning"),
            ):
                alerts = [
                    {
                        "labels": {"alertname": alert, "severity": severity, **at},
                        "annotations": {"summary": f"{alert} here", "runbook_url": "docs/runbooks.md#x"},
                    }
                ]
                api = f"{document['alertmanager']['url']}/api/v2/alerts"
                httpx.post(api, json=alerts, timeout=300).raise_for_status()
            for alert in ("CanaryFailing", "GpuHot"):
                wait_for(partial(pager.first, alert, "a:8000", "firing"))
            wait_for(lambda: len(heart.told) >= 3)
            wait_for(lambda: len(chat.bodies) >= 2)
            wait_for(lambda: len(mailbox.mails) >= 2)
            # Delivery to the broken receiver fails, and the others are told so.
            wait_for(lambda: any(told["labels"]["alertname"] == "NotificationsFailing" for _, told in pager.told))
        told = {told["labels"]["alertname"] for _, told in pager.told}
        assert told == {"CanaryFailing", "GpuHot", "NotificationsFailing"}  # the hung engine's second alert is silent
        subjects = {mail["Subject"] for mail in mailbox.mails}
        assert {"[FIRING] CanaryFailing (critical)", "[FIRING] GpuHot (warning)"} <= subjects
        text = (
            next(mail for mail in mailbox.mails if "GpuHot" in mail["Subject"]).get_payload(0).get_payload(decode=True)
        )
        assert b"GpuHot here (runbook: docs/runbooks.md#x)" in text
        posted = next(body for body in chat.bodies if "GpuHot" in body["attachments"][0]["title"])
        assert posted["channel"] == "#inference"
        assert "GpuHot here (runbook: docs/runbooks.md#x)" in posted["attachments"][0]["text"]
        assert {told["labels"]["alertname"] for _, told in heart.told} == {"Watchdog"}
        beats = sorted(at_s for at_s, _ in heart.told)
        assert len(beats) == len(set(beats))


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
