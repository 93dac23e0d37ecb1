"""`nbridge doctor`, `exporter`, `health` and `stack`."""

import contextlib
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitoring.doctor.checks import Finding, examine

if TYPE_CHECKING:
    from monitoring.alerting.stack import Part, Plan
    from monitoring.alerting.thresholds import Thresholds

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


def stack(
    server: Annotated[list[str] | None, typer.Option(metavar="URL", help="vLLM server to watch; repeatable.")] = None,
    targets: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="File with targets (Prometheus file_sd), followed as it changes."),
    ] = None,
    exporter: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="GPU exporter of another node to scrape, too; repeatable."),
    ] = None,
    *,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with thresholds and receivers.")
    ] = None,
    from_run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Measured run to derive thresholds from.")
    ] = None,
    run_engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="The run's engine, where it measured several.")
    ] = None,
    rules: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Rule file of yours to load, too; repeatable.")
    ] = None,
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for configuration, data and logs.")] = Path(
        ".nbridge-stack"
    ),
    prometheus_port: Annotated[int, typer.Option(metavar="PORT", help="0 picks a free one.", min=0, max=65535)] = 9090,
    alertmanager_port: Annotated[
        int, typer.Option(metavar="PORT", help="0 picks a free one.", min=0, max=65535)
    ] = 9093,
    exporter_port: Annotated[int, typer.Option(metavar="PORT", help="0 picks a free one.", min=0, max=65535)] = 9400,
    own_exporter: Annotated[
        bool, typer.Option("--own-exporter/--no-own-exporter", help="Start a GPU exporter with canaries here.")
    ] = True,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the servers' API key.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write and check the configuration; start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout when ready.")] = False,
) -> None:
    """Exporter, Prometheus and Alertmanager on this machine, until Ctrl-C. Everything listens on 127.0.0.1 only."""
    from monitoring.alerting import stack as parts
    from monitoring.alerting.prometheus import Targets, read_targets, server_address
    from monitoring.scrape import http_exchange
    from monitoring.scrape.address import reachable

    # Prometheus knows of `localhost` only what this machine's table says.
    servers = tuple(reachable(server_address(url)) for url in server or ())
    files = tuple(targets or ())
    listed = [url for path in files for url in read_targets(path)]
    if not servers and not files:
        raise typer.BadParameter("nothing to watch: name a server with --server URL, or a file with --targets FILE.")
    http_exchange.key_headers(api_key_env)  # says now, and not in the exporter's log, that there is no key
    thresholds = _thresholds(settings, from_run, run_engine)
    programs = parts.find_programs()
    ports = {"prometheus": prometheus_port, "alertmanager": alertmanager_port, "exporter": exporter_port}
    with parts.locked(data):
        taken = _free_ports({name: port for name, port in ports.items() if own_exporter or name != "exporter"})
        plan = parts.Plan(
            settings=thresholds,
            targets=Targets(servers, files, tuple(server_address(url) for url in exporter or ())),
            data=data,
            ports=parts.Ports(taken["prometheus"], taken["alertmanager"], taken.get("exporter")),
            rules=tuple(rules or ()),
            api_key_env=api_key_env,
        )
        for line in parts.check_servers(thresholds, [*servers, *listed]):
            print(line, file=sys.stderr)
        prepared = parts.prepare(plan, programs)
        if check:
            print(f"The configuration in {data / 'config'} is sound; nothing was started.", file=sys.stderr)
            if as_json:
                print(json.dumps({"config": str((data / "config").absolute())}))
            return
        _run_stack(plan, prepared, as_json)


def _thresholds(settings: Path | None, from_run: Path | None, run_engine: str | None) -> "Thresholds":
    from monitoring.alerting.thresholds import load

    if from_run is None:
        if run_engine is not None:
            raise typer.BadParameter("--run-engine names an engine of the run that --from-run names.")
        return load(settings)
    from bench.run.store import open_run
    from monitoring.alerting.derivation import derive

    derived = derive(open_run(from_run).document, load(settings), engine=run_engine)
    for words in derived["derived"].values():
        print(words, file=sys.stderr)
    return load(settings, derived=derived)


def _free_ports(wanted: dict[str, int]) -> dict[str, int]:
    """The ports to use: the wanted ones, a free one for 0. Raises PortTaken with who has it."""
    from monitoring.alerting.stack import HOST, taken
    from serve.processes import port

    found: dict[str, int] = {}
    for name, number in wanted.items():
        chosen = number or next(one for one in iter(lambda: port.pick(HOST), None) if one not in found.values())
        if not port.is_free(HOST, chosen):
            raise taken(chosen, name, port.owner(chosen))
        found[name] = chosen
    return found


def _run_stack(plan: "Plan", prepared: "list[Part]", as_json: bool) -> None:
    from monitoring.alerting.stack import Stack
    from serve.processes.process import OwnedProcess

    running, ready = Stack(), False
    try:
        running.start(prepared, lambda argv, log: OwnedProcess(argv, environment=dict(os.environ), log_path=log))
        ready = True
        if as_json:
            print(json.dumps(running.document(plan)), flush=True)
        for part, process in running.running:
            print(f"{part.name:<13} {part.url:<24} process {process.pid}", file=sys.stderr)
        if not plan.settings.receivers:
            print("No receiver is set: alerts show on these pages only (docs/monitoring.md).", file=sys.stderr)
        print("Ctrl-C stops all of them.", file=sys.stderr, flush=True)
        running.watch(lambda: False)
    except KeyboardInterrupt:
        if not ready:
            raise typer.Exit(130) from None
        print("Stopping.", file=sys.stderr, flush=True)
    finally:
        running.stop()
