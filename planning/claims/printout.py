"""What `nbridge audit` shows a person: rich renderables; nothing is printed here."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from inputs.quantities import plural
from planning import tables
from planning.claims.audit import Audit, Finding, RoiRow
from planning.claims.claimfile import CODES
from planning.cost.wording import figure_text, times_text


def page(made: Audit, roi: Sequence[RoiRow], *, inputs: bool = False) -> RenderableType:
    """The whole audit: the count, each wrong claim with its correction, what cannot be checked, what is right."""
    parts: list[RenderableType] = [Text(made.title, style="bold"), Text(summary(made))]
    if made.wrong:
        parts += [Text("\nWrong or inconsistent", style="bold"), *(_wrong(finding, inputs) for finding in made.wrong)]
    if made.unsupported:
        parts.append(Text("\nCannot be checked", style="bold"))
        parts += [_short(finding, finding.reason, finding.codes) for finding in made.unsupported]
    if made.right:
        parts.append(Text("\nRight", style="bold"))
        parts += [_short(finding, finding.reason, ()) for finding in made.right]
    if roi:
        parts += [Text(""), _roi(roi)]
    used = list(dict.fromkeys(code for finding in made.findings for code in finding.codes))
    if used:
        parts += [Text(""), _codes(used)]
    return Group(*parts)


def summary(made: Audit) -> str:
    """How many claims are wrong, right, and beyond checking, in one line."""
    return (
        f"{plural(len(made.findings), 'claim')}: {len(made.wrong)} wrong, "
        f"{len(made.right)} right, "
        f"{len(made.unsupported)} that nothing stated can confirm or refute."
    )


def document(made: Audit, roi: Sequence[RoiRow]) -> dict[str, Any]:
    """The audit for programs; an open end of a range, and “never”, are null."""
    return {
        "format": 1,
        "title": made.title,
        "source": made.source,
        "summary": {"wrong": len(made.wrong), "right": len(made.right), "unsupported": len(made.unsupported)},
        "findings": [_as_dict(finding) for finding in made.findings],
        "roi": [
            {
                "solution": row.solution,
                "upfront_usd": row.upfront_usd,
                "monthly_usd": row.monthly_usd,
                "month_12_usd": row.month_12_usd,
                "month_24_usd": row.month_24_usd,
                "claimed": row.claimed,
            }
            for row in roi
        ],
        "codes": CODES,
    }


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "where": finding.where,
        "text": finding.text,
        "unit": finding.unit,
        "claimed": [tables.finite(end) for end in finding.claimed],
        "claimed_text": finding.claimed_text,
        "corrected": [tables.finite(end) for end in finding.corrected] if finding.corrected else None,
        "corrected_text": finding.corrected_text,
        "verdict": finding.verdict,
        "codes": finding.codes,
        "reason": finding.reason,
        "inputs": finding.inputs,
        "walk": [{"code": step.code, "label": step.label, "ratio": step.ratio} for step in finding.walk],
    }


def _wrong(finding: Finding, inputs: bool) -> RenderableType:
    head = Text.assemble(
        "\n", (finding.id, "bold"), "  ", (finding.where, "dim"), "  ", (" ".join(finding.codes), "red")
    )
    # Of two figures that contradict each other neither is known to be the right one.
    other = "elsewhere" if "INCONSISTENT" in finding.codes else "corrected"
    lines: list[RenderableType] = [
        head,
        Padding(Text(f"“{finding.text}”"), (0, 0, 0, 2), expand=False),
        Padding(
            Text.assemble("claimed ", (finding.claimed_text, "bold"), f"   {other} ", (finding.corrected_text, "bold")),
            (0, 0, 0, 2),
            expand=False,
        ),
        Padding(Text(finding.reason), (0, 0, 0, 2), expand=False),
    ]
    if finding.walk:
        lines.append(Padding(_walk(finding), (0, 0, 0, 4), expand=False))
    if inputs:
        lines += [Padding(Text(text, style="dim"), (0, 0, 0, 4), expand=False) for text in finding.inputs]
    return Group(*lines)


def _walk(finding: Finding) -> RenderableType:
    table = tables.table()
    table.add_column("the ratio then", justify="right", no_wrap=True)
    table.add_column("step", overflow="fold")
    table.add_column("code", no_wrap=True)
    for step in finding.walk:
        table.add_row(times_text(step.ratio), step.label, step.code or "")
    unmended = [code for code in finding.codes if code not in {step.code for step in finding.walk}]
    notes = [Text(f"{code}: {CODES[code]}; the claim gives nothing to mend it by.") for code in unmended]
    return Group(table, *notes)


def _short(finding: Finding, reason: str, codes: Sequence[str]) -> RenderableType:
    where = f" ({finding.where})" if finding.where else ""
    marks = f" [{' '.join(codes)}]" if codes else ""
    return Padding(
        Text.assemble((finding.id, "bold"), f"{where}: {finding.text}. ", (f"{reason}{marks}", "dim")),
        (0, 0, 0, 2),
        expand=False,
    )


def _roi(rows: Sequence[RoiRow]) -> RenderableType:
    table = tables.table()
    table.add_column("solution")
    for column in ("upfront", "monthly", "12 months", "24 months"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        computed = (row.upfront_usd, row.monthly_usd, row.month_12_usd, row.month_24_usd)
        same = all(abs(a - b) < 0.005 for a, b in zip(computed, row.claimed, strict=True))
        table.add_row(
            row.solution, *(figure_text(value, "USD") for value in computed), "as claimed" if same else "not as claimed"
        )
    return Group(Text("The return-on-investment table, computed from its own inputs", style="bold"), table)


def _codes(used: Sequence[str]) -> RenderableType:
    table = tables.table()
    table.add_column("code")
    table.add_column("such a claim …")
    for code in CODES:
        if code in used:
            table.add_row(code, CODES[code])
    return table
