"""Claims held against what follows from their inputs: right, wrong (with the corrected value and why), or unsupported.

A claim is right when the claimed range and the corrected range lie inside one another, within the claim's tolerance
(5 % unless it says another): a point inside a claimed range confirms it, and so does a claim inside what is possible.
"""

import math
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from planning.claims import comparison, formula
from planning.claims.claimfile import Claim, ClaimFile, Comparison, Given, guide
from planning.claims.comparison import WalkStep
from planning.claims.formula import Span
from planning.claims.lookups import Looked, look_up
from planning.cost.wording import span_text, times_text
from planning.errors import BadInput, PlanningError

RIGHT: Literal["right"] = "right"
WRONG: Literal["wrong"] = "wrong"
UNSUPPORTED: Literal["unsupported"] = "unsupported"
Verdict = Literal["right", "wrong", "unsupported"]
_TENFOLD = (0.95, 1.05)


@dataclass(frozen=True)
class Finding:
    """What became of one claim. `corrected` is None where nothing can be computed; `walk` leads a “times cheaper” claim
    from what it says to what holds; `inputs` are the numbers used, each with its source."""

    id: str
    where: str
    text: str
    unit: str
    claimed: Span
    corrected: Span | None
    verdict: Verdict
    codes: tuple[str, ...]
    reason: str
    inputs: tuple[str, ...]
    walk: tuple[WalkStep, ...] = ()

    @property
    def claimed_text(self) -> str:
        return span_text(self.claimed, self.unit)

    @property
    def corrected_text(self) -> str:
        if self.corrected is None:
            return "cannot be computed"
        return times_text(self.corrected[0]) if self.walk else span_text(self.corrected, self.unit)


@dataclass(frozen=True)
class Audit:
    """The findings of a file of claims, in its order."""

    title: str
    source: str
    findings: tuple[Finding, ...]

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict == verdict)

    @property
    def right(self) -> tuple[Finding, ...]:
        return self.of(RIGHT)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        return self.of(WRONG)

    @property
    def unsupported(self) -> tuple[Finding, ...]:
        return self.of(UNSUPPORTED)


@dataclass(frozen=True)
class RoiRow:
    """A row of a return-on-investment table in USD, computed from its inputs, and what the document claims."""

    solution: str
    upfront_usd: float
    monthly_usd: float
    claimed: tuple[float, float, float, float]

    def total_usd(self, months: int) -> float:
        return self.upfront_usd + months * self.monthly_usd

    @property
    def month_12_usd(self) -> float:
        return self.total_usd(12)

    @property
    def month_24_usd(self) -> float:
        return self.total_usd(24)


def audit(file: ClaimFile, *, on: date | None = None) -> Audit:
    """Return what becomes of every claim, with API prices of the day `on` (today when None).

    Raises BadInput or UnknownName, naming the file and the claim, when an input cannot be found.
    """
    findings: list[Finding] = []
    spans: dict[str, tuple[Span, Span | None]] = {}
    for claim in file.claims:
        try:
            finding = _check(claim, file, spans, on)
        except PlanningError as error:
            raise type(error)(f"{file.title}: claim {claim.id!r}: {error}") from None
        findings.append(finding)
        spans[claim.id] = (finding.claimed, finding.corrected)
    return Audit(file.title, file.source, tuple(findings))


def roi_table(
    file: ClaimFile | None = None, *, api_usd_per_month: float | None = None, on: date | None = None
) -> list[RoiRow]:
    """Return the guide's (or a file's) return-on-investment table computed from its inputs.

    `api_usd_per_month` replaces what the file says of the API's month: the same table with the corrected price.
    """
    file = file or guide()
    inputs = {name: look_up(given, {}, on).span for name, given in file.inputs.items() if given.claim is None}
    if api_usd_per_month is not None:
        inputs["api_usd_per_month"] = (api_usd_per_month, api_usd_per_month)
    rows = []
    for row in file.roi:
        upfront, monthly = (formula.evaluate(text, inputs)[0] for text in (row.upfront, row.monthly))
        rows.append(RoiRow(row.solution, upfront, monthly, row.claimed))
    return rows


def agree(claimed: Span, corrected: Span, tolerance: float) -> bool:
    """Whether one range lies inside the other, ends being allowed to differ by the share `tolerance`."""
    return _inside(claimed, corrected, tolerance) or _inside(corrected, claimed, tolerance)


