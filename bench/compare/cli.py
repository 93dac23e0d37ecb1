"""`nbridge compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.compare import comparison, printout
from bench.compare.inference import ALPHA, THRESHOLD
from bench.errors import PlanError


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
