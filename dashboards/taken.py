"""What a page says, to take along: as Markdown, with the link that leads back. Collected while the page is drawn."""

import re
from collections.abc import Sequence
from urllib.parse import urlencode

import streamlit as st

_SAID, _COLLECTING = "nb_said", "nb_collecting"
KEY = "take_along"


def begin() -> None:
    """A page is drawn from its start: what was collected of another one is forgotten."""
    st.session_state[_SAID], st.session_state[_COLLECTING] = [], True


def add(*paragraphs: str) -> None:
    """Something that the page says. What is drawn anew by itself later is not collected again."""
    if st.session_state.get(_COLLECTING):
        st.session_state[_SAID] += [text for text in paragraphs if text.strip()]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """A table that the page shows."""
    if st.session_state.get(_COLLECTING):
        lines = [f"| {' | '.join(map(plain, row))} |" for row in (head, ["---"] * len(head), *rows)]
        add(f"**{plain(caption)}**", "\n".join(lines))


def plain(text: str) -> str:
    """`text` as literal Markdown on one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def link() -> str:
    """The page's address with all that is chosen on it."""
    query = urlencode([(key, value) for key in st.query_params for value in st.query_params.get_all(key)])
    address = (st.context.url or "").partition("?")[0]
    return f"{address}?{query}" if query else address


def markdown() -> str:
    """All that was collected, with the page's link at its end."""
    said = "\n\n".join(st.session_state.get(_SAID) or [])
    return f"{said}\n\nFrom {link()}\n"


def offered(name: str) -> None:
    """A button at the page's end; pressed, the page is drawn anew and given as Markdown with its link."""
    st.session_state[_COLLECTING] = False
    if not st.button("This page as Markdown, and its link", key=KEY, icon=":material/content_copy:", type="tertiary"):
        return
    st.code(link(), language=None)
    text = markdown()
    st.code(text, language="markdown", wrap_lines=True, height=320)
    st.download_button(
        "Download it", text, f"neural-bridge-{name or 'overview'}.md", "text/markdown", key="take_along_file",
        on_click="ignore", type="tertiary", icon=":material/download:",
    )  # fmt: skip
