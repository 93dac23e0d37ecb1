"""`nbridge compare` and `nbridge history`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.compare import comparison, printout
from bench.compare.inference import ALPHA, THRESHOLD
from bench.errors import PlanError, RunFolderError
from bench.run import store

if TYPE_CHECKING:
    from bench.compare.history import Group


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A run folder, or a folder of runs of one plan.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same, with what was changed.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A fact that may differ, such as packages.vllm, engine.max_num_seqs or packages (all of them).",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The smallest change that matters, as a share (0.05: 5 %).")
    ] = THRESHOLD,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="How often a comparison of equals may find a change.")
    ] = ALPHA,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request's comment.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Did NEW get slower than OLD? Every figure with its interval, and a verdict that noise does not decide.

    Runs that are unlike are refused, with the facts that differ. Fewer than 5 valid repeats: "insufficient".

    Exit codes: 0 no regression, or insufficient; 1 a regression; 2 the runs cannot be compared.
    """
    if markdown and as_json:
        raise PlanError("--markdown and --json exclude each other: choose one.")
    found = comparison.compare(old, new, allowed=allow or [], alpha=alpha, threshold=threshold)
    if as_json:
        print(json.dumps(printout.document(found, alpha=alpha, threshold=threshold), ensure_ascii=False))
    else:
        print(printout.markdown(found) if markdown else printout.text(found))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def history(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of run folders.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A fact that may change along a history, such as packages.vllm or packages."),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest so many runs of each group.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The smallest change that matters, as a share (0.05: 5 %).")
    ] = THRESHOLD,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Take the figures that the runs hold: fast, but by the version that made each."),
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the newest group's figures over time, as SVG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the history as JSON.")] = False,
) -> None:
    """Many runs over time: did a figure leave its level for good, and from which run on?

    Unlike runs are not mixed: they make groups of their own. A change is told when three runs have it.

    Exit codes: 0 no regression, or too few runs; 1 the newest change of a figure is for the worse; 2 no runs.
    """
    from bench.compare import history as histories
    from bench.compare import history_printout

    found = histories.history(folder, allowed=allow or [], threshold=threshold, last=last, stored=stored)
    if figure is not None:
        _draw(found.groups[-1], figure)
    if as_json:
        print(json.dumps(history_printout.document(found, threshold=threshold), ensure_ascii=False))
    else:
        print(history_printout.text(found))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _draw(group: "Group", path: Path) -> None:
    from reports.figures.timeline import Panel, Step, timeline

    panels = [
        Panel(
            one.figure.label
            + ("" if one.figure.unit == "s" else f" ({one.figure.unit})")
            + f", {one.engine} at {one.load}",
            one.figure.unit,
            one.values,
            one.levels,
            [Step(shift.at, printout.percent(shift.ratio_change), one.is_worse(shift)) for shift in one.shifts],
        )
        for one in group.series
    ]
    if not panels:
        raise RunFolderError(f"{path}: nothing to draw: no run of the newest group has a valid figure.")
    with store.explained(path):
        path.write_text(timeline(panels, [point.created for point in group.points]), encoding="utf-8")
