"""Tables as every command of this room prints them, and numbers as JSON can hold them."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def table() -> Table:
    """An empty table without lines, its head dim."""
    return Table(box=None, pad_edge=False, header_style="dim")


def titled(title: str, shown: Table, *notes: str, note_style: str = "") -> RenderableType:
    """A table under its title, notes below. A table's own title would be wrapped to the table's width."""
    return Group(Text(title, style="bold"), shown, *(Text(note, style=note_style) for note in notes))


def finite(value: float) -> float | None:
    """`value`, or None where it is infinite or no number: JSON has neither."""
    return value if math.isfinite(value) else None
