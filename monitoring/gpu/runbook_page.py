"""The runbooks as a page that an alert's link opens: docs/runbooks.md, with an anchor for each section."""

import functools
import itertools
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "runbooks.md"
_HEAD = (
    '<!doctype html><meta charset="utf-8"><title>Runbooks</title>'
    "<style>body{max-width:52rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 sans-serif}"
    "pre,code{background:#8882}table{border-collapse:collapse}td,th{border:1px solid #8888;padding:.2rem .5rem}</style>"
)


@functools.cache
def runbook_page() -> bytes | None:
    """The page; None where this installation has no documentation beside it."""
    from markdown_it import MarkdownIt

    try:
        text = FILE.read_text(encoding="utf-8")
    except OSError:
        return None
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for opening, words in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", words.content.lower().replace(" ", "-"))
    body = str(reader.renderer.render(tokens, reader.options, {}))
    return (_HEAD + body).encode()
