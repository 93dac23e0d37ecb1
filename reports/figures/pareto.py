"""Throughput against latency: one point per engine and load, and which of them no other point beats. Pure."""

from dataclasses import dataclass

from reports.measured.cells import Report
from reports.measured.loads import Load
from reports.measured.repeats import measured_pairs, metric_spread
from reports.statements.ranking import THROUGHPUT


@dataclass(frozen=True)
class Point:
    """Medians over the repeats of one engine under one load; `repeats` holds (latency, tokens/s) of each."""

    engine: str
    load: Load
    latency_s: float
    tok_s: float
    repeats: tuple[tuple[float, float], ...]


def points(report: Report, latency: str) -> list[Point]:
    """A point for every engine and load with a measured throughput and the latency of the dotted name `latency`."""
    found = []
    for engine, load in measured_pairs(report):
        cells = report.repeats(engine, load)
        pairs = [
            (x, y)
            for cell in cells
            if (x := cell.value(latency)) is not None and (y := cell.value(THROUGHPUT)) is not None
        ]
        x_spread, y_spread = metric_spread(cells, latency), metric_spread(cells, THROUGHPUT)
        if pairs and x_spread and y_spread:
            found.append(Point(engine, load, x_spread.median, y_spread.median, tuple(pairs)))
    return found


def efficient(found: list[Point]) -> list[Point]:
    """The points that no other point of the same scenario beats in one of the two and equals or beats in the other."""
    return [
        point
        for point in found
        if not any(
            other.load.scenario == point.load.scenario
            and other.latency_s <= point.latency_s
            and other.tok_s >= point.tok_s
            and (other.latency_s, other.tok_s) != (point.latency_s, point.tok_s)
            for other in found
        )
    ]