def _inside(inner: Span, outer: Span, tolerance: float) -> bool:
    low = outer[0] - abs(outer[0]) * tolerance if math.isfinite(outer[0]) else outer[0]
    high = outer[1] + abs(outer[1]) * tolerance if math.isfinite(outer[1]) else outer[1]
    return low <= inner[0] and inner[1] <= high


def _check(claim: Claim, file: ClaimFile, spans: dict[str, tuple[Span, Span | None]], on: date | None) -> Finding:
    if claim.unsupported is not None:
        codes = (claim.code, *claim.also) if claim.code else claim.also
        return Finding(
            claim.id,
            claim.where,
            claim.text,
            claim.unit,
            claim.claimed,
            None,
            UNSUPPORTED,
            codes,
            claim.unsupported,
            (),
        )
    if claim.comparison is not None:
        return _compared(claim, claim.comparison, on)
    assert claim.formula is not None  # noqa: S101 (the file's own check; this tells the type checker)
    given: dict[str, Given] = {**file.inputs, **claim.inputs}
    formulas = [claim.formula, *(extra.formula for extra in claim.figures.values())]
    used = dict.fromkeys(name for text in formulas for name in formula.names(text))
    if missing := [name for name in used if name not in given]:
        raise BadInput(f"a formula uses `{missing[0]}`, which is no input. Known: {', '.join(given) or 'none'}.")
    looked = {name: look_up(given[name], spans, on) for name in used}
    values = {name: value.span for name, value in looked.items()}
    corrected = formula.evaluate(claim.formula, values)
    extra = {
        name: span_text(formula.evaluate(figure.formula, values), figure.unit) for name, figure in claim.figures.items()
    }
    right = agree(claim.claimed, corrected, claim.tolerance)
    finding = Finding(
        id=claim.id,
        where=claim.where,
        text=claim.text,
        unit=claim.unit,
        claimed=claim.claimed,
        corrected=corrected,
        verdict=RIGHT if right else WRONG,
        codes=() if right else _codes(claim, corrected),
        reason="",
        inputs=tuple(_input_text(name, value) for name, value in looked.items()),
    )
    return replace(finding, reason=_reason(claim, finding, looked, extra))


def _compared(claim: Claim, stated: Comparison, on: date | None) -> Finding:
    walk = comparison.walk(claim.claimed, stated, on=on, tolerance=claim.tolerance, text=claim.text)
    corrected = (walk.corrected, walk.corrected)
    right = agree(claim.claimed, corrected, claim.tolerance)
    return Finding(
        id=claim.id,
        where=claim.where,
        text=claim.text,
        unit=claim.unit or "times",
        claimed=claim.claimed,
        corrected=corrected,
        verdict=RIGHT if right else WRONG,
        codes=walk.codes,
        reason=walk.reason,
        inputs=walk.inputs,
        walk=walk.steps,
    )


def _codes(claim: Claim, corrected: Span) -> tuple[str, ...]:
    """The claim's code, and UNITS_10X where one of its ends is a power of ten off."""
    found: list[str] = [claim.code or "ARITHMETIC", *claim.also]
    ratios = [
        said / is_
        for said, is_ in zip(claim.claimed, corrected, strict=True)
        if math.isfinite(said) and math.isfinite(is_) and is_ != 0 and said / is_ > 0
    ]
    tenfold = any(_TENFOLD[0] <= factor * 10**power <= _TENFOLD[1] for factor in ratios for power in (-2, -1, 1, 2))
    if tenfold:
        # An exact factor of ten explains the whole difference.
        found = ["UNITS_10X", *(code for code in found if code not in ("UNITS_10X", "ARITHMETIC"))]
    return tuple(dict.fromkeys(found))


def _reason(claim: Claim, finding: Finding, looked: dict[str, Looked], extra: dict[str, str]) -> str:
    text = claim.holds if finding.verdict == RIGHT else claim.because
    if not text:
        alone = looked.get(claim.formula or "")
        return f"{alone.source}: {finding.corrected_text}." if alone else f"{claim.formula} = {finding.corrected_text}."
    words = {name: span_text(value.span, value.unit) for name, value in looked.items()} | extra
    try:
        return text.format(claimed=finding.claimed_text, corrected=finding.corrected_text, **words)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(
            f"its reason cannot be filled in ({error}): between braces it may name claimed, corrected, and the inputs "
            f"and figures of the claim ({', '.join(words)})."
        ) from None


def _input_text(name: str, value: Looked) -> str:
    return f"{name} = {span_text(value.span, value.unit)} ({value.source})"
