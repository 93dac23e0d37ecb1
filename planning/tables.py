"""Tables as every command of this room prints them, and numbers as JSON can hold them."""

import math
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_BETWEEN = 2  # columns of the screen between two of the table
_READABLE = 16  # a column of words is not made narrower, unless it needs no more


class WholeTable(Table):
    """A table whose figures are never cut or broken: where columns do not fit side by side, a row is a paragraph.

    Figures are the columns set flush right. Other columns may be wrapped, at spaces alone.
    """

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        """As rich's; a figure is not wrapped."""
        options.setdefault("no_wrap", options.get("justify") == "right")
        super().add_column(header, *args, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._narrowest(console) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._paragraphs()

    def _narrowest(self, console: Console) -> int:
        """The width below which a figure would be cut, or words would stand in a column too narrow to read."""
        width = _BETWEEN * (len(self.columns) - 1)
        for column in self.columns:
            cells = [console.measure(cell) for cell in (column.header, *column.cells)]
            whole = max(cell.maximum for cell in cells)
            words = max(cell.minimum for cell in cells)
            width += whole if column.no_wrap else max(words, min(whole, _READABLE))
        return width

    def _paragraphs(self) -> RenderResult:
        heads = [str(column.header) for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            name, *rest = (str(cell) for cell in row)
            said = [f"{head} {cell}".strip() for head, cell in zip(heads[1:], rest, strict=True) if cell]
            yield Text(name)
            yield Padding(Text(" · ".join(said)), (0, 0, 0, 4))


def table() -> Table:
    """An empty table without lines, its head dim."""
    return WholeTable(box=None, pad_edge=False, header_style="dim")


def titled(title: str, shown: Table, *notes: str, note_style: str = "") -> RenderableType:
    """A table under its title, notes below. A table's own title would be wrapped to the table's width."""
    return Group(Text(title, style="bold"), shown, *(Text(note, style=note_style) for note in notes))


def finite(value: float) -> float | None:
    """`value`, or None where it is infinite or no number: JSON has neither."""
    return value if math.isfinite(value) else None
