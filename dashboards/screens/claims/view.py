"""What others say about cost and speed, held against what follows from their own inputs. Pure."""

from typing import Any

from inputs.quantities import plural
from planning.claims.audit import Audit, Finding

Rows = list[dict[str, Any]]
VERDICTS = {"wrong": "Wrong", "unsupported": "Not supported", "right": "Right"}


def verdict(found: Audit) -> str:
    """What became of all claims, in a sentence."""
    wrong, right, unsupported = len(found.wrong), len(found.right), len(found.unsupported)
    return (
        f"{found.title}: of {plural(len(found.findings), 'claim')}, {wrong} "
        f"{'is' if wrong == 1 else 'are'} wrong or inconsistent, {unsupported} cannot be supported by what "
        f"{'is' if unsupported == 1 else 'are'} given, and {right} hold{'s' if right == 1 else ''}."
    )


def rows(findings: tuple[Finding, ...]) -> Rows:
    """One row per claim, for people."""
    return [
        {
            "Where": one.where,
            "Claim": one.text,
            "Said": one.claimed_text,
            "Holds": one.corrected_text,
            "Verdict": VERDICTS[one.verdict],
            "Code": ", ".join(one.codes) or "–",
        }
        for one in findings
    ]


def csv_rows(findings: tuple[Finding, ...]) -> Rows:
    """Every claim with reason and inputs."""
    return [
        {
            "id": one.id,
            "where": one.where,
            "claim": one.text,
            "unit": one.unit,
            "claimed_low": one.claimed[0],
            "claimed_high": one.claimed[1],
            "corrected_low": one.corrected[0] if one.corrected else None,
            "corrected_high": one.corrected[1] if one.corrected else None,
            "verdict": one.verdict,
            "codes": " ".join(one.codes),
            "reason": one.reason,
            "inputs": "; ".join(one.inputs),
        }
        for one in findings
    ]


def walk_rows(finding: Finding) -> Rows:
    """From the ratio as stated to the one that holds, step by step."""
    return [
        {"order": index, "step": f"{index + 1}. {step.code or ('as stated' if not index else 'mended')}",
         "ratio": step.ratio, "what": step.label}
        for index, step in enumerate(finding.walk)
    ]  # fmt: skip
