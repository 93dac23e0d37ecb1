"""`nbridge bench` and `nbridge export`."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import sweep as sweeps
from bench.errors import PlanError
from bench.order import Asked, order
from bench.plans.plan import PLANS, find_plan, load_plan, validate
from bench.quality import passes
from bench.run.formats import Format
from bench.run.outcome import NOTHING, exit_code
from inputs.quantities import plural

if TYPE_CHECKING:
    from bench.compare.turns import Pair, Said

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
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; finished cells stay untouched.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: measure cells that failed or timed out again.")
    ] = False,
    repeats: Annotated[int | None, typer.Option(min=1, max=100, help="How often to measure every cell.")] = None,
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
    asked = Asked(plan, target, api_key_env, tuple(more or ()), repeats)
    work = _work(asked, against, allow or [], resume, out, display, retry_failed=retry_failed)
    parts = [work] if isinstance(work, sweeps.Sweep) else [work.old, work.new]
    for part in parts:
        total, pending = len(part.document["cells"]), len(part.pending)
        judged = f", quality of {plural(len(part.unjudged), 'engine')}" if part.unjudged else ""
        display.say(f"run {part.run_dir}: {pending} of {total} cells to measure{judged}")
    interrupted = False
    try:
        with display:
            sweeps.run(work) if isinstance(work, sweeps.Sweep) else work.run(display)
    except KeyboardInterrupt:
        interrupted = True
    written = [_write_report(part.run_dir) for part in parts] if report else []
    found = None if interrupted or isinstance(work, sweeps.Sweep) else work.compared()
    code, reasons = (130, ["interrupted"]) if interrupted else _ended(parts, found)
    if as_json:
        print(json.dumps(_document(parts, found, code, reasons), ensure_ascii=False))
    elif found is not None:
        print(found.text)
    for page in written:
        display.say(f"report: {page}")
    for line in _last_lines(parts, reasons, interrupted=interrupted):
        display.say(line)
    if code:
        raise typer.Exit(code)


def _work(
    asked: Asked,
    against: str | None,
    allow: list[str],
    resume: Path | None,
    out: Path,
    display: "Display",
    *,
    retry_failed: bool,
) -> "sweeps.Sweep | Pair":
    """What shall be measured: one run or two by turns, new or taken up again."""
    command_line = shlex.join(["nbridge", *sys.argv[1:]])
    if resume is not None:
        if asked != Asked() or against is not None or allow:
            raise PlanError("--resume takes plan, target, repeats and baseline from the run; give only the run folder.")
        sweep = sweeps.resume(resume, display, retry_failed=retry_failed)
        if "against" not in sweep.document:
            return sweep
        from bench.compare import turns  # where it is used: scipy's statistics take a second

        return turns.resumed(sweep, display, retry_failed=retry_failed)
    if retry_failed:
        raise PlanError("--retry-failed goes with --resume RUN.")
    if against is not None:
        from bench.compare import turns

        return turns.begin(against, asked, out, display, allowed=allow, command_line=command_line)
    if allow:
        raise PlanError("--allow goes with --against BASELINE.")
    chosen = load_plan(find_plan(asked.plan), remote=asked.target is not None)
    if asked.repeats is not None:
        chosen = validate({**chosen.model_dump(mode="json"), "repeats": asked.repeats}, source="--repeats")
    sweep = order(chosen, asked, display.say).sweep(out, display, command_line)
    sweep.save()
    return sweep


def _ended(parts: list[sweeps.Sweep], found: "Said | None") -> tuple[int, list[str]]:
    """(exit code, why it is not 0). Of two sides the new one's counts, and the old one's where it measured nothing."""
    code, reasons = exit_code(parts[-1].document)
    if found is None or code == NOTHING:
        return code, reasons
    of_old, why = exit_code(parts[0].document)
    if of_old == NOTHING:
        return NOTHING, [f"baseline: {one}" for one in why]
    return (found.exit_code, [*reasons, found.verdict]) if found.exit_code else (code, reasons)


def _document(parts: list[sweeps.Sweep], found: "Said | None", code: int, reasons: list[str]) -> dict[str, Any]:
    """What --json prints: the run, or both runs and what they say about each other."""
    ended = {"exit_code": code, "exit_reasons": reasons}
    runs = [{**part.document, "path": str(part.run_dir)} for part in parts]
    if len(runs) == 1:
        return {**runs[0], **ended}
    return {"old": runs[0], "new": runs[1], "comparison": found and found.document, **ended}


def _last_lines(parts: list[sweeps.Sweep], reasons: list[str], *, interrupted: bool) -> Iterator[str]:
    """Why the exit code is what it is, and how to go on."""
    resume_with = f"nbridge bench --resume {shlex.quote(str(parts[-1].run_dir))}"
    if interrupted:
        judged = sum(len(part.unjudged) for part in parts)
        left = f"{sum(len(part.pending) for part in parts)} cells"
        left += f" and the quality of {plural(judged, 'engine')}" if judged else ""
        yield f"interrupted; {left} are left. Go on with: {resume_with}"
        return
    yield from reasons
    of_all = [one for part in parts for one in (*part.document["cells"], *passes.engines(part.document))]
    if any(one["outcome"] in sweeps.RETRIED for one in of_all):
        yield f"Measure failed cells again with: {resume_with} --retry-failed"


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
