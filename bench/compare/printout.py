"""A comparison as a table for people, as Markdown for a pull request, and as JSON. Pure."""

from collections.abc import Iterator
from typing import Any

from bench.compare.comparison import Comparison, Line
from bench.compare.inference import ALPHA, LEAST_REPEATS, THRESHOLD, interval

_HEAD = ("figure", "old", "new", "delta", "p", "n", "")
_COLUMNS = len(_HEAD)
_NAMED = 3
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
        parts.append("\n".join([" at ".join(place), *_aligned([_HEAD, *rows])]))
    for title, entries in _remarks(found):
        parts.append(f"{title}\n" + "\n".join(f"  {entry}" for entry in entries))
    return "\n\n".join([*parts, verdict_line(found)])


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(_COLUMNS)]
    for row in rows:
        cells = (row[i].rjust(widths[i]) if i in _RIGHT else row[i].ljust(widths[i]) for i in range(_COLUMNS))
        yield "  ".join(cells).rstrip()


def markdown(found: Comparison) -> str:
    """A comment for a pull request: the verdict first, then the tables. Names are set as code: nothing in them acts."""
    parts = [f"**{verdict_line(found)}**", f"old {_code(found.old)}, new {_code(found.new)}"]
    for place, rows in _places(found).items():
        lines = [f"{_code(place[0])} at {_code(place[1])}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (_HEAD, ["---", *["---:"] * len(_RIGHT), "---"], *rows)]
        parts.append("\n".join(lines))
    for title, entries in _remarks(found):
        parts.append(f"{title}\n\n" + "\n".join(f"- {_code(entry)}" for entry in entries))
    return "\n\n".join(parts)


def verdict_line(found: Comparison) -> str:
    """The verdict in a sentence that a person can act on."""
    lines = [line for line in found.lines if line.change.verdict == found.verdict]
    named = ", ".join(f"{one.figure.label} of {one.engine} at {one.load}" for one in lines[:_NAMED])
    named = _one_line(named) + (f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else "")
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
        places.setdefault((_one_line(line.engine), _one_line(line.load)), []).append(_row(line))
    return places


def _row(line: Line) -> tuple[str, ...]:
    change, figure = line.change, line.figure
    delta = "–"
    if change.ratio_change is not None:
        delta = _percent(change.ratio_change)
        if bounds := interval(change.old, change.new):
            delta += f" ({_percent(bounds[0])} to {_percent(bounds[1])})"
    means = [figure.written(sum(values) / len(values)) for values in (change.old, change.new)]
    p = "–" if change.p is None else f"{change.p:.3f}"
    return figure.label, *means, delta, p, f"{len(change.old)}+{len(change.new)}", _MARKS[change.verdict]


def _percent(share: float) -> str:
    return f"{share * 100:+.1f} %".replace("-", "−")


def _remarks(found: Comparison) -> list[tuple[str, list[str]]]:
    named = (
        ("Allowed to differ", [str(one) for one in found.allowed]),
        ("Left out", list(found.left_out)),
        ("Note", list(found.notes)),
    )
    return [(title, [_one_line(entry) for entry in entries]) for title, entries in named if entries]


def _one_line(said: str) -> str:
    """Text of a run folder, which anybody may have written, without line breaks and control characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(said.split()))


def _code(said: str) -> str:
    return f"`{_one_line(said).replace('`', chr(39))}`"
