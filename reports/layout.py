"""A report's content as one self-contained HTML file, and as Markdown that links the figures."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.content import NOTHING_TO_DRAW, Content
from reports.figures.drawing import VARIABLES, Picture
from reports.figures.svg import themed
from reports.sections.problems import affected
from reports.sections.section import Section
from reports.tables import Table

_HERE = Path(__file__).parent
_UNIT = re.compile(r"([\d≤≥]) ((?:\d|ms|µs|s|%|×|B|[KMG]iB|tokens|tok/s)(?![a-z]))")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def html(content: Content) -> str:
    """The HTML page: no script, no outside request; everything that came from a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=lambda value: unbroken(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        inline=lambda picture: Markup(themed(picture.svg.strip(), VARIABLES)),  # noqa: S704 - text in it is escaped
        affected=affected,
        nothing_to_draw=NOTHING_TO_DRAW,
    )
    return environment.get_template("report.html").render(
        content=content,
        style=Markup((_HERE / "templates" / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        embedded=Markup(embedded(content.numbers)),  # noqa: S704 - `embedded` escapes
    )


def unbroken(text: str) -> str:
    """`text` with a number and its unit kept on one line."""
    return _UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", text)


def embedded(document: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _md(text: str) -> str:
    """`text` as literal Markdown on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def markdown(content: Content) -> str:
    """The same content as Markdown; figures are linked from figures/."""
    lines = [f"# {_md(content.title)}", "", f"{_md(content.subtitle)}.", "", _md(content.verdict), ""]
    if content.loads:
        lines += ["## Key figures", "", *_md_table(content.key_figures)]
    if content.repeats:
        lines += _md_table(content.repeats)
    lines += ["## In words", "", *(f"- {_md(statement)}" for statement in content.statements), ""]
    if content.capacity:
        lines += _md_section(content.capacity)
    if content.loads:
        lines += ["## Throughput against latency", "", *_md_pictures(content.performance)]
        lines += ["## Distributions of latency", "", *_md_pictures(content.distributions)]
        lines += [line for section in content.over_time for line in _md_section(section)]
        lines += ["## Memory", "", *_md_pictures(content.memory, "No engine stated what it uses.")]
    lines += [line for section in content.sections for line in _md_section(section)]
    if content.cells:
        lines += ["## All cells", "", *(line for t in content.cells for line in _md_table(t))]
    lines += ["## Validity and reconciliation", ""]
    lines += [line for t in content.trust for line in _md_table(t)] or ["No cell was checked.", ""]
    lines += ["## What went wrong", "", *_md_problems(content)]
    lines += ["## What was run, and on what", "", *(line for t in content.setting for line in _md_table(t))]
    lines += [f"- **{_md(name)}**: {_md(value)}" for name, value in content.environment]
    lines += ["", "## Definitions", ""]
    lines += [f"- **{_md(term)}**: {_md(meaning)}" for term, meaning in content.definitions]
    lines += ["", "## Reproduce", ""]
    for command in content.reproduce:
        lines += ["    " + " ".join(command.split())]
    return "\n".join(lines) + "\n"


def _md_section(section: Section) -> list[str]:
    lines = [f"## {_md(section.title)}", ""]
    lines += [line for paragraph in section.paragraphs for line in (_md(paragraph), "")]
    lines += _md_pictures(section.pictures) if section.pictures else []
    return lines + [line for t in section.tables for line in _md_table(t)]


def _md_table(table: Table) -> list[str]:
    names = [_md(f"{column.group} {column.name}".strip()) for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_md(entry.text) for entry in row] for row in table.rows]
    grid = ["| " + " | ".join(row) + " |" for row in (names, rules, *rows)]
    notes = [line for note in table.notes for line in (_md(note), "")]
    return [f"**{_md(table.caption)}**", "", *grid, "", *notes]


def _md_pictures(pictures: tuple[Picture, ...], otherwise: str = NOTHING_TO_DRAW) -> list[str]:
    if not pictures:
        return [otherwise, ""]
    return [
        line
        for picture in pictures
        for line in (f"![{_md(picture.description)}](figures/{picture.name}.svg)", "", _md(picture.caption), "")
    ]


def _md_problems(content: Content) -> list[str]:
    if not content.problems:
        return ["Nothing: every cell gave a valid measurement.", ""]
    lines = []
    for problem in content.problems:
        lines += [f"### {_md(problem.title)}", "", f"Cells: {_md(affected(problem))}", ""]
        for paragraph in problem.paragraphs:
            lines += [f"> {_md(line)}" for line in paragraph.splitlines() if line.strip()]
            lines += [""]
    return lines
