"""The command `nbridge stack`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from monitoring.alerting.stack import Part, Plan
    from monitoring.alerting.thresholds import Thresholds


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
    gateway: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Gateway's metrics address to scrape, too; repeatable.")
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
    gateways = tuple(reachable(server_address(url)) for url in gateway or ())
    if not servers and not files and not gateways:
        raise typer.BadParameter("nothing to watch: name a server with --server URL, or a file with --targets FILE.")
    http_exchange.key_headers(api_key_env)  # says now, and not in the exporter's log, that there is no key
    thresholds = _thresholds(settings, from_run, run_engine)
    programs = parts.find_programs()
    ports = {"prometheus": prometheus_port, "alertmanager": alertmanager_port, "exporter": exporter_port}
    with parts.locked(data):
        taken = _free_ports({name: port for name, port in ports.items() if own_exporter or name != "exporter"})
        plan = parts.Plan(
            settings=thresholds,
            targets=Targets(servers, files, tuple(server_address(url) for url in exporter or ()), gateways),
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
