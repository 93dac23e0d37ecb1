"""A service-level objective as conditions on figures: read from one line, held against a cell's metrics. Pure.

    ttft_p95<0.5,tpot_p95<0.05,errors<0.01

A condition is a figure, `<` or `<=`, and a limit. Latencies (ttft, tpot, itl, e2e) have a statistic (p50, p90, p95,
p99, mean) and a limit in seconds, or with its unit (500ms, 0.5s); `errors` is the share of requests that were not
answered. Under open loops TTFT and E2E count from the schedule.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bench.errors import PlanError
from bench.run.stats.distributions import MIN_SAMPLES
from bench.run.stats.latencies import ok_only
from bench.run.stats.window import meets_slo
from inputs import quantities
from inputs.durations import seconds_of

EXAMPLE = "ttft_p95<0.5,tpot_p95<0.05,errors<0.01"
STATISTICS = (*MIN_SAMPLES, "mean")
ERRORS = "errors"
MISSED = "missed"
# Without a unit a number is seconds. Beyond these it was surely meant as milliseconds; with its unit it is taken.
_LONGEST_BARE_S = {"ttft": 30.0, "tpot": 1.0, "itl": 1.0, "e2e": 300.0}
_LONGEST = 1000  # characters of an objective
_NAMES = {"error_rate": ERRORS, "error": ERRORS, "p50": "p50", "median": "p50"}
_CONDITION = re.compile(r"([a-z0-9_]+)\s*(<=|≤|<|>=|≥|>|==|=|:)\s*(.+)", re.IGNORECASE)
_MEAN_SAMPLES = 30
_BEYOND = 10  # samples beyond a percentile; stats.MIN_SAMPLES are made of it


@dataclass(frozen=True)
class Condition:
    """`figure` is ttft, tpot, itl, e2e, errors or missed (the share of requests beyond a limit per request);
    `statistic` is None for the shares. `limit` is in seconds, or a share."""

    figure: str
    statistic: str | None
    limit: float
    strict: bool = True

    @property
    def name(self) -> str:
        return f"{self.figure}_{self.statistic}" if self.statistic else self.figure

    @property
    def text(self) -> str:
        unit = "s" if self.limit > _LONGEST_BARE_S.get(self.figure, math.inf) else ""
        return f"{self.name}{'<' if self.strict else '<='}{self.limit:.12g}{unit}"

    @property
    def words(self) -> str:
        """For a reader: “TTFT p95 < 500 ms”."""
        name = {ERRORS: "errors", MISSED: "requests beyond the limits"}.get(self.figure, self.figure.upper())
        name = f"{name} {self.statistic}" if self.statistic else name
        return f"{name} {'<' if self.strict else '≤'} {self.shown(self.limit)}"

    def shown(self, value: float) -> str:
        """A value of the figure in its unit."""
        return quantities.seconds(value) if self.statistic else quantities.share(value)

    def met(self, value: float) -> bool:
        return value < self.limit if self.strict else value <= self.limit

    @property
    def share_beyond(self) -> float | None:
        """The share of requests that may lie beyond the limit; None where a share of requests does not decide."""
        if self.statistic is None:
            return self.limit
        return None if self.statistic == "mean" or self.figure == "itl" else 1 - int(self.statistic[1:]) / 100

    def beyond(self, requests: pa.Table, limits: Mapping[str, float], *, from_schedule: bool) -> int:
        """How many of these requests lie beyond the limit, or beyond one of `limits` (per request) for `missed`."""
        ok = ok_only(requests)
        lost = len(requests) - len(ok) - int(pc.sum(pc.equal(requests["outcome"], "aborted")).as_py() or 0)
        if self.figure == ERRORS:
            return lost
        sought = dict(limits) if self.figure == MISSED else {f"{self.figure}_s": self.limit}
        late = len(ok) - int(meets_slo(ok, sought, from_schedule=from_schedule).sum())
        return late + lost if self.figure == MISSED else late

    @property
    def samples(self) -> int:
        """How many requests the figure needs before it says anything."""
        if self.figure == ERRORS:
            return 1
        if self.figure == MISSED:
            return math.ceil(round(_BEYOND / self.limit, 6)) if self.limit > 0 else MIN_SAMPLES["p99"]
        return _MEAN_SAMPLES if self.statistic == "mean" else MIN_SAMPLES[str(self.statistic)]

    def value(self, metrics: Mapping[str, Any], *, from_schedule: bool) -> float | None:
        """The figure in a cell's metrics; None when it is not known or has too few samples."""
        if self.figure == ERRORS:
            return error_share(metrics["requests"])
        if self.figure == MISSED:
            share = metrics.get("slo_share")
            return None if share is None else 1 - float(share)
        scheduled = from_schedule and self.figure in ("ttft", "e2e")
        found = metrics.get(f"{self.figure}_from_schedule_s" if scheduled else f"{self.figure}_s")
        known = found.get(self.statistic) if isinstance(found, dict) else None
        return None if known is None else float(known)


