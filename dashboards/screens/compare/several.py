"""Several runs beside one baseline: a verdict for each, every figure with a column for each. Pure.

Each is held against the baseline by itself, as `view` has it of two.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.comparison import Comparison, Line
from bench.compare.inference import interval
from bench.compare.likeness import Difference
from bench.compare.printout import percent
from dashboards.screens.compare import view
from inputs.quantities import plural
from reports.names import listing

Rows = list[dict[str, Any]]
_WHEN = re.compile(r"^\d{8}T\d{6}Z-(?=.)")
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Held:
    """A run beside the baseline, by its `name` in tables. `found` is None where it could not be held: `refused` are the
    facts for which, `problem` what else stood against it. `unlike`: all facts that differ, those allowed included."""

    name: str
    run_id: str
    found: Comparison | None = None
    unlike: tuple[Difference, ...] = ()
    refused: tuple[Difference, ...] = ()
    problem: str | None = None


def names(ids: Sequence[str]) -> dict[str, str]:
    """Runs by what tells them apart in a table's head: without the time of their start, where that suffices."""
    short = {one: _WHEN.sub("", one) for one in ids}
    every = list(short.values())
    return {one: name if every.count(name) == 1 else one for one, name in short.items()}


def verdict(held: Sequence[Held], old: str) -> str:
    """What is established of all of them, in words."""
    said = []
    for word, verdicts in (("worse", "regression"), ("better", "improvement"), ("no change shown", "no change shown")):
        if which := [one.name for one in held if one.found and one.found.lines and one.found.verdict == verdicts]:
            said.append(f"{word}: {listing(which, len(which))}")
    few = [one.name for one in held if one.found and one.found.lines and one.found.verdict == "insufficient"]
    if few:
        said.append(f"too few repeats to decide: {listing(few, len(few))}")
    if empty := [one.name for one in held if one.found and not one.found.lines]:
        said.append(f"nothing valid in common: {listing(empty, len(empty))}")
    if refused := [one.name for one in held if one.found is None]:
        said.append(f"{NOT_COMPARED}: {listing(refused, len(refused))}")
    return f"{plural(len(held), 'run')} beside {old}. {'; '.join(said)[:1].upper()}{'; '.join(said)[1:]}."


def verdict_rows(held: Sequence[Held]) -> Rows:
    """A row for each run: how many figures are better and worse, and by which facts it is unlike the baseline."""
    return [_verdict_row(one) for one in held]


def _verdict_row(one: Held) -> dict[str, Any]:
    lines = one.found.lines if one.found else ()
    counts = {say: sum(view.SAYS[line.change.verdict] == say for line in lines) for say in view.SAYS.values()}
    facts = list(dict.fromkeys(difference.name for difference in one.unlike))
    word = NOT_COMPARED
    if one.found is not None:
        word = view.SAYS[one.found.verdict] if lines else "nothing in common"
    return {
        "Run": one.run_id,
        "": word,
        **{f"{say[0].upper()}{say[1:]}": str(count) if lines else None for say, count in counts.items()},
        "Unlike in": listing(facts, 6) if facts else "nothing that matters" if one.problem is None else None,
    }


def difference_rows(held: Sequence[Held], *, refused: bool) -> Rows:
    """By what each run is unlike the baseline: the facts for which it was refused, or those that were allowed."""
    return [
        {"Run": one.name, **row}
        for one in held
        for row in view.difference_rows([d for d in one.unlike if (d in one.refused) is refused])
    ]


def table_rows(held: Sequence[Held]) -> Rows:
    """Every figure of the baseline, with a column for each run that was held against it."""
    compared = [one for one in held if one.found]
    lines = {one.name: {_place(line): line for line in one.found.lines} for one in compared if one.found}
    places = {place: line for known in lines.values() for place, line in known.items()}
    return [
        {
            "Engine": engine,
            "Load": load,
            "Figure": figure,
            "Old": line.figure.written(view.mean(line.change.old)),
            **{one.name: _cell(lines[one.name].get((engine, load, figure))) for one in compared},
        }
        for (engine, load, figure), line in places.items()
    ]


def _place(line: Line) -> tuple[str, str, str]:
    return line.engine, line.load, line.figure.label


def _cell(line: Line | None) -> str | None:
    if line is None:
        return None
    change, bounds = line.change, interval(line.change.old, line.change.new)
    parts = [line.figure.written(view.mean(change.new))]
    if change.ratio_change is not None:
        within = f" ({percent(bounds[0])} to {percent(bounds[1])})" if bounds else ""
        parts.append(f"{percent(change.ratio_change)}{within}")
    return ", ".join([*parts, view.SAYS[change.verdict]])


def csv_rows(held: Sequence[Held]) -> Rows:
    """Every figure of every run in base units, as of two runs, with the run in front."""
    return [{"run": one.run_id, **row} for one in held if one.found for row in view.csv_rows(one.found)]


def remarks(held: Sequence[Held], what: str) -> list[str]:
    """The `notes`, or what was `left_out`, of every comparison; what holds for several is said once."""
    said: dict[str, list[str]] = {}
    for one in held:
        for text in getattr(one.found, what) if one.found else ():
            said.setdefault(text, []).append(one.name)
    compared = sum(one.found is not None for one in held)
    return [text if len(which) == compared else f"{listing(which, 6)}: {text}" for text, which in said.items()]
