"""Which model on which GPU, and why not the others; then API or own hardware for it. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from inputs.quantities import MISSING, byte_size, number, plural, seconds
from planning.choice.candidates import Candidate
from planning.choice.selection import Judged, Selection
from planning.cost.decide import Decision

Rows = list[dict[str, Any]]
PREFERENCES = {"cost": "the cheapest", "latency": "the fastest", "quality": "the best answers"}


def verdict(found: Selection) -> str:
    """The choice in a sentence or two."""
    rejected = f"{plural(len(found.rejected), 'candidate')} {'is' if len(found.rejected) == 1 else 'are'} rejected"
    if found.chosen is None:
        return f"None meets the requirements: {rejected}, each with its reasons below. {loosen(found)}".strip()
    first = found.accepted[0]
    proof = f"measured ({first.candidate.source})" if first.candidate.measured else "by bounds only: measure it"
    others = len(found.accepted) - 1
    rest = f"; {plural(others, 'other')} would do, too" if others else ""
    return (
        f"Take {first.candidate.name}: it meets the requirements, {proof}{rest}. {rejected[0].upper()}{rejected[1:]}."
    )


def loosen(found: Selection) -> str:
    """Which requirement stands alone in the way of the most candidates."""
    alone = Counter(_kind(one.reasons[0]) for one in found.rejected if len(one.reasons) == 1)
    if not alone:
        return ""
    reason, count = alone.most_common(1)[0]
    return f"{plural(count, 'candidate')} would do but for one requirement: {reason}."


def _kind(reason: str) -> str:
    """A reason without its figures, so that reasons of a kind are counted together."""
    return reason.partition(" is ")[0].partition(" (")[0].partition(" of at ")[0].partition(", not the ")[0]


def reasons(found: Selection) -> Rows:
    """How many candidates each kind of reason speaks against; one may have several."""
    counted = Counter(kind for one in found.rejected for kind in {_kind(reason) for reason in one.reasons})
    return [{"Reason": reason, "Candidates": f"{count:,}"} for reason, count in counted.most_common()]


def accepted_rows(found: Sequence[Judged]) -> Rows:
    """The candidates that meet the requirements, the best first."""
    return [
        {
            "Candidate": one.candidate.name,
            "TTFT": seconds(one.candidate.ttft_s),
            "TPOT": seconds(one.candidate.tpot_s),
            "tok/s": number(one.candidate.output_tok_s),
            "$/h": number(one.candidate.usd_per_hour),
            "$/M out": number(one.candidate.usd_per_mtok),
            "Memory": byte_size(one.candidate.memory_bytes),
            "Quality": number(one.candidate.quality, 2) if one.candidate.quality is not None else MISSING,
            "Speeds": "measured" if one.candidate.measured else "bounds",
            "Met at its bound only": "; ".join(one.unproven) or MISSING,
        }
        for one in found
    ]


def rejected_rows(found: Sequence[Judged]) -> Rows:
    """Every rejected candidate with all reasons against it."""
    return [{"Candidate": one.candidate.name, "Why not": "; ".join(one.reasons)} for one in found]


def points(found: Selection) -> Rows:
    """Cost against quality, one row for each candidate of which both are known."""
    return [
        {
            "candidate": one.candidate.name,
            "usd_per_mtok": one.candidate.usd_per_mtok,
            "quality": one.candidate.quality,
            "says": "meets the requirements" if not one.reasons else "rejected",
            "why": "; ".join(one.reasons) or "nothing against it",
        }
        for one in (*found.rejected, *found.accepted)
        if one.candidate.usd_per_mtok and one.candidate.quality
    ]


def proof(candidate: Candidate) -> str:
    """On what a candidate's speed rests."""
    return f"measured in {candidate.source}" if candidate.measured else "not measured: a share of the bounds"


def way_rows(found: Decision) -> Rows:
    """What a month costs each way, in USD, for the figure and the CSV."""
    return [
        {"way": f"{way.name} ({way.kind})" if way.kind != "own hardware" else way.name, "kind": way.kind,
         "usd_p5": way.usd.p5, "usd_p50": way.usd.p50, "usd_p95": way.usd.p95, "basis": way.basis}
        for way in found.ways
    ]  # fmt: skip
