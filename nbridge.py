"""The front door: the `nbridge` command. Each sub-command is imported only when it runs."""

import importlib
import importlib.util
import math
import os
import signal
import sys
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperGroup

# sub-command → (where it lives, what it does). Nothing of it is imported for `nbridge --help`.
COMMANDS = {
    "bench": (
        "bench.cli:bench",
        "Measure: for each engine start a server, drive the loads, write a run and its report.",
    ),
    "capacity": ("bench.cli:capacity", "Find the highest rate (or concurrency) that meets an SLO."),
    "prompts": ("bench.prompts.cli:prompts", "What a prompt file is and holds, and what of it a load would skip."),
    "report": ("reports.cli:report", "Rebuild a run's report from its records."),
    "compare": (
        "bench.compare.cli:compare",
        "Did a run get slower than another, beyond noise? A verdict.",
    ),
    "history": ("bench.compare.cli:history", "Many runs over time: where a figure left its level for good."),
    "export": ("bench.cli:export", "A run's cells, requests and samples as CSV, Parquet or JSON."),
    "golden": (
        "bench.golden.cli:golden",
        "A server of known timing that logs what it sent: to try measuring tools on.",
    ),
    "worker": ("bench.load.cli:worker", "Send loads for an `nbridge bench --workers` on another machine."),
    "serve": ("serve.cli:serve", "One vLLM server in the foreground."),
    "hidden": ("alignment.cli:hidden", "Hidden states of prompts, from a server into a file."),
    "align": ("alignment.cli:align", "Train a W-matrix from one model's states to another's, and judge it."),
    "finetune": ("checkpoints.cli:finetune", "Train a LoRA adapter on your text; perplexity before and after."),
    "exporter": ("monitoring.cli:exporter", "GPU metrics and canaries for Prometheus."),
    "health": ("monitoring.cli:health", "Is a server well? Latency, progress, GPU, and a canary, with reasons."),
    "stack": (
        "monitoring.alerting.cli:stack",
        "Exporter, Prometheus and Alertmanager on this machine for your servers.",
    ),
    "gateway": ("gateway.cli:gateway", "One door in front of many servers: failover, routing, drain."),
    "swap": ("gateway.swap.cli:swap", "Exchange a server of a gateway for another under load, without a gap."),
    "ray": ("deploy.ray.cli:ray", "One model on a Ray cluster: Ray Serve, a server in each replica, autoscaling."),
    "scale": ("deploy.scaling.cli:scale", "Autoscaling played through: a day of demand on measured replicas."),
    "render": ("deploy.rendering.cli:render", "Files for containers and Kubernetes, filled from a measured run."),
    "vram": ("planning.memory.cli:vram", "Does a model fit on a GPU, with how much context for how many requests?"),
    "cost": ("planning.cost.cli:cost", "API or own hardware: cost with ranges, break-even, and what drives it."),
    "audit": ("planning.claims.cli:audit", "Check claims about cost and speed; corrected figures for what is wrong."),
    "select": ("planning.cli:select", "Choose a model by latency, quality, language, cost and memory."),
    "prices": ("planning.cli:prices", "API, GPU and hardware prices in use, with their sources and ages."),
    "dashboard": ("dashboards.cli:dashboard", "Runs, live servers, capacity, cost and claims in the browser."),
    "models": ("checkpoints.cli:models", "List the models that are known here by name."),
    "quantize": ("checkpoints.cli:quantize", "Write a quantized copy of a model directory."),
    "fetch": ("checkpoints.cli:fetch", "Download a model from a hub."),
    "doctor": ("monitoring.cli:doctor", "Check this machine and installation, and say what to do."),
}

