"""A part of a report that a run may or may not have: paragraphs, tables and figures under a heading of its own."""

from dataclasses import dataclass

from reports.figures.drawing import Picture
from reports.tables import Table


@dataclass(frozen=True)
class Section:
    """`id` is its anchor in the page."""

    id: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
