"""`nbridge report`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="The run folder, runs/<run_id>, or its run.json. [default: runs/' newest that measured anything]",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document: the files written, the verdict, every cell's numbers."),
    ] = False,
) -> None:
    """Rebuild a run's report (report.html, report.md, figures) from its records.

    Every number is recomputed from the recorded requests; where run.json stores another one, the report says so.
    """
    from rich.console import Console

    from bench.errors import RunFolderError
    from bench.run.store import newest_run
    from reports.content import content
    from reports.report import read_report, write
    from reports.terminal import summary

    errors = Console(stderr=True)
    if run is None and (run := newest_run(Path("runs"))) is None:
        raise RunFolderError("runs/ holds no run that measured anything: name a run folder, or run `nbridge bench`.")
    with errors.status("Reading the records and drawing the figures …"):
        found = read_report(run)
        made = content(found)
        paths = write(run.parent if run.name == "run.json" else run, made)
    if as_json:
        files = {"html": str(paths.html), "markdown": str(paths.markdown), "figures": [str(p) for p in paths.figures]}
        typer.echo(json.dumps({**made.numbers, "files": files}, ensure_ascii=False))
        return
    Console(highlight=False).print(summary(found))
    typer.echo(f"\n{paths.html}\n{paths.markdown}")
