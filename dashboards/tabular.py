"""Tables: rows that a screen reader can read, in full on every width, with their data to take along."""

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboards import taken
from reports.tables import Table

Rows = list[dict[str, Any]]


def table(
    rows: Rows, caption: str, *, numeric: Sequence[str] = (), words: Sequence[str] = (), links: Sequence[str] = ()
) -> None:
    """Rows as a table that a screen reader can read; the first column names the row, `links` hold addresses."""
    if not rows:
        return
    names = list(rows[0])
    taken.table(names, [[text(row[name]) for name in names] for row in rows], caption)
    kinds = {name: "number" if name in numeric else "words" if name in words else "" for name in names}
    head = "".join(
        f'<th scope="col" class="{kinds[name]}" role="columnheader">{html.escape(name)}</th>' for name in names
    )
    body = "".join(
        '<tr role="row">'
        + f'<th scope="row" role="rowheader">{html.escape(text(row[names[0]]))}</th>'
        + "".join(
            f'<td role="cell" class="{kinds[name]}" data-of="{html.escape(name, quote=True)}">'
            f"{_link(row[name]) if name in links else html.escape(text(row[name]))}</td>"
            for name in names[1:]
        )
        + "</tr>"
        for row in rows
    )
    _scrolled(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", caption)


def report_table(found: Table) -> None:
    """A table of a report, as the report lays it out."""
    taken.table(
        [f"{column.group} {column.name}".strip() for column in found.columns],
        [[entry.text for entry in row] for row in found.rows],
        found.caption,
    )
    groups = "".join(
        f'<th scope="colgroup" class="group" colspan="{count}">{html.escape(name)}</th>'
        if name
        else f'<td colspan="{count}"></td>'
        for name, count in found.groups
    )
    above = f"<tr>{groups}</tr>" if any(name for name, _ in found.groups) else ""
    head = "".join(
        f'<th scope="col" class="{"number" if column.numeric else ""}">{html.escape(column.name)}</th>'
        for column in found.columns
    )
    body = ""
    for row in found.rows:
        cells = f'<th scope="row" role="rowheader">{html.escape(row[0].text)}</th>'
        for column, entry in zip(found.columns[1:], row[1:], strict=True):
            kind = f"{'number' if column.numeric else ''} {entry.tone}".strip()
            of = html.escape(f"{column.group} {column.name}".strip(), quote=True)
            cells += f'<td role="cell" class="{kind}" data-of="{of}">{html.escape(entry.text)}</td>'
        body += f'<tr role="row">{cells}</tr>'
    _scrolled(f"<thead>{above}<tr>{head}</tr></thead><tbody>{body}</tbody>", found.caption)
    for remark in found.notes:
        st.html(f'<p class="nb-note">{html.escape(remark)}</p>')


def _scrolled(inner: str, caption: str) -> None:
    said = html.escape(caption)
    st.html(
        f'<div class="nb-scroll" tabindex="0" role="region" aria-label="{said}"><table class="nb-table" role="table">'
        f"<caption>{said}</caption>{inner}</table></div>"
    )


def text(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "–"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _link(address: Any) -> str:
    if not address:
        return "–"
    return f'<a href="{html.escape(str(address), quote=True)}" target="_blank" rel="noreferrer">Runbook</a>'


def csv_text(rows: Rows) -> str:
    """Rows as CSV with a header; what is missing stays empty."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: value if value is not None else "" for name, value in row.items()} for row in rows)
    return out.getvalue()


def csv_button(rows: Rows, name: str, label: str = "Data as CSV") -> None:
    """A download of `rows`, made when it is asked for: where figures move, a file made beforehand is gone by then."""
    st.download_button(
        label,
        lambda: csv_text(rows),
        f"neural-bridge-{name}.csv",
        "text/csv",
        key=f"csv-{name}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )
