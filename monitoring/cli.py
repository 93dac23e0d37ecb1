"""`nbridge doctor`, `exporter` and `health`."""

import contextlib
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitoring.doctor.checks import Finding, examine

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


def doctor(
    port: Annotated[int, typer.Option(help="The port that a server would take.", min=1, max=65535)] = 8000,
    *,
    server: Annotated[str | None, typer.Option(help="Diagnose the server at this address instead.")] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A server's log, for why it ended or did not start; - reads it from a pipe."),
    ] = None,
    window_s: Annotated[
        float, typer.Option("--window", help="Seconds to look at the server for.", min=1, max=600)
    ] = 15.0,
    model: Annotated[str | None, typer.Option(help="Model to ask. [default: the first listed]")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds the API key.")] = None,
    gpu_exporter: Annotated[str | None, typer.Option("--exporter", help="GPU exporter beside the server.")] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML file with thresholds, as for nbridge stack.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings to stdout.")] = False,
) -> None:
    """Check this machine, or a server that runs, and say what to do.

    Exit code 3 when something will not work on this machine, 1 when the server is not well.
    """
    from checkpoints.cache import cache_dir

    progress = Console(stderr=True)
    findings: list[Finding] = []
    with progress.status("looking …") if progress.is_terminal else progress:
        if server is not None or log is not None:
            findings.extend(
                _patient(
                    server,
                    log,
                    window_s=window_s,
                    model=model,
                    api_key_env=api_key_env,
                    exporter=gpu_exporter,
                    settings=settings,
                )
            )
        else:
            findings.extend(examine(home=cache_dir(), port=port))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        table = Table("check", "", "seen", "what to do", box=None, pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, _MARKS[finding.verdict], escape(finding.seen), escape(finding.todo))
        Console().print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(3 if server is None and log is None else 1)


def _patient(
    server: str | None,
    log: Path | None,
    *,
    window_s: float,
    model: str | None,
    api_key_env: str | None,
    exporter: str | None,
    settings: Path | None,
) -> list[Finding]:
    """The findings on a server, and on its log when one is given."""
    from huggingface_hub.constants import ENDPOINT

    from monitoring.alerting.thresholds import load
    from monitoring.doctor.checks import hub_access
    from monitoring.doctor.diagnosis import Probe, diagnose
    from monitoring.doctor.probe import probe
    from monitoring.doctor.server_log import log_finding
    from monitoring.health.checkup import Checkup
    from monitoring.health.verdict import examine as judge
    from monitoring.scrape import http_exchange

    findings = [log_finding(log)] if log is not None else []
    if server is None:
        return findings
    thresholds, address = load(settings), http_exchange.address(server)
    beside = http_exchange.address(exporter) if exporter else None
    checkup = Checkup(address, window_s=window_s, model=model, api_key_env=api_key_env, exporter=beside)
    seen = checkup.run()
    verdict = judge(seen, thresholds, stalled_s=checkup.stalled_s)
    asked = Probe()
    if seen.canary is not None and seen.canary.up:
        states = (seen.health_body or {}).get("hidden_states")
        with_states = isinstance(states, dict) and states.get("mode") != "off"
        asked = probe(address, model=model, api_key_env=api_key_env, deadline_s=30, with_states=with_states)
    findings += diagnose(seen, verdict, asked, thresholds)
    if not seen.scrapes:
        findings.append(hub_access(ENDPOINT))  # a server that never came up may still be downloading its model
    return findings


