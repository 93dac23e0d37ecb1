"""Claims: what is said about cost and speed, held against what follows from its own inputs."""

import tempfile
from pathlib import Path

import streamlit as st

from dashboards import layout
from dashboards.layout import note
from dashboards.screens.claims import charts, view
from planning.claims.audit import Audit, Finding, audit
from planning.claims.claimfile import CODES, guide, load_claims


@st.cache_resource
def of_guide() -> Audit:
    return audit(guide())


def show() -> None:
    layout.heading("Claims", "Is what a guide, a slide or a blog says about cost and speed true?")
    upload = st.file_uploader("Claims of your own (TOML; docs/cost.md says how)", type="toml", key="claims_file")
    layout.guarded(lambda: audited(of_guide() if upload is None else of_bytes(upload.getvalue(), upload.name)))


def of_bytes(content: bytes, name: str) -> Audit:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        return audit(load_claims(path))


def audited(found: Audit) -> None:
    layout.verdict(view.verdict(found))
    note(f"Source: {found.source}")
    shown = st.segmented_control(
        "Show", ["wrong", "unsupported", "right"], default=["wrong", "unsupported"], selection_mode="multi",
        format_func=view.VERDICTS.__getitem__, key="verdicts", bind="query-params",
    )  # fmt: skip
    findings = tuple(one for one in found.findings if one.verdict in (shown or view.VERDICTS))
    layout.table(view.rows(findings), "Claims", words=("Claim", "Said", "Holds"))
    layout.csv_button(view.csv_rows(found.findings), "claims", "All claims as CSV")
    if findings:
        why(findings)
    with st.expander("What the codes mean"):
        layout.table([{"Code": code, "Meaning": text} for code, text in CODES.items()], "Codes", words=("Meaning",))


def why(findings: tuple[Finding, ...]) -> None:
    """One claim, with what was reckoned and from what; a comparison step by step."""
    st.subheader("Why", anchor=False)
    known = {one.id: one for one in findings}
    labels = {one.id: f"{one.where}: {one.text}" for one in findings}
    chosen = st.selectbox("Claim", list(known), format_func=lambda key: labels[key], key="claim", bind="query-params")
    one = known[chosen or findings[0].id]
    layout.verdict(f"{view.VERDICTS[one.verdict]}. {one.reason}")
    layout.facts([("Said", one.claimed_text, ""), ("Holds", one.corrected_text, "")])
    layout.notes(one.inputs)
    if one.walk:
        rows = view.walk_rows(one)
        layout.figure(
            charts.walk(rows, layout.palette()),
            rows,
            name="walk",
            title="From what is said to what holds",
            caption=" → ".join(row["what"] for row in rows),
            words="; ".join(f"{row['what']}: {row['ratio']:.3g} times" for row in rows),
        )


show()