def error_share(requests: Mapping[str, Any]) -> float | None:
    """The share of a cell's requests that failed or were dropped, of those that were not aborted by us."""
    asked = requests["total"] - requests.get("aborted", 0)
    return (requests["failed"] + requests["dropped"]) / asked if asked else None


def parse(text: str, source: str = "--slo") -> tuple[Condition, ...]:
    """The conditions of a line such as EXAMPLE. Raises PlanError that names the condition, and what would work."""
    if len(text) > _LONGEST:
        raise PlanError(f"{source}: {len(text):,} characters are no objective (at most {_LONGEST:,}): {EXAMPLE}")
    parts = [part.strip() for part in text.split(",")]
    if parts and not parts[-1]:
        parts.pop()
    if not parts:
        raise PlanError(f"{source} = {text!r}: is empty. For example: {EXAMPLE}")
    found: dict[str, Condition] = {}
    for part in parts:
        one = _condition(part, source)
        if one.name in found:
            raise PlanError(f"{source}: {one.name} is limited twice, by {found[one.name].text} and {one.text}.")
        found[one.name] = one
    return tuple(found.values())


def text(conditions: Iterable[Condition]) -> str:
    """The line that `parse` reads as these conditions."""
    return ",".join(condition.text for condition in conditions)


def limits(conditions: Iterable[Condition]) -> dict[str, float]:
    """The limits per request (ttft_s, tpot_s, e2e_s) that goodput counts by: those on the highest percentile of each.

    A mean, an ITL (which tokens have) and a share of errors say nothing of a single request.
    """
    found: dict[str, tuple[int, float]] = {}
    for condition in conditions:
        if condition.figure in ("ttft", "tpot", "e2e") and condition.statistic in MIN_SAMPLES:
            percentile = int(condition.statistic[1:])
            name = f"{condition.figure}_s"
            found[name] = max(found.get(name, (0, 0.0)), (percentile, condition.limit))
    return {name: limit for name, (_, limit) in found.items()}


def _condition(part: str, source: str) -> Condition:
    where = f"{source}: {part!r}" if part else f"{source}: an empty condition between two commas"
    split = _CONDITION.fullmatch(part)
    if split is None:
        raise PlanError(f"{where}: expected FIGURE<LIMIT, for example {EXAMPLE}.")
    name, relation, limit = split[1].lower(), split[2], split[3]
    if relation == ":":
        raise PlanError(f"{where}: that is how other tools write a limit per request, in ms. Here: {EXAMPLE}.")
    if relation not in ("<", "<=", "≤"):
        raise PlanError(f"{where}: a limit is set with < or <=, for example {EXAMPLE}.")
    figure, statistic = _figure(name, where)
    seconds_or_share = _limit(limit, figure, where)
    return Condition(figure, statistic, seconds_or_share, strict=relation == "<")


def _figure(name: str, where: str) -> tuple[str, str | None]:
    if _NAMES.get(name, name) == ERRORS:
        return ERRORS, None
    figure, _, statistic = name.partition("_")
    statistic = _NAMES.get(statistic, statistic)
    if figure in _LONGEST_BARE_S and statistic in STATISTICS:
        return figure, statistic
    if figure in _LONGEST_BARE_S:
        have = f"{statistic!r} is no statistic" if statistic else f"{figure} needs a statistic"
        raise PlanError(f"{where}: {have}. Known: {', '.join(f'{figure}_{one}' for one in STATISTICS)}.")
    known = [ERRORS, *(f"{one}_{s}" for one in _LONGEST_BARE_S for s in STATISTICS)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = (
        f"Did you mean {near[0]}?"
        if near
        else f"Known: {', '.join(_LONGEST_BARE_S)} with _p50 … _p99 or _mean; errors."
    )
    raise PlanError(f"{where}: {name} is no figure. {hint}")


def _limit(words: str, figure: str, where: str) -> float:
    words = words.strip()
    if figure == ERRORS:
        return _share(words, where)
    bare = not words[-1:].isalpha()
    try:
        return seconds_of(words, longest_s=_LONGEST_BARE_S[figure] if bare else math.inf)
    except ValueError as error:
        deliberate = f" ({words}s if you mean it)" if "longer" in str(error) else ""
        raise PlanError(f"{where}: {error}{deliberate}.") from None


def _share(words: str, where: str) -> float:
    number, percent, rest = words.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if rest or not 0 < share < 1:
        hint = f" For percent write errors<{number}%." if not percent and share >= 1 else ""
        raise PlanError(
            f"{where}: errors is a share of the requests, above 0 and below 1: errors<0.01, or errors<1%.{hint}"
        )
    return share
