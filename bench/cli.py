"""`nbridge bench` and `nbridge export`."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import remote as remotes
from bench import sweep as sweeps
from bench.client import dialect as dialects
from bench.errors import PlanError
from bench.plans.plan import PLANS, Plan, find_plan, load_plan, validate
from bench.plans.tables import Engine, RunningServer
from bench.run import counting
from bench.run.formats import Format
from bench.run.outcome import exit_code
from monitoring.scrape.address import normalised, reachable

console = Console(stderr=True, highlight=False)


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
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; finished cells stay untouched.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: measure cells that failed or timed out again.")
    ] = False,
    repeats: Annotated[int | None, typer.Option(min=1, max=100, help="How often to measure every cell.")] = None,
    out: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
    report: Annotated[bool, typer.Option(help="Write report.html, report.md and figures at the end.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run (run.json) to stdout.")] = False,
) -> None:
    """Measure: for each engine of the plan start a vLLM server, drive the loads, write a run folder and its report.

    Without PLAN: three quantizations × three concurrency levels of a model with random weights.

    Exit codes: 0 every cell is ok; 1 some are invalid, failed, or missed the SLO; 4 nothing was measured.
    """
    display = Display(console)
    if resume is not None:
        if plan is not None or target is not None or repeats is not None:
            raise PlanError("--resume takes plan, target and repeats from the run; give only the run folder.")
        sweep = sweeps.resume(resume, display, retry_failed=retry_failed)
    elif retry_failed:
        raise PlanError("--retry-failed goes with --resume RUN.")
    else:
        sweep = _start(plan, target, api_key_env, more or [], repeats, out, display)
    total, pending = len(sweep.document["cells"]), len(sweep.pending)
    display.say(f"run {sweep.run_dir}: {pending} of {total} cells to measure")
    interrupted = False
    try:
        with display:
            sweeps.run(sweep)
    except KeyboardInterrupt:
        interrupted = True
    written = _write_report(sweep.run_dir) if report else None
    code, reasons = (130, ["interrupted"]) if interrupted else exit_code(sweep.document)
    if as_json:
        said = {"path": str(sweep.run_dir), "exit_code": code, "exit_reasons": reasons}
        print(json.dumps({**sweep.document, **said}, ensure_ascii=False))
    if written is not None:
        display.say(f"report: {written}")
    for line in _last_lines(sweep, reasons, interrupted=interrupted):
        display.say(line)
    if code:
        raise typer.Exit(code)


def _last_lines(sweep: sweeps.Sweep, reasons: list[str], *, interrupted: bool) -> Iterator[str]:
    """Why the exit code is what it is, and how to go on."""
    resume_with = f"nbridge bench --resume {shlex.quote(str(sweep.run_dir))}"
    if interrupted:
        yield f"interrupted; {len(sweep.pending)} cells are left. Go on with: {resume_with}"
        return
    yield from reasons
    if any(cell["outcome"] in sweeps.RETRIED for cell in sweep.document["cells"]):
        yield f"Measure failed cells again with: {resume_with} --retry-failed"


def _start(
    plan: str | None,
    target: str | None,
    api_key_env: str | None,
    more: list[str],
    repeats: int | None,
    out: Path,
    display: "Display",
) -> sweeps.Sweep:
    """A new run's folder, with every cell pending; nothing is written when anything is wrong with what was asked."""
    if target is not None:
        target = _one_form(target)
    chosen = load_plan(find_plan(plan), remote=target is not None)
    if repeats is not None:
        chosen = validate({**chosen.model_dump(mode="json"), "repeats": repeats}, source="--repeats")
    remote: dict[str, Any] | None = None
    refused: dict[str, str] = {}
    if target is not None or chosen.target is not None or more:
        settings = remotes.settings_of(chosen.target, target, api_key_env, more)
        settings = settings.model_copy(update={"url": _one_form(settings.url or "")})
        chosen, remote, refused = _for_target(chosen, settings, display)
    command_line = shlex.join(["nbridge", *sys.argv[1:]])
    return sweeps.start(chosen, out, display, command_line=command_line, remote=remote, refused=refused)


def _one_form(target: str) -> str:
    """The address as it goes into run.json, its reports and the load's files: whole, and without any secret."""
    try:
        return reachable(normalised(target))
    except ValueError as error:
        raise PlanError(
            f"--target: {error}. Nothing was written; a key goes into an environment variable that --api-key-env names."
        ) from None


def _for_target(plan: Plan, settings: RunningServer, display: "Display") -> tuple[Plan, dict[str, Any], dict[str, str]]:
    """The plan's loads against one server that already runs, its engines replaced by that server; what run.json says
    about it; and which loads it cannot carry, with the reason."""
    if settings.tokenizer:
        counting.load(settings.tokenizer)  # one that cannot be loaded is said now
    found = remotes.find(settings)
    display.say(f"target: {dialects.line(found.dialect)}")
    for note in found.dialect.notes:
        display.say(f"  {note}")
    refused = remotes.refusals(found, plan.loads)
    for name, why in refused.items():
        display.say(f"load {name} is not measured: {why}")
    if len(refused) == len(plan.loads):
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise PlanError(f"--target {settings.url}: no load of the plan can be carried: {reasons}.")
    engine = Engine(name="target", model=found.model, quantization="unknown", max_model_len=found.max_model_len)
    changed = plan.model_copy(update={"engines": (engine,), "name": f"target-{plan.name}", "target": settings})
    return changed, remotes.describe(found), refused


def _write_report(run_dir: Path) -> Path:
    from reports.report import write_report  # a door may call any room; nothing but nbridge.py imports a door

    return write_report(run_dir).html


class Display:
    """Shows a sweep: a progress bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=target,
            transient=True,
            disable=not target.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, visible=False)
        self._label = ""

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None:
        self._label = f"cell {number}/{total} {cell['id']}"
        self._bar.reset(self._task, description=self._label, total=cell["load"]["requests"], visible=True)

    def requests_ended(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def cell_ended(self, cell: dict[str, Any]) -> None:
        self._bar.update(self._task, visible=False)
        self.say(f"{cell['id']}: {cell_line(cell)}")


def cell_line(cell: dict[str, Any]) -> str:
    """One cell in one line: its outcome and, where it was measured, throughput and median latencies."""
    metrics = cell["metrics"]
    if not metrics or not metrics["requests"]["ok"]:
        return f"{cell['outcome']}: {cell['reason']}"
    parts = []
    if (rate := metrics["output_throughput_tok_s"]) is not None:
        parts.append(f"{rate:.1f} output tok/s")
    elif (rate := metrics["request_throughput_rps"]) is not None:
        parts.append(f"{rate:.1f} requests/s")
    for name, label in (("ttft_s", "TTFT"), ("itl_s", "ITL"), ("e2e_s", "E2E")):
        if metrics[name] and "p50" in metrics[name]:
            parts.append(f"{label} p50 {metrics[name]['p50'] * 1000:.0f} ms")
    reason = f" ({cell['reason']})" if cell["reason"] else ""
    return f"{cell['outcome']}{reason}: " + ", ".join(parts)


def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or more run folders.")],
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
