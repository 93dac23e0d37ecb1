"""A comparison as a table for people, as Markdown for a pull request, and as JSON. Pure."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from bench.compare.comparison import Comparison, Line
from bench.compare.inference import ALPHA, LEAST_REPEATS, THRESHOLD, interval

_HEAD = ("figure", "old", "new", "delta", "p", "n", "")
_COLUMNS = len(_HEAD)
_NAMED = 3
_UNFOLDED = 14  # rows that a comment shows at once
_NOTE = "Note"
_RIGHT = range(1, _COLUMNS - 1)
_MARKS = {"regression": "REGRESSION", "improvement": "improvement", "no change shown": "~", "insufficient": "too few"}


def document(found: Comparison, *, alpha: float = ALPHA, threshold: float = THRESHOLD) -> dict[str, Any]:
    """All of it, for programs. Values are one per repeat, in the figure's unit; changes are shares (0.1: 10 % more)."""
    return {
        "old": found.old,
        "new": found.new,
        "verdict": found.verdict,
        "exit_code": found.exit_code,
        "alpha": alpha,
        "threshold": threshold,
        "least_repeats": LEAST_REPEATS,
        "figures": [_entry(line) for line in found.lines],
        "allowed": [
            {"name": d.name, "where": d.where, "old": _plain(d.old), "new": _plain(d.new)} for d in found.allowed
        ],
        "left_out": list(found.left_out),
        "notes": list(found.notes),
    }


def _plain(value: Any) -> Any:
    """A setting as JSON: what is no plain value becomes its text."""
    return value if value is None or isinstance(value, str | int | float | bool | list | dict) else str(value)


def _entry(line: Line) -> dict[str, Any]:
    change = line.change
    return {
        "engine": line.engine,
        "load": line.load,
        "figure": line.figure.name,
        "unit": line.figure.unit,
        "higher_is_better": line.figure.higher_is_better,
        "old": list(change.old),
        "new": list(change.new),
        "change": change.ratio_change,
        "interval": interval(change.old, change.new),
        "p_mann_whitney": change.p_mann_whitney,
        "p_family": change.p_family,
        "p": change.p,
        "verdict": change.verdict,
    }


def text(found: Comparison) -> str:
    """A table for each engine and load, and the verdict at the end."""
    parts = [f"old: {found.old}\nnew: {found.new}"]
    for place, rows in _places(found).items():
        parts.append("\n".join([" at ".join(place), *aligned([_HEAD, *rows], _RIGHT)]))
    for title, entries in _remarks(found):
        parts.append(f"{title}\n" + "\n".join(f"  {entry}" for entry in entries))
    return "\n\n".join([*parts, verdict_line(found)])


def aligned(rows: list[tuple[str, ...]], right: Collection[int]) -> Iterator[str]:
    """Rows as lines of a table; the columns `right` are set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (row[i].rjust(width) if i in right else row[i].ljust(width) for i, width in enumerate(widths))
        yield "  ".join(cells).rstrip()


def markdown(found: Comparison) -> str:
    """A comment for a pull request: the verdict, what changed, and all figures, folded away where they are many.

    Names are set as code: nothing in them acts.
    """
    parts = [f"**{verdict_line(found, _code)}**", f"old {_code(found.old)}, new {_code(found.new)}"]
    tables = []
    for place, rows in _places(found).items():
        tables.append(f"{_code(place[0])} at {_code(place[1])}\n\n{_table(_HEAD, rows)}")
    if len(found.lines) <= _UNFOLDED:
        parts += tables
    else:
        changed = [line for line in found.lines if line.change.verdict in ("regression", "improvement")]
        if changed:
            rows = [(_cell(line.engine), _cell(line.load), *_row(line)) for line in changed]
            parts.append(_table(("engine", "load", *_HEAD), rows))
        parts.append(_folded(f"All {len(found.lines)} figures", tables))
    for title, entries in _remarks(found):
        lines = "\n".join(f"- {_code(entry)}" for entry in entries)
        if title == _NOTE:
            parts.append(f"{title}\n\n{lines}")
        else:
            parts.append(_folded(f"{title} ({len(entries)})", [lines]))
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    numbers = range(len(head) - _COLUMNS + 1, len(head) - 1)
    ruler = ["---:" if i in numbers else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))


def _folded(title: str, parts: list[str]) -> str:
    """Shown when it is clicked on. GitHub wants the blank lines."""
    inside = "\n\n".join(parts)
    return f"<details>\n<summary>{title}</summary>\n\n{inside}\n\n</details>"


def _cell(said: str) -> str:
    """A name in a table: a bar would end its cell, also within code."""
    return _code(said).replace("|", "\\|")


def verdict_line(found: Comparison, written: Callable[[str], str] | None = None) -> str:
    """The verdict in a sentence that a person can act on; `written` sets the names in it."""
    name = written or one_line
    lines = [line for line in found.lines if line.change.verdict == found.verdict]
    named = ", ".join(f"{one.figure.label} of {name(one.engine)} at {name(one.load)}" for one in lines[:_NAMED])
    named += f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    match found.verdict:
        case "regression":
            return f"regression: {named}"
        case "improvement":
            return f"improvement: {named}; nothing got worse beyond the threshold"
        case "insufficient":
            uncounted = "; those left out do not count" if found.left_out else ""
            fewest = min((min(len(line.change.old), len(line.change.new)) for line in lines), default=0)
            return (
                f"insufficient: a verdict needs {LEAST_REPEATS} valid repeats on each side and there are {fewest}. "
                f"Measure with --repeats {LEAST_REPEATS} or more{uncounted}."
            )
        case _:
            return "no change shown: none that is both beyond the noise and beyond the threshold"


def _places(found: Comparison) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    places: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for line in found.lines:
        places.setdefault((one_line(line.engine), one_line(line.load)), []).append(_row(line))
    return places


def _row(line: Line) -> tuple[str, ...]:
    change, figure = line.change, line.figure
    delta = "–"
    if change.ratio_change is not None:
        delta = percent(change.ratio_change)
        if bounds := interval(change.old, change.new):
            delta += f" ({percent(bounds[0])} to {percent(bounds[1])})"
    means = [figure.written(sum(values) / len(values)) for values in (change.old, change.new)]
    p = "–" if change.p is None else f"{change.p:.3f}"
    return figure.label, *means, delta, p, f"{len(change.old)}+{len(change.new)}", _MARKS[change.verdict]


def percent(share: float) -> str:
    """A change as people read it, with its sign."""
    return f"{share * 100:+.1f} %".replace("-", "−")


def _remarks(found: Comparison) -> list[tuple[str, list[str]]]:
    named = (
        ("Allowed to differ", [str(one) for one in found.allowed]),
        ("Left out", list(found.left_out)),
        (_NOTE, list(found.notes)),
    )
    return [(title, [one_line(entry) for entry in entries]) for title, entries in named if entries]


def one_line(said: str) -> str:
    """Text of a run folder, which anybody may have written, without line breaks and control characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(said.split()))


def _code(said: str) -> str:
    return f"`{one_line(said).replace('`', chr(39))}`"
