"""A finished run's samples as the pages that its server showed then, to be looked at in their own pace. Pure."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from bench.errors import RunFolderError
from dashboards.screens.live.sources import Seen
from monitoring.scrape.metrics import Sample
from monitoring.scrape.window import Scrape, scrape

COLUMNS = ("t_s", "source", "name", "labels", "value")


@dataclass(frozen=True)
class Recording:
    """What was sampled beside one cell: pages by the seconds since its zero, and when that zero was (Unix time)."""

    what: str
    began_s: float
    pages: tuple[Scrape, ...]

    @property
    def length_s(self) -> float:
        return self.pages[-1].at_s - self.pages[0].at_s if self.pages else 0.0

    def at(self, elapsed_s: float) -> Seen:
        """What would have been seen so many seconds after the first page, at the times of then."""
        first = self.pages[0].at_s if self.pages else 0.0
        so_far = [one for one in self.pages if one.at_s - first <= elapsed_s]
        return Seen(
            self.what,
            tuple(Scrape(self.began_s + one.at_s, one.series, self.began_s + one.at_s) for one in so_far),
        )

    def now_s(self, elapsed_s: float) -> float:
        """The time of then, so many seconds after the first page."""
        return self.began_s + (self.pages[0].at_s if self.pages else 0.0) + min(elapsed_s, self.length_s)


def recording(samples: pa.Table, what: str, began: str | None) -> Recording:
    """The samples of a cell, round by round. Raises RunFolderError when they are not what a bench writes."""
    try:
        columns = [samples[name].to_pylist() for name in COLUMNS]
        pages = tuple(_rounds(list(zip(*columns, strict=True))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{what}: its samples are not what a bench writes ({type(error).__name__}: {error})."
        ) from error
    return Recording(what, _unix_s(began), pages)


def _rounds(rows: list[tuple[Any, ...]]) -> list[Scrape]:
    """Samples come in rounds: where a series comes again, the next one has begun."""
    found: list[Scrape] = []
    page: dict[tuple[str, str], Sample] = {}
    at_s = 0.0
    for t_s, source, name, labels, value in sorted(rows, key=lambda row: row[0]):
        if source not in ("server", "gpu"):
            continue
        known = name if source == "server" else f"nbridge_gpu_{name}"
        if (known, labels) in page:
            found.append(_page(page, at_s))
            page = {}
        at_s = float(t_s)
        page[known, labels] = Sample(known, dict(json.loads(labels or "{}")), float(value))
    if page:
        found.append(_page(page, at_s))
    return found


def _page(page: dict[tuple[str, str], Sample], at_s: float) -> Scrape:
    gpus = {
        one.labels["gpu"]: one.labels
        for one in page.values()
        if one.name.startswith("nbridge_gpu_") and "gpu" in one.labels
    }
    up = [Sample("nbridge_gpu_up", labels, 1.0) for labels in gpus.values()]
    return scrape(at_s, [*page.values(), *up])


def _unix_s(began: str | None) -> float:
    try:
        return datetime.fromisoformat(str(began)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def words(elapsed_s: float, found: Recording) -> str:
    """How far a replay is."""
    return f"{min(elapsed_s, found.length_s):.0f} of {found.length_s:.0f} s"
