"""What a report is made of: the cells of a run and the report that holds them."""

import math
from dataclasses import dataclass
from typing import Any

from bench.capacity.judging import Judged
from reports.measured.curves import Curve
from reports.measured.differences import Difference
from reports.measured.loads import Load
from reports.measured.timelines import Timeline

Json = dict[str, Any]
NUMBERS_SHOWN = ("ok", "invalid")  # outcomes whose records cover the whole cell


@dataclass(frozen=True)
class Cell:
    """One engine configuration × one load × one repeat. `metrics` come from the records; None without records.

    `judged`: what a point of a search says of its level; None for the cells of the plan.
    """

    id: str
    engine: str
    load: Load
    repeat: int
    outcome: str
    reason: str | None
    metrics: Json | None
    differences: tuple[Difference, ...]
    records: int | None
    records_error: str | None
    ttft: Curve | None
    itl: Curve | None
    chunk_gap: Curve | None
    document: Json
    judged: Judged | None = None
    over_time: Timeline | None = None

    @property
    def valid(self) -> bool | None:
        """Whether every validity check passed; None when the cell was not checked."""
        validity = self.document.get("validity")
        return None if validity is None else bool(validity.get("valid"))

    @property
    def shown(self) -> bool:
        """Numbers may be shown: the cell ran to its end, valid or not."""
        return self.outcome in NUMBERS_SHOWN and self.metrics is not None and bool(self.records)

    @property
    def measured(self) -> bool:
        """Numbers may be compared: the cell ran to its end and no check failed."""
        return self.outcome == "ok" and self.valid is not False and self.shown

    def value(self, name: str) -> float | None:
        """A metric by its dotted name (`ttft_s.p50`, `memory.server_peak_bytes`); None when absent."""
        found: Any = self.metrics
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


@dataclass(frozen=True)
class Report:
    """All that a report says, before it is put into words, tables and figures.

    `points` are the cells of searches for the capacity, each at a level of its own: they are compared with nothing.
    """

    folder: str
    document: Json
    cells: tuple[Cell, ...]
    quality: tuple[Json, ...] = ()  # an entry for each engine whose quality was asked for: bench.run.quality.results
    quality_differs: tuple[str, ...] = ()  # the engines of which run.json stores another quality than their rows give
    points: tuple[Cell, ...] = ()

    @property
    def every(self) -> tuple[Cell, ...]:
        """All that was measured: the plan's cells and the points of searches."""
        return (*self.cells, *self.points)

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engine configurations, in the order of the plan; the first is the baseline."""
        return tuple(dict.fromkeys(cell.engine for cell in self.every))

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads from light to heavy, closed before open, scenario by scenario."""
        found = list(dict.fromkeys(cell.load for cell in self.cells))
        scenarios = list(dict.fromkeys(load.scenario for load in found))
        return tuple(sorted(found, key=lambda load: (scenarios.index(load.scenario), load.kind, load.level or 0.0)))

    @property
    def measured(self) -> tuple[Cell, ...]:
        """The cells whose numbers may be compared."""
        return tuple(cell for cell in self.cells if cell.measured)

    def repeats(self, engine: str, load: Load) -> tuple[Cell, ...]:
        """The measured repeats of one engine under one load."""
        return tuple(cell for cell in self.measured if cell.engine == engine and cell.load == load)

    def of_engine(self, engine: str) -> tuple[Cell, ...]:
        """All cells of one engine configuration, whatever became of them."""
        return tuple(cell for cell in self.cells if cell.engine == engine)
