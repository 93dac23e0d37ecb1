"""The loads of a plan, with labels for readers that tell all of them apart."""

from dataclasses import dataclass, replace
from typing import Any

from inputs.quantities import plural

_ARRIVALS = {"poisson": "Poisson"}


@dataclass(frozen=True)
class Load:
    """One load of the plan: `level` is the concurrency (closed) or the offered requests per second (open)."""

    name: str
    scenario: str
    kind: str
    level: float | None
    label: str
    short: str


def load_label(load: dict[str, Any]) -> tuple[str, str]:
    """(label for a reader, short label for a figure) of a load: (“16 concurrent requests”, “16”)."""
    if load.get("kind") == "open":
        rate = load.get("rate_rps")
        if rate is None:
            return "open loop", "open"
        return f"{rate:g} {'request' if rate == 1 else 'requests'}/s{_arrivals(load)}", f"{rate:g}/s"
    users = load.get("concurrency")
    if users is None:
        return "closed loop", "closed"
    return plural(int(users), "concurrent request"), f"{int(users)}"


def _arrivals(load: dict[str, Any]) -> str:
    """How the requests of an open load arrive, in brackets."""
    match load.get("arrival"):
        case None:
            return ""
        case "gamma":
            return f" (gamma arrivals, burstiness {load['burstiness']:g})"
        case "ramp" | "step" as kind:
            rates = [f"{rate:g}" for rate in load["rates_rps"]]
            return f" (a ramp over {', '.join(rates)}/s)" if kind == "ramp" else f" (steps of {', '.join(rates)}/s)"
        case kind:
            return f" ({_ARRIVALS.get(kind, kind)} arrivals)"


def labelled_loads(cells: list[dict[str, Any]]) -> list[Load]:
    """The load of each cell, with labels that tell all of them apart."""
    scenarios = {str(cell["load"].get("scenario") or "") for cell in cells}
    found: list[Load] = []
    for cell in cells:
        load = cell["load"]
        label, short = load_label(load)
        scenario = str(load.get("scenario") or "")
        level = load.get("rate_rps") if load.get("kind") == "open" else load.get("concurrency")
        found.append(
            Load(
                name=str(load.get("name") or label),
                scenario=scenario,
                kind=str(load.get("kind") or "closed"),
                level=None if level is None else float(level),
                label=f"{label} ({scenario})" if len(scenarios) > 1 and scenario else label,
                short=f"{short} {scenario}" if len(scenarios) > 1 and scenario else short,
            )
        )
    by_label: dict[str, set[Load]] = {}
    for entry in found:
        by_label.setdefault(entry.label, set()).add(entry)
    return [
        entry
        if len(by_label[entry.label]) == 1
        else replace(entry, label=f"{entry.label}, {entry.name}", short=entry.name[:12])
        for entry in found
    ]
