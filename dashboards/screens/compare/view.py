"""Two runs side by side, and runs of their kind over time, as tables, figures and words. Pure.

What may be compared, and whether a figure changed, is decided by `bench.compare`, as on the command line.
"""

from typing import Any

from bench.compare.comparison import Comparison, Line
from bench.compare.history import Group, Series
from bench.compare.inference import THRESHOLD, interval
from bench.compare.likeness import Difference
from bench.compare.printout import percent
from inputs.quantities import plural

Rows = list[dict[str, Any]]

SAYS = {
    "regression": "worse",
    "improvement": "better",
    "no change shown": "no change shown",
    "insufficient": "too few repeats",
}


def difference_rows(found: list[Difference]) -> Rows:
    """By what the runs are unlike."""
    return [
        {"Fact": one.name, "Of": one.where or "the run", "Old": _plain(one.old), "New": _plain(one.new)}
        for one in found
    ]


def _plain(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def verdict(found: Comparison) -> str:
    """The comparison in words."""
    counts = {say: sum(SAYS[line.change.verdict] == say for line in found.lines) for say in SAYS.values()}
    if not found.lines:
        return "Nothing can be said: no engine and load has a valid measurement in both runs."
    parts = [f"{count} {say}" for say, count in counts.items() if count]
    text = f"Of {plural(len(found.lines), 'figure')}: {', '.join(parts)}."
    if found.verdict == "insufficient":
        text += " A verdict needs five valid repeats of each side: what is below describes, and decides nothing."
    return text


def mean(values: tuple[float, ...]) -> float | None:
    """Of a figure's repeats; None without any."""
    return sum(values) / len(values) if values else None


def table_rows(found: Comparison) -> Rows:
    """The lines as a table for people."""
    rows = []
    for line in found.lines:
        change, bounds = line.change, interval(line.change.old, line.change.new)
        rows.append(
            {
                "Engine": line.engine,
                "Load": line.load,
                "Figure": line.figure.label,
                "Old": line.figure.written(mean(change.old)),
                "New": line.figure.written(mean(change.new)),
                "Change": "–" if change.ratio_change is None else percent(change.ratio_change),
                "95 % interval": "–" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}",
                "p": "–" if change.p is None else f"{change.p:.3f}",
                "Repeats": f"{len(change.old)} + {len(change.new)}",
                "": SAYS[change.verdict],
            }
        )
    return rows


def csv_rows(found: Comparison) -> Rows:
    """The lines in base units; changes are shares (0.1: 10 % more)."""
    return [_csv_row(line) for line in found.lines]


def _csv_row(line: Line) -> dict[str, Any]:
    change, bounds = line.change, interval(line.change.old, line.change.new) or (None, None)
    return {
        "engine": line.engine,
        "load": line.load,
        "figure": line.figure.label,
        "unit": line.figure.unit,
        "old": mean(change.old),
        "new": mean(change.new),
        "old_repeats": len(change.old),
        "new_repeats": len(change.new),
        "change": change.ratio_change,
        "low": bounds[0],
        "high": bounds[1],
        "p": change.p,
        "says": SAYS[change.verdict],
    }


def words(rows: Rows) -> str:
    """The figure of changes for those who do not see it."""
    said = []
    for row in rows:
        change = "no ratio" if row["change"] is None else percent(row["change"])
        within = "" if row["low"] is None else f" ({percent(row['low'])} to {percent(row['high'])})"
        of = f"{row['run']}, " if "run" in row else ""
        said.append(f"{of}{row['engine']} at {row['load']}: {change}{within}, {row['says']}")
    return "; ".join(said)


def threshold_words() -> str:
    return f"{THRESHOLD:.0%}".replace("%", " %")


def group_of(groups: tuple[Group, ...], run_id: str) -> Group | None:
    """The group of like runs that a run is in."""
    return next((group for group in groups if any(point.run_id == run_id for point in group.points)), None)


def series_of(group: Group, place: str, label: str) -> Series | None:
    """One figure at one place over the runs of the group."""
    return next((one for one in group.series if place_name(one) == place and one.figure.label == label), None)


def place_name(one: Series | Line) -> str:
    return f"{one.engine} at {one.load}"


def history_rows(one: Series, group: Group) -> Rows:
    """A point for every run with the figure, its level beside it."""
    rows, level = [], 0
    for i, (point, value) in enumerate(zip(group.points, one.values, strict=True)):
        if level < len(one.shifts) and i >= one.shifts[level].at:
            level += 1
        if value is not None:
            rows.append({"run": i + 1, "run_id": point.run_id, "created": point.created, "value": value,
                         "level": one.levels[level], "part": level})  # fmt: skip
    return rows


def change_rows(one: Series, group: Group) -> Rows:
    """Every change of level, the newest first."""
    return [
        {
            "Since": group.points[shift.at].run_id,
            "Before": one.figure.written(shift.before),
            "After": one.figure.written(shift.after),
            "Change": percent(shift.ratio_change),
            "What else changed": "; ".join(str(d) for d in group.points[shift.at].differs) or "–",
            "": "worse" if one.is_worse(shift) else "better",
        }
        for shift in reversed(one.shifts)
    ]


def history_words(one: Series, group: Group) -> str:
    """What a series says, in a sentence."""
    runs = plural(len(group.points), "like run")
    if one.verdict == "too few runs":
        return f"{runs}, {one.measured} with this figure: too few to tell a change from noise (eight are needed)."
    if not one.shifts:
        return f"{runs}: {one.figure.label} has not left its level."
    newest = one.shifts[-1]
    what = "worse" if one.is_worse(newest) else "better"
    since = group.points[newest.at].run_id
    return f"{runs}: {one.figure.label} is {what} by {percent(newest.ratio_change)} since {since}."
