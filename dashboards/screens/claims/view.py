"""What others say about cost and speed, held against what follows from their own inputs. Pure."""

import re
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


def markdown(found: Audit) -> str:
    """The audit as Markdown to paste into a reply: what is wrong with what holds, what cannot be checked, the count."""
    lines = [f"**{_md(found.title)}**", "", verdict(found).removeprefix(f"{found.title}: ").capitalize(), ""]
    for one in (*found.wrong, *found.unsupported):
        codes = f" ({', '.join(one.codes)})" if one.codes else ""
        lines.append(f"- {_md(one.where)}: “{_md(one.text)}”{codes}")
        if one.corrected is not None:
            lines.append(f"  - said: {_md(one.claimed_text)}; holds: **{_md(one.corrected_text)}**")
        lines.append(f"  - {_md(one.reason)}")
    if found.right:
        lines += ["", f"Right: {_md('; '.join(one.text for one in found.right))}."]
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    """`text` as literal Markdown on one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
