"""What the GPUs drew per output token: whose is least, by what it was measured, and what could not be. Pure."""

from inputs.quantities import number, plural
from reports.measured.cells import Cell, Json, Report
from reports.measured.repeats import metric_spread, separated
from reports.names import listing, shortened

PER_TOKEN = "energy.joules_per_output_token"  # noqa: S105 (a metric)
_METHODS = {
    "counter": "by their energy counters",
    "power": "by their power, sampled every second",
    "both": "some by their energy counters, some by their power, sampled every second",
}


def least(report: Report) -> str:
    """Which engine drew the least energy per output token under the heaviest load at which it was measured of any."""
    for load in reversed(report.loads):
        found = [(e, one) for e in report.engines if (one := metric_spread(report.repeats(e, load), PER_TOKEN))]
        if found:
            break
    else:
        return ""
    found.sort(key=lambda pair: pair[1].median)
    (engine, best), rest = found[0], found[1:]
    text = f"At {load.label} the GPUs drew {number(best.median)} J per output token with {shortened(engine, 60)}"
    if not rest:
        return f"{text}."
    others = listing([f"{shortened(other, 60)} {number(one.median)} J" for other, one in rest])
    if not separated(best, rest[0][1]):
        return f"{text}, too close to the next to tell apart ({others})."
    return f"{text}, the least of {plural(len(found), 'engine')} ({others})."


def notes(report: Report) -> list[str]:
    """How the energy was measured, of which GPUs, and of which cells it is not known."""
    told = [(cell, found) for cell in report.cells if (found := _energy(cell))]
    known = [found for _, found in told if found["joules"] is not None]
    said = []
    if known:
        methods = listing(sorted({_METHODS.get(str(one["method"]), str(one["method"])) for one in known}))
        whose = (
            "that the server's processes held memory of" if all(one["of_server"] for one in known) else "of the machine"
        )
        said.append(
            f"GPU energy: all that the GPUs {whose} drew over the window, idle power included, {methods}; per output "
            "token of the window."
        )
    reasons: dict[str, list[str]] = {}
    for cell, found in told:
        if found["joules"] is None:
            reasons.setdefault(str(found["unknown"]), []).append(cell.id)
    return said + [f"No GPU energy of {listing(cells)}: {reason}." for reason, cells in reasons.items()]


def _energy(cell: Cell) -> Json | None:
    found = (cell.metrics or {}).get("energy") if cell.shown else None
    return found if isinstance(found, dict) else None
