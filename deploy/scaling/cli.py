"""`nbridge scale`: what an autoscaler would do with measured replicas."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.errors import SettingsError

scale = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Autoscaling played through before a cluster does it.",
)


@scale.callback()
def _root() -> None:
    """Keep `simulate` a sub-command although it is the only one."""


@scale.command()
def simulate(
    from_run: Annotated[Path, typer.Option(metavar="RUN", help="Run folder that measured one replica.")],
    run_engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="The run's engine, where it measured several.")
    ] = None,
    demand: Annotated[
        str,
        typer.Option(
            metavar="FILE|SHAPE",
            help="CSV file with seconds,rps, or with seconds alone (a line a request); or office, or step.",
        ),
    ] = "office",
    peak_rps: Annotated[
        float | None,
        typer.Option(min=0.001, help="Peak of a shape, requests/s. [default: what four replicas carry]"),
    ] = None,
    max_ttft: Annotated[str, typer.Option(metavar="TIME", help="The tolerated time to first token.")] = "1s",
    start_s: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that a replica takes to start. [default: as the run measured it]"),
    ] = None,
    provision_s: Annotated[float, typer.Option(min=0, help="Seconds until a node for a new replica is there.")] = 0.0,
    drain_s: Annotated[float, typer.Option(min=0, help="Seconds that an ended replica has for its requests.")] = 120.0,
    least: Annotated[int | None, typer.Option(min=1, help="Fewest replicas. [default: from the demand]")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Most replicas. [default: from the demand]")] = None,
    cpu_busy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=10,
            help="Share of its CPU request that an engine with work uses. [default: 1 on CPUs; 0.25 on GPUs: one of 4]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals' chance.")] = 0,
    even: Annotated[bool, typer.Option("--even", help="Arrivals without chance.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the day as a figure.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """A day of demand under the rendered thresholds, a queue alone, and the deployment guide's numbers."""
    from bench.run.store import open_run
    from deploy.scaling.contenders import contenders
    from deploy.scaling.demand import MANY, SHAPES, Demand, read, requests, shape
    from deploy.scaling.replica import replica
    from deploy.scaling.simulation import World, play
    from deploy.scaling.thresholds import scaling
    from inputs.durations import seconds_of
    from inputs.quantities import count

    try:
        limit_s = seconds_of(max_ttft, longest_s=600)
    except ValueError as error:
        raise SettingsError(f"--max-ttft: {error}.") from None
    one = replica(open_run(from_run).document, engine=run_engine, ttft_limit_s=limit_s, start_s=start_s)
    is_shape = demand in SHAPES
    if peak_rps is not None and not is_shape:
        raise SettingsError("--peak-rps is for the shapes; a file has its own rates.")
    told = Demand(shape(demand, peak_rps or 4 * one.capacity_rps)) if is_shape else read(Path(demand))
    if even and told.instants is not None:
        raise SettingsError(f"--even: {demand} says when each request came, so nothing is left to chance.")
    found = scaling(one, day=told.day, provision_s=provision_s)
    fewest, highest = least or found.least or 1, most or found.most or 1
    if highest < fewest:
        raise SettingsError(f"--most {highest} is below the fewest replicas, {fewest}.")
    world = World(
        one,
        told.day,
        told.instants,
        provision_s=provision_s,
        drain_s=drain_s,
        cpu_busy_share=cpu_busy if cpu_busy is not None else (0.25 if one.has_gpu else 1.0),
        seed=None if even else seed,
    )
    named = contenders(found, least=fewest, most=highest, drain_s=drain_s)
    if (expected := requests(told.day)) > MANY:
        print(f"{count(expected)} requests are played, {len(named)} times: that takes minutes.", file=sys.stderr)
    days = {name: play(world, scaler, fewest) for name, scaler in named.items()}
    if svg is not None:
        from deploy.scaling import figure

        try:
            svg.write_text(figure.svg(world, days), encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--svg {svg}: {error.strerror}.") from None
    document = {
        "run": one.run,
        "engine": one.engine,
        "replica": {
            "capacity_rps": one.capacity_rps,
            "start_s": one.start_s,
            "ttft_limit_s": one.ttft_limit_s,
            "places": one.places,
        },
        "thresholds": {
            "waiting": found.waiting,
            "in_work": found.in_work,
            "rate_rps": found.rate_rps,
            "down_window_s": found.down_window_s,
            "lag_s": found.lag_s,
            "least": fewest,
            "most": highest,
        },
        "derivation": dict(found.words),
        "autoscalers": {name: _figures(played) for name, played in days.items()},
        "world": {"drain_s": drain_s, "provision_s": provision_s, "cpu_busy_share": world.cpu_busy_share},
    }
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
        return
    _print(document, svg)


def _figures(played: Any) -> dict[str, Any]:
    return {
        "requests": played.requests,
        "missed": played.missed,
        "missed_share": played.missed_share,
        "refused": played.refused,
        "cut": played.cut,
        "wait_mean_s": played.wait_mean_s,
        "wait_max_s": played.wait_max_s,
        "replica_hours": played.replica_hours,
        "replicas_most": played.replicas_most,
        "changes": played.changes,
    }


def _print(document: dict[str, Any], svg: Path | None) -> None:
    from rich.console import Console

    from inputs.quantities import count, number, seconds, trimmed
    from planning.tables import table

    told = document["replica"]
    print(
        f"One replica of {document['engine']} carries {trimmed(told['capacity_rps'])} requests/s within a TTFT of "
        f"{seconds(told['ttft_limit_s'])} and starts in {seconds(told['start_s'])}."
    )
    for key in ("capacity", "lag", "rate_rps", "in_work", "waiting", "least", "most"):
        if key in document["derivation"]:
            print(f"  {key.replace('_', ' ')}: {document['derivation'][key]}")
    print()
    shown = table()
    for head in ("autoscaler", "missed", "refused", "cut", "mean wait", "longest", "replica hours", "most", "changes"):
        shown.add_column(head)
    for name, one in document["autoscalers"].items():
        shown.add_row(
            name,
            f"{one['missed_share'] * 100:.2f} %",
            count(one["refused"]),
            count(one["cut"]),
            _wait(one["wait_mean_s"]),
            _wait(one["wait_max_s"]),
            number(one["replica_hours"]),
            str(one["replicas_most"]),
            str(one["changes"]),
        )
    Console().print(shown)
    requests = next(iter(document["autoscalers"].values()))["requests"]
    busy = f"{document['world']['cpu_busy_share']:.0%}"
    print(
        f"Missed: TTFT above {seconds(told['ttft_limit_s'])}, or refused after 30 s in a queue. An engine with work is "
        f"taken to use {busy} of its CPU request (--cpu-busy)."
    )
    print(f"Of {count(requests)} requests. A model, not a measurement: docs/deploy.md says what it leaves out.")
    if svg is not None:
        print(f"The day as a figure: {svg}")


def _wait(value_s: float) -> str:
    from inputs.quantities import TIME, scaled

    return "0" if value_s < 0.0005 else scaled(value_s, TIME)
