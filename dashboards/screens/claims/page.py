"""Claims: what is said about cost and speed, held against what follows from its own inputs."""

import tempfile
from pathlib import Path

import streamlit as st

from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.screens.claims import charts, view
from planning.claims.audit import Audit, Finding, audit
from planning.claims.claimfile import CODES, guide, load_claims
from planning.errors import PlanningError

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
# The files are there where the repository is; an installed package has the guide alone.
SOURCES = {"guide": "the deployment guide"} | {
    name: words for name, words in (("claims", "a vendor's slide"), ("blog", "a blog's break-even"))
    if (EXAMPLES / f"{name}.toml").is_file()
}  # fmt: skip
EXAMPLE = """title = "A slide"

[[claims]]
id = "month-of-gpt-4o"
where = "slide 7"
text = "10 M tokens a month of GPT-4o cost $400"
claimed = 400
unit = "USD/month"
formula = "tokens / 1e6 * price"
inputs.tokens = { value = 10e6, unit = "tokens/month", source = "slide 7" }
inputs.price = { api = "openai/gpt-4o" }"""


@st.cache_resource
def of_guide() -> Audit:
    return audit(guide())


def show() -> None:
    layout.heading("Claims", "Is what a guide, a slide or a blog says about cost and speed true?")
    layout.guarded(checked)


def checked() -> None:
    """The visitor's claims, audited: an upload goes before a text, a text before an example."""
    chosen = st.segmented_control(
        "Examples", list(SOURCES), default="guide", format_func=SOURCES.__getitem__, key="of", bind="query-params",
        required=True,
    )  # fmt: skip
    links.shown_as("of", SOURCES[chosen or "guide"])
    with st.expander("Claims of your own: upload or paste them"):
        upload = st.file_uploader("A file of claims (TOML)", type="toml", key="claims_file")
        text = st.text_area(
            "Or write them here", key="claims_text", height=220, placeholder=EXAMPLE, max_chars=1_000_000,
            help="docs/cost.md has all that a claim may hold; Ctrl+Enter checks what you wrote.",
        )  # fmt: skip
    if upload is not None:
        audited(of_bytes(upload.getvalue(), upload.name))
    elif text and text.strip():
        audited(of_bytes(text.encode(), "your text"))
    elif chosen in (None, "guide"):
        audited(of_guide())
    else:
        path = EXAMPLES / f"{chosen}.toml"
        audited(of_bytes(path.read_bytes(), path.name))


@st.cache_data(max_entries=16)
def _audit(content: bytes, name: str) -> Audit:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (Path(name).name or "claims.toml")
        path.write_bytes(content)
        try:
            return audit(load_claims(path))
        except PlanningError as error:  # the visitor knows the file by its own name
            raise type(error)(str(error).replace(f"{folder}/", "")) from None


def of_bytes(content: bytes, name: str) -> Audit:
    return _audit(content, name)


def audited(found: Audit) -> None:
    layout.verdict(view.verdict(found))
    note(f"Source: {found.source}")
    shown = st.segmented_control(
        "Show", ["wrong", "unsupported", "right"], default=["wrong", "unsupported"], selection_mode="multi",
        format_func=view.VERDICTS.__getitem__, key="verdicts", bind="query-params",
    )  # fmt: skip
    findings = tuple(one for one in found.findings if one.verdict in (shown or view.VERDICTS))
    tabular.table(view.rows(findings), "Claims", words=("Claim", "Said", "Holds"))
    tabular.csv_button(view.csv_rows(found.findings), "claims", "All claims as CSV")
    with st.expander("As Markdown, to paste into a reply"):
        st.code(view.markdown(found), language="markdown", wrap_lines=True)
        st.download_button(
            "Download it", view.markdown(found), "neural-bridge-claims.md", "text/markdown", on_click="ignore",
            type="tertiary", icon=":material/download:",
        )  # fmt: skip
    if findings:
        why(findings)
    with st.expander("What the codes mean"):
        tabular.table([{"Code": code, "Meaning": text} for code, text in CODES.items()], "Codes", words=("Meaning",))


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
