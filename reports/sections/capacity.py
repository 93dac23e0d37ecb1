"""The section on the measured capacity: the highest load of each engine that met the SLO, and every searched point.

Not an estimate from a model of the hardware: that, and how many servers a demand needs, stand in sections of their own.
"""

from bench.capacity import words
from inputs.quantities import MISSING, count, number, scaled, seconds, share
from inputs.quantities import TIME as TIMES
from reports.measured.cells import Cell, Report
from reports.measured.searches import Search, searches
from reports.sections.section import Section
from reports.tables import Column, Entry, Table, table

_TONES = {"pass": "good", "fail": "", "invalid": "bad", "died": "bad"}
_ENDED = {
    None: "not ended yet",
    "found": "as precise as asked for",
    "nothing": "no load meets the SLO",
    "floor": "no load meets the SLO",
    "client": "the client could not deliver more",
    "invalid": "measurements not to be believed",
    "server": "cut short by the server",
    "points": "the verdicts did not settle",
    "time": "out of time",
}


def capacity(report: Report) -> Section | None:
    """What the searches of a run found; None when it had none."""
    found = searches(report)
    if not found:
        return None
    from reports.figures.searched import searched  # it loads matplotlib, which the app does without

    picture = searched(report, found)
    slo = ", ".join(found[0].answer["slo"])
    paragraphs = (
        f"The SLO: {slo}. The capacity is where half of the measurements would meet it, by all verdicts together; the "
        "interval holds it with the stated probability, if verdicts near it are luck and far from it are not.",
        *(f"{one.engine}: {one.answer['reason']}" for one in found if one.answer["reason"]),
    )
    return Section(
        "capacity",
        "Capacity at the SLO",
        paragraphs,
        (answers(found), points(found)),
        () if picture is None else (picture,),
    )


def answers(found: tuple[Search, ...]) -> Table:
    """What each search found, a row each."""
    repeated = max(one.repeat for one in found) > 1
    columns = [
        Column("Engine", numeric=False),
        Column("Repeat"),
        Column("Capacity"),
        Column("Interval"),
        Column("Limited by", numeric=False),
        Column("Goodput at the SLO"),
        Column("Knee", numeric=False),
        Column("Points"),
        Column("Took"),
        Column("Search ended", numeric=False),
    ]
    rows: list[list[str | Entry]] = []
    for one in found:
        answer, bend = one.answer, one.answer["knee"]
        interval = f"{words.interval(answer)} ({share(answer['coverage'])})" if answer["value"] is not None else ""
        unit = words.UNITS[answer["over"]]
        rows.append(
            [
                one.engine,
                str(one.repeat) if repeated else "",
                words.capacity(answer).partition(" (")[0],
                interval,
                ", ".join(answer["limiting"]) or MISSING,
                MISSING if one.goodput_rps is None else f"{number(one.goodput_rps)} requests/s",
                f"{number(bend['low'])} to {number(bend['high'])} {unit}" if bend else "",
                count(answer["points"]),
                scaled(answer["took_s"], TIMES[2:]),
                Entry(_ENDED[answer["ended"]], "bad" if answer["ended"] in ("invalid", "server") else ""),
            ]
        )
    notes = [
        "Limited by: the conditions that the levels next above the capacity missed, the most frequent first. Knee: "
        "between these levels the median latency rises above twice what one request at a time sees."
    ]
    return table("capacity-answers", "The highest load that meets the SLO, by engine", columns, rows, tuple(notes))


def points(found: tuple[Search, ...]) -> Table:
    """Every measured point of every search."""
    names = list(dict.fromkeys(name for one in found for name in one.answer["limits"]))
    columns = [
        Column("Point", numeric=False),
        Column("Level"),
        Column("Verdict", numeric=False),
        *(Column(name, "Figures after the warm-up") for name in names),
        Column("Goodput/s"),
        Column("Requests"),
        Column("Warm-up"),
        Column("Note", numeric=False),
    ]
    rows = [_point(one, cell, names) for one in found for cell in one.points]
    note = (
        f"“{MISSING}”: too few requests. A point that can no longer pass is ended early. An invalid one is neither a "
        "pass nor a fail of the server: its reason stands under “What went wrong”."
    )
    return table("capacity-points", "Every measured point, in the order of the search", columns, rows, (note,))


def _point(one: Search, cell: Cell, names: list[str]) -> list[str | Entry]:
    judged, level = cell.judged, cell.document["point"]["level"]
    assert judged is not None  # noqa: S101 (a search's points are judged)
    at_rest = level is None
    verdict = Entry("at rest" if at_rest else judged.verdict, "" if at_rest else _TONES[judged.verdict])
    return [
        cell.id,
        "one at a time" if at_rest else words.level(one.answer["over"], level),
        verdict,
        *(_figure(name, judged.figures.get(name)) for name in names),
        number(judged.goodput_rps),
        count(judged.requests),
        seconds(judged.cut_s) if judged.cut_s else "none",
        "ended early" if cell.document.get("ended_early") else "",
    ]


def _figure(name: str, value: float | None) -> str:
    return (seconds if "_" in name else share)(value)
