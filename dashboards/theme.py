"""Colours and type of the app: those of the reports, light and dark, told apart without colour vision too."""

from dataclasses import dataclass
from pathlib import Path

# Markers and dashes go with the colours, so that colour is never the only carrier.
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ((1, 0), (6, 2), (2, 2), (6, 2, 2, 2), (10, 3))


@dataclass(frozen=True)
class Palette:
    """Colours of figures on one background. `series` are in the order in which engines are named."""

    ink: str
    muted: str
    grid: str
    paper: str
    shade: str
    bad: str
    series: tuple[str, ...]


# The same values as reports.figures.drawing, not imported because it loads matplotlib; a test compares the two.
LIGHT = Palette(
    ink="#1b2430",
    muted="#566170",
    grid="#d5dae1",
    paper="#ffffff",
    shade="#dfeee4",
    bad="#a3200d",
    series=("#0b62a4", "#b8480a", "#0e7a4e", "#7b3fa0", "#8a5a00", "#b0245e", "#0b7385", "#4b5563"),
)
DARK = Palette(
    ink="#e6eaf0",
    muted="#a9b3c0",
    grid="#333c47",
    paper="#14181d",
    shade="#1c3327",
    bad="#ff9d8a",
    series=("#6cb2ff", "#ff9e5e", "#4fd097", "#c69bff", "#e0b050", "#ff8ab8", "#58d0e4", "#b4bdc9"),
)

# Streamlit's theme settings; both a light and a dark one, so that the visitor's own preference decides.
OPTIONS: dict[str, str] = {
    "theme.light.primaryColor": "#0b57a0",
    "theme.light.linkColor": "#0b57a0",
    "theme.light.textColor": LIGHT.ink,
    "theme.light.backgroundColor": LIGHT.paper,
    "theme.light.secondaryBackgroundColor": "#f4f6f8",
    "theme.light.borderColor": LIGHT.grid,
    "theme.dark.primaryColor": "#86bfff",
    "theme.dark.linkColor": "#86bfff",
    "theme.dark.textColor": DARK.ink,
    "theme.dark.backgroundColor": DARK.paper,
    "theme.dark.secondaryBackgroundColor": "#1d232a",
    "theme.dark.borderColor": "#3a434f",
}


def style(palette: Palette) -> str:
    """The style sheet for the app on the background of `palette`: what Streamlit's own theme does not reach."""
    link = OPTIONS["theme.light.linkColor" if palette is LIGHT else "theme.dark.linkColor"]
    sheet = (Path(__file__).parent / "templates" / "app.css").read_text(encoding="utf-8")
    return (
        f"<style>:root {{ --nb-link: {link}; --nb-bad: {palette.bad}; --nb-paper: {palette.paper}; }}\n{sheet}</style>"
    )
