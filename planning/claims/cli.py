"""The command `nbridge audit`."""

from pathlib import Path
from typing import Annotated

import typer

from planning.commands import Json, print_json, print_parts


def audit(
    file: Annotated[
        Path | None,
        typer.Argument(help="Claims (TOML); without it, the deployment guide's.", metavar="FILE", show_default=False),
    ] = None,
    inputs: Annotated[bool, typer.Option("--inputs", help="Show each wrong claim's inputs and their sources.")] = False,
    as_json: Json = False,
) -> None:
    """Check claims about cost, speed and size: which are wrong, the corrected values, and why.

    Exit code 1 when a claim is wrong.
    """
    from planning.claims.audit import audit as check
    from planning.claims.audit import roi_table
    from planning.claims.claimfile import guide, load_claims
    from planning.claims.printout import document, page

    claims = load_claims(file) if file else guide()
    made = check(claims)
    table = roi_table(claims)
    if as_json:
        print_json(document(made, table))
    else:
        print_parts(page(made, table, inputs=inputs), width=120)
    if made.wrong:
        raise typer.Exit(1)
