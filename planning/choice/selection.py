"""Which model to take: candidates against requirements, with the reason for every rejection. Pure.

A candidate's speed was measured in a run, or it is the GPU's bound, which no server reaches. What fails at its bound is
rejected; what passes at its bound only is accepted as unproven. What is required and not known is rejected as such.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from inputs.quantities import TIME, scaled, trimmed
from planning.catalogs import GIB, QUALITY_CLASSES
from planning.choice.candidates import Candidate
from planning.errors import BadInput

LATENCY, COST, QUALITY = "latency", "cost", "quality"


@dataclass(frozen=True)
class Requirements:
    """What a model must do; None does not matter. Times in seconds, memory over all GPUs, cost to rent.

    `min_quality`: a share (MMLU) from 0 to 1, or the guide's word (high, very-high, excellent).
    """

    max_ttft_s: float | None = None
    max_tpot_s: float | None = None
    max_e2e_s: float | None = None
    min_output_tok_s: float | None = None
    min_quality: float | str | None = None
    languages: tuple[str, ...] = ()
    licence_classes: tuple[str, ...] = ()
    min_context_tokens: int | None = None
    max_memory_bytes: float | None = None
    max_usd_per_hour: float | None = None
    max_usd_per_mtok: float | None = None
    prefer: Literal["cost", "latency", "quality"] = "cost"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value <= 0:
                raise BadInput(
                    f"{field.name} = {value:g}: a limit must be above 0; leave it out if it does not matter."
                )
        if isinstance(self.min_quality, str) and self.min_quality not in QUALITY_CLASSES:
            raise BadInput(
                f"min_quality {self.min_quality!r} is neither a share from 0 to 1 nor one of "
                f"{', '.join(QUALITY_CLASSES)}."
            )
        if isinstance(self.min_quality, int | float) and self.min_quality > 1:
            raise BadInput(f"min_quality = {self.min_quality:g}: a share of right answers is at most 1 (0.7 is 70 %).")
        if self.prefer not in (COST, LATENCY, QUALITY):
            raise BadInput(f"prefer {self.prefer!r} is not one of {COST}, {LATENCY}, {QUALITY}.")


@dataclass(frozen=True)
class Judged:
    """A candidate with the reasons against it, and what it met at its bound only."""

    candidate: Candidate
    reasons: tuple[str, ...]
    unproven: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The accepted candidates, the best first, and the rejected ones with their reasons."""

    accepted: tuple[Judged, ...]
    rejected: tuple[Judged, ...]

    @property
    def chosen(self) -> Candidate | None:
        return self.accepted[0].candidate if self.accepted else None


def select(candidates: Iterable[Candidate], requirements: Requirements) -> Selection:
    """Judge every candidate and order those that meet the requirements: measured ones first, then as preferred."""
    judged = [judge(candidate, requirements) for candidate in candidates]
    accepted = [one for one in judged if not one.reasons]
    accepted.sort(key=lambda one: (bool(one.unproven) or not one.candidate.measured, *_order(one, requirements.prefer)))
    return Selection(tuple(accepted), tuple(one for one in judged if one.reasons))


def judge(candidate: Candidate, requirements: Requirements) -> Judged:
    """Say what speaks against one candidate, and what it meets at its bound only."""
    asked = requirements
    if candidate.obstacle:
        return Judged(candidate, (candidate.obstacle, *_kind(candidate, asked)), ())
    reasons: list[str] = []
    unproven: list[str] = []
    for what, value, limit, say in (
        ("TTFT", candidate.ttft_s, asked.max_ttft_s, _seconds),
        ("TPOT", candidate.tpot_s, asked.max_tpot_s, _seconds),
        ("time of an answer", candidate.e2e_s, asked.max_e2e_s, _seconds),
        ("rent per million output tokens", candidate.usd_per_mtok, asked.max_usd_per_mtok, _usd),
    ):
        if limit is not None:
            _at_most(what, value, limit, say, candidate.measured, reasons, unproven)
    if (least := asked.min_output_tok_s) is not None:
        # The same rule turned round: a throughput is a bound from above.
        said = f"output of at least {least:,.0f} tok/s"
        if candidate.output_tok_s is None:
            reasons.append(f"{said} is required and its throughput is not known")
        elif candidate.output_tok_s < least:
            at_best = "" if candidate.measured else " at best"
            reasons.append(f"gives {candidate.output_tok_s:,.0f} tok/s{at_best}, not the {least:,.0f} required")
        elif not candidate.measured:
            unproven.append(said)
    if asked.max_usd_per_hour is not None:
        _at_most("rent per hour", candidate.usd_per_hour, asked.max_usd_per_hour, _usd, True, reasons, unproven)
    if asked.max_memory_bytes is not None:
        _at_most("GPU memory", candidate.memory_bytes, asked.max_memory_bytes, _gib, True, reasons, unproven)
    reasons += _kind(candidate, asked)
    return Judged(candidate, tuple(reasons), tuple(unproven))


def _at_most(
    what: str,
    value: float | None,
    limit: float,
    say: Callable[[float], str],
    measured: bool,
    reasons: list[str],
    unproven: list[str],
) -> None:
    if value is None:
        reasons.append(f"{what} of at most {say(limit)} is required and its own is not known")
    elif value > limit:
        reasons.append(f"{what} is {say(value)}{'' if measured else ' at best'}, above the limit of {say(limit)}")
    elif not measured:
        unproven.append(f"{what} of at most {say(limit)}")


def _kind(candidate: Candidate, asked: Requirements) -> list[str]:
    """What speaks against the model itself, whatever its speed."""
    reasons = []
    if isinstance(asked.min_quality, str):
        word = candidate.quality_class
        if word is None or QUALITY_CLASSES.index(word) < QUALITY_CLASSES.index(asked.min_quality):
            reasons.append(f"quality is {word or 'not known'}, below {asked.min_quality}")
    elif asked.min_quality is not None and (candidate.quality is None or candidate.quality < asked.min_quality):
        known = "not known" if candidate.quality is None else f"{candidate.quality:.2f}"
        reasons.append(f"quality is {known}, below {asked.min_quality:g}")
    missing = [one for one in asked.languages if one not in (candidate.languages or ())]
    if missing:
        speaks = ", ".join(candidate.languages) if candidate.languages else "not known"
        reasons.append(f"does not claim the language {' and '.join(missing)} (its languages: {speaks})")
    if asked.licence_classes and candidate.licence_class not in asked.licence_classes:
        reasons.append(f"licence is {candidate.licence_class or 'not known'}, not {' or '.join(asked.licence_classes)}")
    if asked.min_context_tokens is not None and (candidate.context_tokens or 0) < asked.min_context_tokens:
        longest = f"{candidate.context_tokens:,}" if candidate.context_tokens else "not known"
        reasons.append(f"context is {longest} tokens, below {asked.min_context_tokens:,}")
    return reasons


def _order(judged: Judged, prefer: str) -> tuple[float, ...]:
    one = judged.candidate
    worst = float("inf")
    cost = next((value for value in (one.usd_per_mtok, one.usd_per_hour) if value is not None), worst)
    latency = next((value for value in (one.e2e_s, one.tpot_s, one.ttft_s) if value is not None), worst)
    quality = -(one.quality or 0.0)
    match prefer:
        case "latency":
            return latency, cost, quality
        case "quality":
            return quality, cost, latency
        case _:
            return cost, quality, latency


def _seconds(value: float) -> str:
    return scaled(value, TIME[3:5], trimmed)


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.1 else f"${trimmed(value)}"


def _gib(value: float) -> str:
    return f"{trimmed(value / GIB)} GiB"
