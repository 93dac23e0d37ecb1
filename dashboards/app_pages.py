"""The pages of the app, in the order of its navigation: (room in `screens/`, title)."""

PAGES = (
    ("overview", "Overview"),
    ("measure", "Measure"),
    ("live", "Live"),
    ("benchmarks", "Benchmarks"),
    ("compare", "Compare"),
    ("choose", "Choose"),
    ("capacity", "Capacity and VRAM"),
    ("cost", "Cost"),
    ("claims", "Claims"),
)
