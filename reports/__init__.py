"""Turns a run folder into HTML, Markdown and figures; every number is recomputed from the records."""