def exporter(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 9400,
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Seconds between two collections.", min=0.05)
    ] = 1.0,
    deadline_s: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", help="After these a GPU that hangs is down.", min=0.05)
    ] = 5.0,
    retry_s: Annotated[
        float, typer.Option("--retry", metavar="SECONDS", help="Seconds to the next attempt after a loss.", min=0.05)
    ] = 10.0,
    expect: Annotated[int | None, typer.Option(help="GPUs that should be here. [default: most seen]", min=0)] = None,
    server: Annotated[list[str] | None, typer.Option(help="vLLM server to send a canary to; repeatable.")] = None,
    targets: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="File with servers (Prometheus file_sd), followed as it changes."),
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable with the servers' API key.")] = None,
    canary_interval_s: Annotated[
        float, typer.Option("--canary-interval", metavar="SECONDS", help="Seconds between two canaries.", min=1)
    ] = 15.0,
    canary_deadline_s: Annotated[
        float, typer.Option("--canary-deadline", metavar="SECONDS", help="After these a canary has failed.", min=0.1)
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Collect once, print the page, and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The address on stdout; with --once, the samples.")] = False,
) -> None:
    """Serve GPU metrics, and canaries of the given servers, for Prometheus, until Ctrl-C."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    from monitoring.alerting.prometheus import read_targets
    from monitoring.gpu import exporter as gpu_exporter
    from monitoring.gpu.collector import Collector
    from monitoring.scrape.canary import Canaries

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    collector = Collector(interval_s=interval_s, deadline_s=deadline_s, retry_s=retry_s, expected=expect, tell=tell)
    files = tuple(targets or ())
    canaries = Canaries(
        server or (),
        listed=lambda: [url for path in files for url in read_targets(path)],
        tell=tell,
        api_key_env=api_key_env,
        interval_s=canary_interval_s,
        deadline_s=canary_deadline_s,
    )
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    if server or files:
        registry.register(canaries)
    if once:
        page = gpu_exporter.once(collector, canaries, registry)
        print(gpu_exporter.as_json(page) if as_json else page, end="\n" if as_json else "")
        return
    listening = gpu_exporter.Exporter(host, port, collector, registry)
    if as_json:
        print(json.dumps({"base_url": listening.url, "pid": os.getpid()}), flush=True)
    tell(f"GPU metrics at {listening.url}/metrics, collected every {interval_s:g} s; Ctrl-C ends it.")
    gpu_exporter.run(listening, collector, canaries, tell)


def health(
    server: Annotated[str, typer.Argument(metavar="URL", help="The server's address.")],
    *,
    window_s: Annotated[float, typer.Option("--window", help="Seconds to look at it for.", min=1, max=600)] = 10.0,
    deadline_s: Annotated[
        float, typer.Option("--deadline", help="Seconds that one token may take.", min=0.1, max=600)
    ] = 5.0,
    canary: Annotated[bool, typer.Option("--canary/--no-canary", help="Ask for one token.")] = True,
    model: Annotated[str | None, typer.Option(help="Model to ask. [default: the first listed]")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds the API key.")] = None,
    exporter: Annotated[str | None, typer.Option(help="GPU exporter beside the server (nbridge exporter).")] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML file with thresholds, as for nbridge stack.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Is a server well? Exit code 1 when it is unhealthy, 0 with a warning when it is degraded."""
    from monitoring.alerting.thresholds import load
    from monitoring.health import printout
    from monitoring.health.checkup import Checkup
    from monitoring.health.verdict import examine
    from monitoring.scrape import http_exchange

    thresholds = load(settings)
    address = http_exchange.address(server)
    progress = Console(stderr=True)
    status = progress.status("looking …")
    checkup = Checkup(
        address,
        window_s=window_s,
        deadline_s=deadline_s,
        with_canary=canary,
        model=model,
        api_key_env=api_key_env,
        exporter=http_exchange.address(exporter) if exporter else None,
        on_step=lambda step: status.update(f"{step} …"),
    )
    with status if progress.is_terminal else contextlib.nullcontext():
        seen = checkup.run()
    verdict = examine(seen, thresholds, stalled_s=checkup.stalled_s)
    document = {"server": address, "checked_at": datetime.now(UTC).isoformat(timespec="seconds"), **verdict.document()}
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        Console().print(printout.page(document))
    if verdict.status == "degraded":
        progress.print(f"[yellow]degraded:[/] {escape(verdict.reasons[0].text)}")
    if verdict.status == "unhealthy":
        raise typer.Exit(1)
