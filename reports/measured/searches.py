"""What the searches for the capacity found, followed again from the verdicts that the records give."""

import statistics
from collections import Counter
from dataclasses import dataclass

from bench.capacity.judging import Judged
from bench.capacity.search import followed
from reports.measured.cells import Cell, Json, Report


@dataclass(frozen=True)
class Search:
    """One engine in one repeat: the answer (as run.json has it) and the points, in the order of their measurement."""

    engine: str
    repeat: int
    answer: Json
    points: tuple[Cell, ...]

    @property
    def goodput_rps(self) -> float | None:
        """Requests within the limits per second at the highest level that met the SLO; 0.0 when none did."""
        if self.answer["ended"] in ("nothing", "floor"):
            return 0.0
        found = self.answer["goodput_rps"]
        return None if found is None else float(found)

    @property
    def goodput_interval(self) -> tuple[float, float] | None:
        """The goodput over the capacity's interval: in the same ratio to it as the interval's ends to its middle."""
        goodput, value = self.goodput_rps, self.answer["value"]
        if goodput is None or value is None:
            return None
        return goodput * self.answer["low"] / value, goodput * self.answer["high"] / value


def searches(report: Report) -> tuple[Search, ...]:
    """Every search of a run, in the order of the engines."""
    verdicts = {cell.id: cell.judged for cell in report.points}

    def judged(document: Json) -> Judged:
        found = verdicts[document["id"]]
        if found is None:
            raise ValueError(f"{document['id']} has not been measured")
        return found

    found = [
        Search(
            answer["engine"],
            answer["repeat"],
            answer,
            tuple(
                cell
                for cell in report.points
                if (cell.engine, cell.repeat) == (answer["engine"], answer["repeat"]) and cell.judged is not None
            ),
        )
        for answer in followed(report.document, judged)
    ]
    return tuple(sorted(found, key=lambda one: (report.engines.index(one.engine), one.repeat)))


def median_goodput(found: list[Search]) -> float | None:
    """The median over an engine's repeats; None when one of them has no goodput."""
    values = [one.goodput_rps for one in found]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


def shown_condition(found: tuple[Search, ...]) -> str:
    """The condition that a figure of searches draws: the one that limits most of them, else the first."""
    limiting = Counter(name for one in found for name in one.answer["limiting"][:1])
    return str(limiting.most_common(1)[0][0] if limiting else next(iter(found[0].answer["limits"])))


def point_level(cell: Cell) -> float | None:
    """The level of a search's point, in requests/s or concurrent requests; None for one request at a time."""
    level = cell.document["point"]["level"]
    return None if level is None else float(level)


def point_verdict(cell: Cell) -> str:
    """“pass”, “fail” or “invalid”: a server that died under a point has not answered it."""
    verdict = cell.judged.verdict if cell.judged else "invalid"
    return "invalid" if verdict == "died" else verdict
