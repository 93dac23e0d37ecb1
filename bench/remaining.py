"""How long a sweep will still take, by what has been measured of the same loads; nothing before that. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inputs.quantities import TIME, plural, scaled

Json = Mapping[str, Any]
_FINISHED = ("ok", "invalid")  # cells that ran to their end, so that their time tells of others


@dataclass(frozen=True)
class Remaining:
    """`seconds` for `known` of the `left` cells that are pending; `basis` says from what.

    `bound`: "about" where all are known, "at least" where some are not, "at most" where some may be left out.
    """

    seconds: float
    known: int
    left: int
    basis: str
    bound: str

    def words(self, passed_s: float = 0.0) -> str:
        """In words, `passed_s` later: “about 4 min left (by the same loads on other engines)”."""
        left_s = self.seconds - passed_s
        amount = "under 10 s" if left_s < 10 else f"{self.bound} {scaled(left_s, TIME[1:4], lambda v: f'{v:.0f}')}"
        some = (
            ""
            if self.known == self.left
            else f"; {plural(self.left - self.known, 'cell')} of unknown length not counted"
        )
        return f"{amount} left (by {self.basis}{some})"


def remaining(cells: Sequence[Json], *, search: bool = False, at_most: bool = False) -> Remaining | None:
    """What the pending cells will take, their servers' starts included; None as long as nothing is known of any.

    A cell takes what the same engine and load took in other repeats; else what the load took on other engines, times
    how much slower or faster this engine was than those at loads that both have measured; else, where its time is set,
    that. `search`: searches for the capacity follow, and nobody knows how long they take. `at_most`: cells may be
    dropped.
    """
    pending = [cell for cell in cells if cell["outcome"] == "pending" and not cell.get("point")]
    took = _took(cells)
    if not took or not pending:
        return None
    total, bases, known = 0.0, [], 0
    for cell in pending:
        found = _expected(cell, took)
        if found is not None:
            known += 1
            total += found[0]
            bases.append(found[1])
    if not known:
        return None
    basis = " and ".join(dict.fromkeys(sorted(bases, key=_BASES.index)))
    basis += "; searches for the capacity not counted" if search else ""
    bound = "at least" if known < len(pending) else "at most" if at_most else "about"
    return Remaining(total + _starts_s(cells, pending), known, len(pending), basis, bound)


_SAME, _OTHERS, _SET = "the same cells in other repeats", "the same loads on other engines", "the times set in the plan"
_BASES = (_SAME, _OTHERS, _SET)
_Took = dict[tuple[str, str], float]


def _took(cells: Sequence[Json]) -> _Took:
    """(engine, load) → how long its cells took in the mean."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell["outcome"] in _FINISHED and cell.get("took_s") and not cell.get("point"):
            found.setdefault((cell["engine"]["name"], cell["load"]["name"]), []).append(float(cell["took_s"]))
    return {key: statistics.fmean(values) for key, values in found.items()}


def _expected(cell: Json, took: _Took) -> tuple[float, str] | None:
    engine, load = cell["engine"]["name"], cell["load"]["name"]
    if (same := took.get((engine, load))) is not None:
        return same, _SAME
    if cell["load"].get("seconds") and cell["load"].get("requests") is None:
        return float(cell["load"]["seconds"]), _SET
    others = [name for name, of in took if of == load]
    if not others:
        return None
    return statistics.fmean(took[name, load] * _ratio(engine, name, took) for name in others), _OTHERS


def _ratio(engine: str, other: str, took: _Took) -> float:
    """How many times as long one engine takes as another, over the loads that both have measured; 1 without any."""
    both = [load for name, load in took if name == engine and (other, load) in took]
    return (
        math.exp(statistics.fmean(math.log(took[engine, load] / took[other, load]) for load in both)) if both else 1.0
    )


def _starts_s(cells: Sequence[Json], pending: Sequence[Json]) -> float:
    """How long the servers will take to start that no cell has been measured on yet."""
    ready: dict[str, float] = {}
    begun = set()
    for cell in cells:
        if cell["outcome"] != "pending":
            begun.add((cell["engine"]["name"], cell["repeat"]))
        seconds = (cell.get("startup") or {}).get("ready_s")
        if seconds:
            ready[cell["engine"]["name"]] = float(seconds)
    if not ready:
        return 0.0
    usual = statistics.median(ready.values())
    to_start = {(cell["engine"]["name"], cell["repeat"]) for cell in pending} - begun
    return sum(ready.get(engine, usual) for engine, _ in to_start)
