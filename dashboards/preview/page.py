"""One board as one HTML page: every query asked, every panel drawn, and what has no answer said so."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dashboards.errors import SettingsError
from dashboards.grafana.panels import Board, Limits, Panel, place
from dashboards.grafana.promql import substitute
from dashboards.preview.charts import SHOWN, STATUS, Frame, Named, heat_chart, line_chart, state_chart
from dashboards.preview.source import Prometheus, clock
from dashboards.preview.units import parted, words
from dashboards.theme import DARK, LIGHT

COLUMN, CELL, GAP = 62.0, 30.0, 8.0  # CSS pixels: one of 24 columns, one row of the grid, between two panels
HEADER, LEGEND = 36.0, 20.0  # a panel's head, a line of its legend
LETTER, BETWEEN = 6.4, 32.0  # a letter of the legend, and what stands between two entries
_LOOKUP = re.compile(r"label_values\((.+),\s*(\w+)\)$")


@dataclass(frozen=True)
class Asked:
    """What is shown: the time, the distance of points, and the values of the board's variables."""

    start_s: float
    end_s: float
    step_s: float
    values: Mapping[str, str]
    chosen: tuple[tuple[str, str], ...]  # label and value of each variable, for the reader


def ask(
    board: Board, source: Prometheus, *, start_s: float, end_s: float, scrape_s: float, own: Mapping[str, str]
) -> Asked:
    """What Grafana would ask for: variables looked up in order, windows of at least four scrapes.

    `own` overrides variables by name. Raises SettingsError for a name that the board does not have.
    """
    known = [variable.name for variable in board.variables]
    if strangers := set(own) - set(known):
        raise SettingsError(f"The board {board.slug} has no variable {min(strangers)!r}; it has {', '.join(known)}.")
    step_s = max(scrape_s, round((end_s - start_s) / 200))
    values = {
        "__rate_interval": f"{max(step_s + scrape_s, 4 * scrape_s):g}s",
        "__range": f"{max(1, round(end_s - start_s))}s",
    }
    chosen = []
    for variable in board.variables:
        value = own.get(variable.name) or variable.default or (variable.query if variable.kind == "text" else "")
        shown = value
        lookup = _LOOKUP.match(variable.query)
        if not value and lookup:
            found = source.label_values(lookup[2], substitute(lookup[1], values), start_s=start_s, end_s=end_s)
            value = "|".join(re.sub(r"([.\\+*?()|\[\]{}^$])", r"\\\\\1", one) for one in found)
            shown = f"all ({', '.join(found)})" if found else "none"
        values[variable.name] = value
        chosen.append((variable.label, shown))
    return Asked(start_s, end_s, step_s, values, tuple(chosen))