# As README lists them; a command that is in none comes last.
GROUPS = {
    "Measure": ("bench", "capacity", "prompts", "report", "compare", "history", "export", "worker"),
    "Serve": ("serve", "gateway", "swap", "ray", "render", "models", "quantize", "fetch", "finetune"),
    "Watch": ("health", "doctor", "stack", "exporter"),
    "Decide": ("vram", "cost", "select", "audit", "prices", "scale", "dashboard"),
    "Align": ("hidden", "align"),
}
# What stands for a value in help, in place of a Python type's name.
VALUES = {
    "<float>": "NUMBER",
    "<int>": "NUMBER",
    "<float range>": "NUMBER",
    "<int range>": "NUMBER",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "PATH",
    "<list[path]>": "PATH",
    "<list[Path]>": "PATH",
}


def _finite(ctx: Any, param: Any, value: Any) -> Any:
    """No option takes NaN or infinity: neither is a time, a share or a price, and bounds do not stop NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.", ctx=ctx, param=param)
    return value


class LazyGroup(TyperGroup):
    """Knows its commands by name and loads one when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), function)
        one = found if isinstance(found, typer.Typer) else typer.Typer(add_completion=False, rich_markup_mode=None)
        if one is not found:
            one.command(name=cmd_name)(found)
        command = typer.main.get_command(one)
        parts = (command, *getattr(command, "commands", {}).values())
        parameters: list[Any] = [parameter for part in parts for parameter in part.params]
        for parameter in parameters:
            parameter.callback = parameter.callback or _finite
            shown = VALUES.get(parameter.display_type(ctx))
            if parameter.param_type_name == "option":
                parameter.metavar = parameter.metavar or shown
            elif shown is not None:
                parameter.metavar = parameter.metavar or parameter.name.upper()
                parameter.display_type = lambda _: ""  # an argument's name says what it is
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        grouped = {name for names in GROUPS.values() for name in names}
        for title, names in {**GROUPS, "Besides": tuple(name for name in COMMANDS if name not in grouped)}.items():
            if there := [(name, COMMANDS[name][1]) for name in names if name in COMMANDS]:
                with formatter.section(title):
                    formatter.write_dl(there)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    help="Serve an open LLM with vLLM, measure what it can carry, and defend the numbers.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        print(f"nbridge {metadata.version('neural-bridge')}")
        raise typer.Exit


def _end(_: int, frame: Any) -> None:
    """End on SIGTERM as on Ctrl-C, also where SIGINT is ignored: a shell does that for what it starts with &."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if callable(on_interrupt):
        on_interrupt(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


def _on_hang_up() -> None:
    """End on SIGHUP (a closed terminal) as on SIGTERM, unless it is ignored, as nohup does."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        return
    terminals = [number for number in (1, 2) if os.isatty(number)]  # known now: a terminal that is gone is none

    def end(number: int, frame: Any) -> None:
        for terminal in terminals:  # words for it would be errors of their own, and what is to be saved would be lost
            os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
        _end(number, frame)

    signal.signal(signal.SIGHUP, end)


def _missing(error: Exception) -> str | None:
    """The package that is not installed, if an error says that; a module of ours that is not there is a fault."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (name or "").partition(".")[0]
    return package if package and importlib.util.find_spec(package) is None else None


def main() -> None:
    """Run the command line. An error that carries an `exit_code` is a message for the user, not a traceback."""
    signal.signal(signal.SIGTERM, _end)
    _on_hang_up()
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if os.environ.get("NBRIDGE_DEBUG"):
            raise
        if code is None and (missing := _missing(error)):
            print(
                f"nbridge: this needs the Python package {missing}, which is not installed here. "
                "The image nbridge-gateway has only what gateway, swap, exporter, health, doctor and golden need; "
                "nbridge-tools has the others. "
                "Elsewhere: pip install -c constraints.txt .",
                file=sys.stderr,
            )
            sys.exit(3)
        if code is None:
            kind = type(error).__name__
            print(f"nbridge: unexpected {kind}: {error} (NBRIDGE_DEBUG=1 shows where)", file=sys.stderr)
            sys.exit(4)
        print(f"nbridge: {error}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
