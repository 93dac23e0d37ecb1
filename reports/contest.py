"""The section on a contest: what decided it, and engine by engine how it stood when it was dropped. Pure."""

from inputs.quantities import MISSING, number, seconds, share
from reports.measured.cells import Json, Report
from reports.sections.section import Section
from reports.statements.contest import contest as statement
from reports.statements.contest import contest_of
from reports.tables import Column, Entry, Table, table

_SURELY = {True: "surely", False: "within what luck does", None: ""}


def contest(report: Report) -> tuple[Section, ...]:
    """The section; none without a contest."""
    found = contest_of(report)
    if found is None:
        return ()
    cells = f"{found['budget_cells']} of {found['grid_cells']} cells"
    budget = (
        f"Decided by {found['words']} at {found['load']}, after each repeat: the worse half is dropped, but for "
        f"engines that luck may have put there, as far as {cells} reach. What is left of them goes to the winner's "
        "other cells."
    )
    return (Section("contest", "Which engine is best", (statement(report), budget), (_engines(found),)),)


def _engines(found: Json) -> Table:
    last: dict[str, float] = {}
    for one in found["rounds"]:
        last |= one["values"]
    dropped = {one["engine"]: one for one in found["dropped"]}
    order = sorted(last, key=lambda name: -last[name] if found["highest"] else last[name])
    columns = [
        Column("Engine", numeric=False),
        Column(f"{found['words']}, mean"),
        Column("Repeats"),
        Column("Behind the leader"),
        Column("Surely", numeric=False),
        Column("Outcome", numeric=False),
    ]
    rows: list[list[str | Entry]] = []
    for name in [*order, *(name for name in dropped if name not in last)]:
        gone = dropped.get(name)
        repeats = gone["after"] if gone else sum(name in one["values"] for one in found["rounds"])
        rows.append(
            [
                name,
                _figure(found, last.get(name)),
                str(repeats),
                MISSING if gone is None or gone["behind"] is None else share(gone["behind"]),
                "" if gone is None else _SURELY[gone["surely"]],
                Entry("best", "good") if name == found["winner"] else gone["reason"] if gone else "in the race",
            ]
        )
    spread = found["rounds"][-1]["sd"] if found["rounds"] else None
    note = f"Repeats of one engine differ by {share(spread)} (standard deviation), by these and what is usual."
    return table("contest", "The engines of the contest", columns, rows, (note,) if spread is not None else ())


def _figure(found: Json, value: float | None) -> str:
    if found["unit"] == "s":
        return seconds(value)
    return MISSING if value is None else f"{number(value)} {found['unit']}"
