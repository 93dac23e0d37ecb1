"""How long an alert takes from its cause to a webhook, with the real `nbridge stack`: part of `make bench-monitoring`.

Prometheus, Alertmanager, the rules and the webhook are real. The watched pages are stand-ins, so that each cause has an
instant: a GPU gets hot, a server stops answering, an engine has requests and takes no step, requests took over 5 s.
Each round waits for a random part of an interval, causes all four at once, waits until the webhook has been told of
each, takes the causes away, and waits until it has been told so.

Bound: the time for which the alert must hold + 2 evaluation intervals + the group wait. In it are the wait for the next
scrape, the wait for the next evaluation after it, and Alertmanager's wait for others of the kind.

Measured twice: with nothing else to do, and with one process per core that computes all the time. When a stack scrapes
and evaluates within an interval is drawn at its start, so every second round starts a new one.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.studies.targets import Page, Webhook, gpu_page, vllm_page
from monitoring.alerting.thresholds import Thresholds, load
from monitoring.machine import describe

# Short times, so that a round takes seconds. No canary is due to fail before the alert that it would stand in for.
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
interval_s = 4
timeout_s = 8
[latency]
for_s = 0
requests_min = 1
[gpu]
temperature_for_s = 0
"""
TOLD_WITHIN_S = 120.0  # a webhook that is not told by then is not told
PER_STACK = 2  # rounds; a new stack has its scrapes and evaluations at other instants of an interval
_POLL_S = 0.02


def settings_file(folder: Path, webhook: Webhook, more: str = "") -> Path:
    """QUICK with `webhook` as its receiver, as a file for `nbridge stack --settings`."""
    path = folder / "settings.toml"
    receiver = f'[[receivers]]\nkind = "webhook"\nname = "told"\nurl = "{webhook.url}/told"\n'
    path.write_text(f"{QUICK}\n{receiver}\n{more}", encoding="utf-8")
    return path


