"""The pages of the app, in the order of its navigation: (room in `screens/`, title), and what they answer."""

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
# What each answers, as the Overview says it; of itself and of the runs that it links it says nothing.
ANSWERS = {
    "measure": "start a measurement, and watch it",
    "live": "what the servers do now",
    "compare": "one run against another",
    "choose": "which model on which GPU, why not the others, and is it worth owning",
    "capacity": "does a model fit, and how many servers does the demand need",
    "cost": "API or own hardware, with ranges",
    "claims": "check what others say about cost and speed",
}
