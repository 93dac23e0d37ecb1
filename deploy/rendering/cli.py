"""`nbridge render`: deployment files filled from a measured run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.errors import SettingsError

if TYPE_CHECKING:
    from deploy.rendering.measured import Figures
    from monitoring.alerting.thresholds import Thresholds

render = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Deployment files, filled from a measured run where one is given, with the derivations as comments.",
)
_FROM_RUN = typer.Option("--from-run", metavar="RUN", help="Run folder that measured one replica.")
_ENGINE = typer.Option("--run-engine", metavar="NAME", help="The run's engine, where it measured several.")
_TTFT = typer.Option("--max-ttft", metavar="TIME", help="The tolerated time to first token.")
_DEMAND = typer.Option("--demand", metavar="FILE|SHAPE", help="CSV file with seconds,rps; or office, or step.")
_PEAK = typer.Option("--peak-rps", min=0.001, help="Peak of a shape, requests/s.")
_START = typer.Option(
    "--start-s", min=0, help="Seconds that a replica takes to start. [default: as the run measured it]"
)
_PROVISION = typer.Option("--provision-s", min=0, help="Seconds until a node for a new replica is there.")


@render.command()
def kubernetes(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Write the overlay there.")],
    from_run: Annotated[Path, _FROM_RUN],
    *,
    run_engine: Annotated[str | None, _ENGINE] = None,
    onto: Annotated[str, typer.Option(help="The overlay of deploy/kubernetes to lay it onto: prod or dev.")] = "prod",
    namespace: Annotated[str, typer.Option(help="The namespace that all of it is in.")] = "default",
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Prometheus, as KEDA reaches it.")
    ] = "http://prometheus-operated.monitoring.svc:9090",
    max_ttft: Annotated[str, _TTFT] = "1s",
    demand: Annotated[str | None, _DEMAND] = None,
    peak_rps: Annotated[float | None, _PEAK] = None,
    start_s: Annotated[float | None, _START] = None,
    provision_s: Annotated[float, _PROVISION] = 0.0,
) -> None:
    """An overlay for `kubectl apply -k`: replicas, scaling, probes, drain, memory and alerts from a measured run."""
    from deploy.rendering import kubernetes as overlay
    from deploy.rendering.measured import summary

    found = _figures(from_run, run_engine, max_ttft, demand, peak_rps, start_s, provision_s)
    settings, why_not = _alerts(from_run, found.replica.engine)
    texts = overlay.files(found, out, onto=onto, namespace=namespace, prometheus=prometheus, settings=settings)
    names = overlay.written(texts, out)
    for line in [*summary(found), *([f"not derived: Alerts: {why_not}"] if why_not else [])]:
        print(line, file=sys.stderr)
    print(f"Written to {out}: {', '.join(names)}. kubectl apply -k {out}", file=sys.stderr)


@render.command()
def compose(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Write it there; .env and keys of an earlier time are kept.")
    ],
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="A model to serve; twice. [default: demo-1m and demo-1m-b]")
    ] = None,
    from_run: Annotated[Path | None, _FROM_RUN] = None,
    run_engine: Annotated[str | None, _ENGINE] = None,
    max_ttft: Annotated[str, _TTFT] = "1s",
    start_s: Annotated[float | None, _START] = None,
) -> None:
    """A folder for `docker compose up`: two models, the gateway, Prometheus, Alertmanager, Grafana; new random keys."""
    from deploy.rendering import compose as folder
    from deploy.rendering.measured import summary
    from monitoring.alerting.thresholds import load

    models = tuple(model or ("demo-1m", "demo-1m-b"))
    if len(models) != 2:
        raise SettingsError(f"--model is given {len(models)} times; the compose file has two servers: name two models.")
    settings, notes, stall_s, memory_gib = load(), [], None, None
    if from_run is not None:
        found = _figures(from_run, run_engine, max_ttft, None, None, start_s, 0.0)
        stall_s, memory_gib = found.stall_s, found.memory_limit_gib
        wanted = ("capacity", "stall", "memory", "not derived: Memory")
        notes = [line for line in summary(found) if line.startswith(wanted)]
        derived, why_not = _alerts(from_run, found.replica.engine)
        settings = derived or settings
        notes += [f"not derived: Alerts: {why_not}"] if why_not else list(settings.derived.values())
        notes.append("not derived: Weights: each model has one server here, so nothing is shared out.")
    elif run_engine is not None:
        raise SettingsError("--run-engine names an engine of the run that --from-run names.")
    texts = folder.files((models[0], models[1]), settings, notes=notes)
    once = folder.environment((models[0], models[1]), stall_s=stall_s, memory_gib=memory_gib)
    is_new = folder.write(texts, once, out)
    for note in notes:
        print(note, file=sys.stderr)
    keys = "with new random keys in keys/" if is_new else "where .env and keys/ stay as they were"
    print(f"Written to {out}, {keys}. Then, in that folder: docker compose up -d", file=sys.stderr)


def _figures(
    from_run: Path,
    engine: str | None,
    max_ttft: str,
    demand: str | None,
    peak_rps: float | None,
    start_s: float | None,
    provision_s: float,
) -> "Figures":
    from bench.run.store import open_run
    from deploy.rendering.measured import figures
    from deploy.scaling.demand import SHAPES, read, shape
    from inputs.durations import seconds_of

    try:
        limit_s = seconds_of(max_ttft, longest_s=600)
    except ValueError as error:
        raise SettingsError(f"--max-ttft: {error}.") from None
    day = None
    if demand is not None and demand not in SHAPES:
        if peak_rps is not None:
            raise SettingsError("--peak-rps is for the shapes; a file has its own rates.")
        day = read(Path(demand)).day
    elif peak_rps is not None:
        day = shape(demand or "office", peak_rps)
    elif demand is not None:
        raise SettingsError(f"--demand {demand} is a shape without a height: give it one with --peak-rps.")
    document = open_run(from_run).document
    return figures(document, engine=engine, ttft_limit_s=limit_s, day=day, start_s=start_s, provision_s=provision_s)


def _alerts(from_run: Path, engine: str) -> "tuple[Thresholds | None, str | None]":
    """The alerts' thresholds from the run, or why there are none."""
    from bench.run.store import open_run
    from monitoring.alerting.derivation import derive
    from monitoring.alerting.thresholds import load
    from monitoring.errors import SettingsError as NotDerived

    try:
        return load(derived=derive(open_run(from_run).document, load(), engine=engine)), None
    except NotDerived as error:
        return None, str(error)