@contextlib.contextmanager
def stack(folder: Path, *words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`nbridge stack` on free ports, ready, with its JSON document; killed at the end if it still runs.

    Raises BenchError with its words when it does not start.
    """
    argv = [sys.executable, "-m", "nbridge", "stack", "--json", "--data", str(folder / "data")]
    argv += ["--prometheus-port", "0", "--alertmanager-port", "0", "--exporter-port", "0", *map(str, words)]
    errors = folder / "stderr.txt"
    with errors.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise BenchError(f"nbridge stack did not start: {errors.read_text(encoding='utf-8').strip()}")
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def holds_s(settings: Thresholds) -> dict[str, float]:
    """For how long the cause of each measured alert must last before it may fire."""
    return {
        "GpuHot": settings.gpu.temperature_for_s,
        "LatencyP95High": settings.latency.for_s,
        "ServerDown": settings.server.down_for_s,
        "EngineStalled": settings.engine.stalled_s,
    }


def bound_s(settings: Thresholds, hold_s: float) -> float:
    """The longest time from a cause to the webhook, for an alert that must hold for `hold_s`."""
    return hold_s + 2 * settings.timing.evaluation_interval_s + settings.timing.group_wait_s


def told(webhook: Webhook, alert: str, instance: str, status: str, since_s: float) -> float:
    """The instant at which the webhook is told of an alert. Raises BenchError when it is not."""
    deadline_s = time.monotonic() + TOLD_WITHIN_S
    while not (found := webhook.first(alert, instance, status, since_s=since_s)):
        if time.monotonic() > deadline_s:
            raise BenchError(f"the webhook was not told within {TOLD_WITHIN_S:.0f} s that {alert} is {status}")
        time.sleep(_POLL_S)
    return found[0]


def rounds(folder: Path, count: int, phase: random.Random) -> Iterator[dict[str, float]]:
    """Start the stack, and give for each round: alert → seconds from its cause to the webhook."""
    with Webhook() as webhook, Page() as gpu, Page() as hung, Page() as slow, contextlib.ExitStack() as doomed:
        gpu.lines, hung.lines, slow.lines = gpu_page(temperature_c=60), vllm_page(), vllm_page()
        port = doomed.enter_context(Page(*vllm_page())).port
        down = f"127.0.0.1:{port}"
        path = settings_file(folder, webhook)
        interval_s = load(path).timing.evaluation_interval_s
        watched = [word for one in (hung.url, slow.url, down) for word in ("--server", one)]
        instances = {
            "GpuHot": gpu.instance,
            "LatencyP95High": slow.instance,
            "ServerDown": down,
            "EngineStalled": hung.instance,
        }
        with stack(folder, *watched, "--exporter", gpu.url, "--settings", path):
            time.sleep(3 * interval_s)  # every page has been read twice: what changes from now on is a change
            for number in range(1, count + 1):
                time.sleep(phase.uniform(0, interval_s))
                caused_s = time.monotonic()
                gpu.lines = gpu_page(temperature_c=91.5)
                slow.lines = vllm_page(slow=number)  # few: many would burn an error budget, which tells instead
                hung.lines = vllm_page(running=2, waiting=1, steps=2 * number - 1)
                doomed.close()
                told_s = {
                    alert: told(webhook, alert, instance, "firing", caused_s) - caused_s
                    for alert, instance in instances.items()
                }
                healed_s = time.monotonic()
                gpu.lines, hung.lines = gpu_page(temperature_c=60), vllm_page(steps=2 * number)
                doomed.enter_context(Page(*vllm_page(), port=port))
                for alert, instance in instances.items():
                    # Slow requests may be over, and told so, while the others still hold.
                    told(webhook, alert, instance, "resolved", caused_s if instance == slow.instance else healed_s)
                yield told_s


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """One process per core that computes all the time, and ends with this one, however that ends."""
    compute = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", compute]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(folder: Path, *, count: int, on_round: Callable[[str, int], None]) -> dict[str, Any]:
    """Both measurements as one document."""
    found: dict[str, list[dict[str, float]]] = {}
    phase = random.Random(0)  # noqa: S311  (reproducible randomness is meant)
    for machine, beside in (("quiet", contextlib.nullcontext()), ("busy", busy())):
        found[machine] = []
        with beside:
            for first in range(0, count, PER_STACK):
                own = folder / f"{machine}-{first}"
                own.mkdir(parents=True)
                for told_s in rounds(own, min(PER_STACK, count - first), phase):
                    found[machine].append(told_s)
                    on_round(machine, len(found[machine]))
    settings = load(folder / "quiet-0" / "settings.toml")
    timing = settings.timing
    alerts: dict[str, dict[str, Any]] = {}
    for alert, hold_s in holds_s(settings).items():
        most_s = bound_s(settings, hold_s)
        times = {machine: [told_s[alert] for told_s in all_told] for machine, all_told in found.items()}
        within = {machine: sum(one_s <= most_s for one_s in told_s) for machine, told_s in times.items()}
        alerts[alert] = {"holds_s": hold_s, "bound_s": most_s, "told_s": times, "within_bound": within}
    return {
        "timing": {
            "scrape_interval_s": timing.scrape_interval_s,
            "evaluation_interval_s": timing.evaluation_interval_s,
            "group_wait_s": timing.group_wait_s,
        },
        "rounds": count,
        "alerts": alerts,
        "goals": {
            f"told_within_bound_{machine}": {
                "met": all(one["within_bound"][machine] == count for one in alerts.values())
            }
            for machine in found
        },
        "environment": describe(),
    }


def table(document: dict[str, Any]) -> Table:
    rows = Table("from cause to webhook", "machine", "median", "longest", "bound", "within", box=None, pad_edge=False)
    for alert, one in document["alerts"].items():
        for name, told_s in one["told_s"].items():
            rows.add_row(
                alert,
                name,
                f"{np.median(told_s):.1f} s",
                f"{max(told_s):.1f} s",
                f"{one['bound_s']:g} s",
                f"{one['within_bound'][name]} of {len(told_s)}",
            )
    return rows


def main(
    count: Annotated[
        int, typer.Option("--rounds", min=1, help="Rounds on the quiet machine, and again on the busy one.")
    ] = 8,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON document into this file.")] = None,
) -> None:
    """Measure how long alerts take from cause to webhook; a table on stderr, one JSON document on stdout."""
    console = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: nothing is left running

    def on_round(machine: str, number: int) -> None:
        console.print(f"alerts, {machine} machine: {number} of {count} rounds")

    try:
        with tempfile.TemporaryDirectory() as name:
            document = run(Path(name), count=count, on_round=on_round)
    except BenchError as error:
        console.print(str(error))
        raise typer.Exit(error.exit_code) from None
    text = json.dumps(document, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    console.print(table(document))
    print(text)  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
