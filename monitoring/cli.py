"""`nbridge doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitoring.doctor import Finding, examine

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


def doctor(
    port: Annotated[int, typer.Option(help="The port that a server would take.", min=1, max=65535)] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings to stdout.")] = False,
) -> None:
    """Check this machine and installation, and say what to do. Exit code 3 when something will not work."""
    from checkpoints.cache import cache_dir

    progress = Console(stderr=True)
    findings: list[Finding] = []
    with progress.status("looking …") if progress.is_terminal else progress:
        findings.extend(examine(home=cache_dir(), port=port))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        table = Table("check", "", "seen", "what to do", box=None, pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, _MARKS[finding.verdict], escape(finding.seen), escape(finding.todo))
        Console().print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(3)
