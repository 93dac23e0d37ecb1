"""What the commands of this room share: options, and how they print."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from inputs.durations import seconds_of

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
OwnCatalog = Annotated[
    Path | None, typer.Option("--catalog", metavar="FILE", help="Your own GPUs, models and prices; they override.")
]


def duration(longest_s: float) -> Callable[[str], float]:
    """A parser of an option that is a limit of time, in seconds: 20ms, 0.02; at most `longest_s`."""

    def parse(text: str) -> float:
        try:
            return seconds_of(text, longest_s=longest_s)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from error

    return parse


def print_parts(*parts: Any, width: int = 112) -> None:
    """Print rich renderables below each other; at `width` where stdout is no terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width, highlight=False).print(*parts, sep="\n")


def print_json(document: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
