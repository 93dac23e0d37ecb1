"""`nbridge bench` and `nbridge export`."""

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from bench import sweep as sweeps
from bench.capacity.size import Over
from bench.capacity.task import require_objective
from bench.display import Display
from bench.ending import document, ended, last_lines
from bench.errors import PlanError
from bench.execution import run
from bench.formats import Format
from bench.order import Asked, machines, order, require_engines_of, require_own_engines
from bench.plans.plan import PLANS, adapting, find_plan, load_plan, only_searching, validate
from bench.plans.tables import Arrival
from bench.run.beforehand import longest, short_loads
from bench.run.slo import EXAMPLE
from inputs.durations import seconds_of
from inputs.quantities import plural

if TYPE_CHECKING:
    from bench.compare.turns import Pair

console = Console(stderr=True, highlight=False)


def _time(text: str) -> float:
    try:
        return seconds_of(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


def bench(
    plan: Annotated[
        str | None,
        typer.Argument(
            help=f"A plan's TOML file, or one of: {', '.join(sorted(p.stem for p in PLANS.glob('*.toml')))}."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="URL", help="Measure a server that already runs, with the plan's loads.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the target's API key.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="KEY=VALUE",
            help="What else has to be said to reach the target: any key of a plan's [target], e.g. endpoint=chat, "
            "model=NAME, headers.api-key=VARIABLE, dialect.ignore_eos=false.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="BASELINE",
            help="Measure a baseline by turns with PLAN, then compare: a run folder (its plan is measured again), "
            "another plan, or a server's address. Exit code 1 on a regression.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --against: a fact that may differ between the two beside engine and target, such as slo.ttft_s.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Send the loads from N workers on other machines (nbridge worker), not from here."
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="With --workers: where workers find this machine.")
    ] = "127.0.0.1:5557",
    on: Annotated[
        str | None,
        typer.Option(
            metavar="RAY",
            help="Measure on the nodes of a Ray cluster: ray://HOST[:PORT] is its head; ray is this machine's own.",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="With --on: N engines at once on the processors of one machine. [default: 1]"
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; finished cells stay untouched.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: measure cells that failed or timed out again.")
    ] = False,
    repeats: Annotated[int | None, typer.Option(min=1, max=100, help="How often to measure every cell.")] = None,
    adaptive: Annotated[
        bool,
        typer.Option("--adaptive", help="Drop engines that are behind; at most half of the cells are measured."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
    report: Annotated[bool, typer.Option(help="Write report.html, report.md and figures at the end.")] = True,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the run (run.json) to stdout; with --against both, and the comparison."),
    ] = False,
) -> None:
    """Measure: for each engine of the plan start a vLLM server, drive the loads, write a run folder and its report.

    Without PLAN: three quantizations × three concurrency levels of a model with random weights.

    Exit codes: 0 every cell is ok; 1 some are invalid, failed, or missed the SLO, or a regression; 4 nothing was
    measured.
    """
    display = Display(console)
    asked = Asked(plan, target, api_key_env, tuple(more or ()), repeats, adaptive)
    order_of = partial(_work, asked, against, allow or [], resume, out, display, retry_failed=retry_failed)
    if on is not None:
        require_own_engines(asked, against=against, workers=workers)
        from bench.cluster.driver import Driver, joined  # where it is used: Ray is an extra, and large

        with joined(on, at_once, display.say) as cluster:
            work = order_of(environment=cluster.measuring)
            _carry_out(work, display, report=report, as_json=as_json, measure=lambda one: Driver(one, cluster).run())
        return
    if at_once is not None:
        raise PlanError("--at-once goes with --on RAY: without it, one engine is measured after the other.")
    work = order_of()
    if workers is not None:
        for part in _parts(work):
            part.machines = machines(workers, listen, part.plan)
    _carry_out(work, display, report=report, as_json=as_json)


def capacity(
    plan: Annotated[
        str | None,
        typer.Argument(help="A plan's file or a bundled plan: its engines, and the requests of its first load."),
    ] = None,
    slo: Annotated[
        str | None, typer.Option(metavar="LINE", help=f'What is to be met, such as "{EXAMPLE}" [default: the plan\'s]')
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="URL", help="Search a server that already runs, not the plan's engines.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the target's API key.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KEY=VALUE", help="What else has to be said to reach the target, as for bench."),
    ] = None,
    over: Annotated[
        Over | None, typer.Option(help="rate: requests per second, open loop. concurrency: users. [default: rate]")
    ] = None,
    arrival: Annotated[Arrival | None, typer.Option(help="Over rate: how requests arrive. [default: poisson]")] = None,
    precision: Annotated[
        float | None, typer.Option(help="End when the interval is ± this share of the capacity. [default: 0.05]")
    ] = None,
    max_time_s: Annotated[
        float | None,
        typer.Option("--max-time", metavar="TIME", parser=_time, help="Longest search of an engine. [default: 15min]"),
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="The first rate, or number of users. [default: estimated]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted search; its points stay.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
    report: Annotated[bool, typer.Option(help="Write report.html, report.md and figures at the end.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run (run.json) to stdout.")] = False,
) -> None:
    """Find the highest rate (or concurrency) that meets an SLO, of a server or of each engine of a plan.

    Exit codes: 0 found; 1 no load meets the SLO, or the search was cut short; 4 nothing was measured.
    """
    display = Display(console)
    asked = Asked(plan, target, api_key_env, tuple(more or ()))
    options = {
        "slo": slo, "over": over, "arrival": arrival, "precision": precision, "max_time_s": max_time_s, "start": start,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    if resume is None:
        # nobody chose the default plan, whose own search is a short one at the end of a sweep
        chosen = only_searching(load_plan(find_plan(plan), remote=target is not None), given, anew=plan is None)
        require_objective(chosen)
        sweep = order(chosen, asked, display.say).sweep(out, display, shlex.join(["nbridge", *sys.argv[1:]]))
        sweep.save()
    elif asked != Asked() or given:
        raise PlanError("--resume takes plan, target and SLO from the run; give only the run folder.")
    else:
        sweep = sweeps.resume(resume, display)
    _carry_out(sweep, display, report=report, as_json=as_json)


def _parts(work: "sweeps.Sweep | Pair") -> list[sweeps.Sweep]:
    """The run, or both sides of a pair, the new one last."""
    return [work] if isinstance(work, sweeps.Sweep) else [work.old, work.new]


def _carry_out(
    work: "sweeps.Sweep | Pair",
    display: Display,
    *,
    report: bool,
    as_json: bool,
    measure: Callable[[sweeps.Sweep], None] = run,
) -> None:
    """Measure what is pending, write reports, say what came of it, and end with its exit code."""
    parts = _parts(work)
    for part in parts:
        total, pending = len(part.document["cells"]), len(part.pending)
        judged = f", quality of {plural(len(part.unjudged), 'engine')}" if part.unjudged else ""
        cells = f": {pending} of {total} cells to measure{judged}" if total else ""
        display.say(f"run {part.run_dir}{cells}")
        for said in filter(None, (longest(part.document), short_loads(part.document))):
            display.say(said)
    interrupted = False
    try:
        with display:
            measure(work) if isinstance(work, sweeps.Sweep) else work.run(display)
    except KeyboardInterrupt:
        interrupted = True
    shown = [_reported(part.run_dir, write_files=report) for part in parts]
    found = None if interrupted or isinstance(work, sweeps.Sweep) else work.compared()
    code, reasons = (130, ["interrupted"]) if interrupted else ended(parts, found)
    if as_json:
        print(json.dumps(document(parts, found, code, reasons), ensure_ascii=False))
    elif found is not None:
        print(found.text)
    else:
        Console(highlight=False).print(shown[0][0])
        if answers := parts[0].document.get("capacity"):
            print("\n".join(f"{one['engine']}: {one['said']}" for one in answers))
    for _, page in shown:
        if page is not None:
            display.say(f"report: {page}")
    for line in last_lines(parts, reasons, interrupted=interrupted):
        display.say(line)
    if code:
        raise typer.Exit(code)


def _work(
    asked: Asked,
    against: str | None,
    allow: list[str],
    resume: Path | None,
    out: Path,
    display: Display,
    *,
    retry_failed: bool,
    environment: dict[str, Any] | None = None,
) -> "sweeps.Sweep | Pair":
    """What shall be measured: one run or two by turns, new or taken up again; on this machine, or on one of which
    `environment` tells."""
    command_line = shlex.join(["nbridge", *sys.argv[1:]])
    if resume is not None:
        if asked != Asked() or against is not None or allow:
            raise PlanError("--resume takes plan, target, repeats and baseline from the run; give only the run folder.")
        sweep = sweeps.resume(resume, display, retry_failed=retry_failed, environment=environment)
        if environment is not None:
            require_engines_of(sweep)
        if "against" not in sweep.document:
            return sweep
        from bench.compare import turns  # where it is used: scipy's statistics take a second

        return turns.resumed(sweep, display, retry_failed=retry_failed)
    if retry_failed:
        raise PlanError("--retry-failed goes with --resume RUN.")
    if against is not None and asked.adaptive:
        raise PlanError("--adaptive chooses among the engines of one plan; it does not go with --against.")
    if against is not None:
        from bench.compare import turns

        return turns.begin(against, asked, out, display, allowed=allow, command_line=command_line)
    if allow:
        raise PlanError("--allow goes with --against BASELINE.")
    chosen = load_plan(find_plan(asked.plan), remote=asked.target is not None)
    if asked.repeats is not None:
        chosen = validate({**chosen.model_dump(mode="json"), "repeats": asked.repeats}, source="--repeats")
    if asked.adaptive or chosen.adaptive is not None:
        chosen = adapting(chosen, display.say, elsewhere=environment is not None)
    sweep = order(chosen, asked, display.say).sweep(out, display, command_line, environment)
    if environment is not None:
        require_engines_of(sweep)
    sweep.save()
    return sweep


def _reported(run_dir: Path, *, write_files: bool) -> tuple[RenderableType, Path | None]:
    """The run's table and verdict for the terminal, and its page, if it was to be written."""
    from reports.content import content  # a door may call any room; nothing but nbridge.py imports a door
    from reports.report import read_report, write
    from reports.terminal import summary

    found = read_report(run_dir)
    return summary(found), write(run_dir, content(found)).html if write_files else None


def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="One or more run folders.")],
    to: Annotated[Format, typer.Option(help="File format; json is one object a line.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: <run_id>-export.")] = None,
    chunks: Annotated[bool, typer.Option("--chunks", help="Also into CSV: every chunk's instant and tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files and their rows to stdout.")] = False,
) -> None:
    """Write a run's cells, requests and timed samples as tables for other programs; columns carry units."""
    from bench.export import export as write

    folder = out or Path(f"{runs[0].resolve().name}-export")
    written = write(runs, to, folder, chunks=chunks)
    if as_json:
        print(json.dumps({str(path): rows for path, rows in written.items()}))
        return
    for path, rows in written.items():
        console.print(f"{path}: {rows:,} rows", markup=False)
