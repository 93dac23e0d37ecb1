"""What a board is made of: panels with their queries, rows of panels, and the variables that a reader may set.

Plain data. `dashboards.grafana.foundation` turns it into Grafana's JSON, `dashboards.preview` draws it without Grafana.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

# lines: a value over time. number: one value now. heatmap: a histogram over time. states: coloured spans over time.
# facts: a table of label values.
Kind = Literal["lines", "number", "heatmap", "states", "facts"]
Colour = Literal["green", "yellow", "red", "blue"]

WIDTH = 24  # Grafana's grid is 24 columns wide


@dataclass(frozen=True)
class Query:
    """One PromQL expression; `legend` names its series, with labels as {{label}}. A `limit` is not a measurement but
    what one is compared with: dashed."""

    expr: str
    legend: str = ""
    limit: bool = False


@dataclass(frozen=True)
class Limits:
    """Where a value's colour changes: `base` below the first step, then each (value, colour) from its value upwards."""

    base: Colour
    steps: tuple[tuple[float, Colour], ...]


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is Grafana's name of it; `absent` is what is shown where there is no value."""

    kind: Kind
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    limits: Limits | None = None
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    stacked: bool = False
    absent: str = "no data"
    names: tuple[tuple[float, str, Colour], ...] = ()  # what a value of `states` is called
    labels: tuple[tuple[str, str], ...] = ()  # the columns of `facts`: label, heading


class Options(TypedDict, total=False):
    """What a panel may say beyond its kind, words, unit and queries; see `Panel`."""

    width: int
    height: int
    limits: Limits | None
    minimum: float | None
    maximum: float | None
    decimals: int | None
    stacked: bool
    absent: str
    names: tuple[tuple[float, str, Colour], ...]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """Panels under one heading, placed from left to right and wrapped at the grid's width."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What a reader may set. `choice`: values of a label, several or all, looked up by `query`; `text`: typed in,
    with `query` as its first content."""

    kind: Literal["choice", "text"]
    name: str
    label: str
    description: str
    query: str
    default: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard; `slug` names its file and its address in Grafana."""

    slug: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def place(row: Row, top: int) -> tuple[list[tuple[int, int]], int]:
    """(x, y) of each panel of `row` when its first line begins at `top`, and the top of what follows.

    A panel that does not fit beside the others begins a new line, under the highest panel of the last one.
    """
    corners, x, y, height = [], 0, top, 0
    for panel in row.panels:
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        corners.append((x, y))
        x, height = x + panel.width, max(height, panel.height)
    return corners, y + height


def high_is_bad(warn: float, bad: float) -> Limits:
    """Green below `warn`, yellow from there, red from `bad`."""
    return Limits("green", ((warn, "yellow"), (bad, "red")))


def low_is_bad(bad: float, warn: float) -> Limits:
    """Red below `bad`, yellow below `warn`, green from there."""
    return Limits("red", ((bad, "yellow"), (warn, "green")))


def lines(title: str, description: str, unit: str, *queries: Query, **options: Unpack[Options]) -> Panel:
    """Values over time, from 0 unless `minimum` says otherwise."""
    return Panel("lines", title, description, unit, queries, **_with(options, minimum=0.0))


def number(title: str, description: str, unit: str, expr: str, **options: Unpack[Options]) -> Panel:
    """One value, as it is at the end of the shown time; gone from Prometheus is gone from the panel."""
    return Panel("number", title, description, unit, (Query(expr),), **_with(options, width=3, height=3))


def heatmap(title: str, description: str, unit: str, expr: str, **options: Unpack[Options]) -> Panel:
    """How many observations a second fell into each bucket of a histogram, over time. `expr` keeps the label le."""
    return Panel("heatmap", title, description, unit, (Query(expr, "{{le}}"),), **options)


def _with(options: Options, **defaults: Unpack[Options]) -> Options:
    defaults.update(options)
    return defaults