def render(board: Board, source: Prometheus, asked: Asked, *, note: str = "") -> str:
    """The page of `board`. Raises SourceError where Prometheus refuses a query."""
    rows, top = [], 0
    for row in board.rows:
        corners, below = place(row, top + 1)
        cards = [
            {
                "style": f"grid-column:{x + 1}/span {panel.width};grid-row:{y + 1}/span {panel.height}",
                "panel": panel,
                "body": Markup(_body(panel, source, asked)),  # noqa: S704 (our own drawing; labels are escaped there)
            }
            for panel, (x, y) in zip(row.panels, corners, strict=True)
        ]
        rows.append({"title": row.title, "line": top + 1, "cards": cards})
        top = below
    environment = Environment(loader=PackageLoader("dashboards"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("board.html").render(
        board=board,
        rows=rows,
        chosen=asked.chosen,
        note=note,
        light=LIGHT,
        dark=DARK,
        status=STATUS,
        time=f"{clock(asked.start_s, '%Y-%m-%d %H:%M:%S')} to {clock(asked.end_s)} UTC, every {asked.step_s:g} s",
    )


def _body(panel: Panel, source: Prometheus, asked: Asked) -> str:
    if panel.kind in {"number", "facts"}:
        series = [
            Named(_legend(query.legend, one.labels), one)
            for query in panel.queries
            for one in source.at(substitute(query.expr, asked.values), asked.end_s)
        ]
    else:
        series = [
            Named(_legend(query.legend, one.labels), one, query.limit)
            for query in panel.queries
            for one in source.over_time(
                substitute(query.expr, asked.values), start_s=asked.start_s, end_s=asked.end_s, step_s=asked.step_s
            )
        ]
    series = [one for one in series if one.series.points]
    if not series:
        return _absent(panel)
    if panel.kind == "number":
        return _number(panel, series)
    if panel.kind == "facts":
        return _facts(panel, series)
    width = panel.width * COLUMN + (panel.width - 1) * GAP - 16
    height = panel.height * CELL + (panel.height - 1) * GAP - HEADER
    frame = Frame(asked.start_s, asked.end_s, asked.step_s, width, height)
    if panel.kind == "states":
        return state_chart(panel, series, frame)
    if panel.kind == "heatmap":
        return heat_chart(panel, series, frame) or _absent(panel)
    shown = _foremost(series)
    key = _key(panel, shown, asked, more=len(series) - len(shown))
    used, lines = 0.0, 1
    for name, last in key:
        room = LETTER * len(f"{name} {last}") + BETWEEN
        lines, used = (lines + 1, room) if used + room > width else (lines, used + room)
    return line_chart(panel, shown, replace(frame, height=height - LEGEND * lines)) + _listed(key, shown)


def _foremost(series: list[Named]) -> list[Named]:
    """As many series as can be told apart, in their order: those that reach highest, and every limit."""
    ranked = sorted(series, key=lambda one: (not one.limit, -max(value for _, value in one.series.points)))
    kept = ranked[:SHOWN]
    return [one for one in series if any(one is other for other in kept)]


def _absent(panel: Panel) -> str:
    return f'<p class="absent">{panel.absent}</p>'


def _number(panel: Panel, series: list[Named]) -> str:
    value = series[-1].series.points[-1][1]
    figure, unit = parted(words(value, panel.unit, panel.decimals))
    return f'<p class="number {_colour(panel.limits, value)}">{figure} <small>{unit}</small></p>'


def _colour(limits: Limits | None, value: float) -> str:
    if limits is None:
        return "plain"
    return next((colour for step, colour in reversed(limits.steps) if value >= step), limits.base)


def _facts(panel: Panel, series: list[Named]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for _, heading in panel.labels)
    rows = ""
    for one in series:
        cells = "".join(f"<td>{_text(one.series.labels.get(label, '–'))}</td>" for label, _ in panel.labels)
        rows += f"<tr>{cells}</tr>"
    return f'<div class="facts"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _key(panel: Panel, shown: list[Named], asked: Asked, *, more: int) -> list[tuple[str, str]]:
    """What the legend says of each series: its name, and its value at the end of the time shown, if it has one."""
    entries = []
    for one in shown:
        at_s, value = one.series.points[-1]
        last = words(value, panel.unit, panel.decimals) if at_s > asked.end_s - 1.5 * asked.step_s else "–"
        entries.append((one.name, last))
    return [*entries, ("and lower ones:", str(more))] if more else entries


def _listed(key: list[tuple[str, str]], shown: list[Named]) -> str:
    entries = []
    for index, (name, last) in enumerate(key):
        colour = "" if index >= len(shown) else "limit red" if shown[index].limit else f"s{index}"
        mark = f'<i class="{colour}"></i>' if colour else ""
        entries.append(f"<li>{mark}{_text(name)} <b>{last}</b></li>")
    return f'<ul class="key">{"".join(entries)}</ul>'


def _legend(form: str, labels: Mapping[str, str]) -> str:
    if not form:
        return ", ".join(f"{name}={value}" for name, value in labels.items()) or "value"
    return " ".join(re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), form).split())


def _text(value: str) -> str:
    return str(Markup.escape(value))
