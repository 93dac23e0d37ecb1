"""What a run will not tell, and how long it may take: said before it begins."""

from typing import Any

from bench.run.stats.distributions import MIN_SAMPLES
from inputs.quantities import TIME, scaled, trimmed


def short_loads(document: dict[str, Any]) -> str:
    """Which of a run's loads end before a p95 can be told, in a sentence; "" when none does, or nobody knows."""
    needed = MIN_SAMPLES["p95"]
    few: dict[str, int] = {}
    for cell in document["cells"]:
        asked = _asked(cell["load"])
        if asked is not None and asked < needed and not cell.get("point"):
            few[str(cell["load"]["name"])] = asked
    if not few:
        return ""
    named = ", ".join(f"{name} ({asked})" for name, asked in few.items())
    return f"No p95 of {named}: it takes {needed} answers, so medians are what these loads tell."


def _asked(load: dict[str, Any]) -> int | None:
    """How many requests a load sends; None where that depends on the server or on what is said."""
    if load.get("requests") is not None:
        return int(load["requests"])
    if (
        load["kind"] == "open"
        and load.get("rate_rps")
        and load.get("seconds")
        and load.get("scenario") != "conversation"
    ):
        return int(load["rate_rps"] * load["seconds"])
    return None


def longest(document: dict[str, Any]) -> str:
    """How long the loads that are still to be measured may take, in a sentence; "" where one of them has no time limit.

    An answer under way when a load's time is over is waited for, and servers have to start: neither is in it.
    """
    cells = [cell["load"] for cell in document["cells"] if cell["outcome"] == "pending"]
    if not cells or any(load.get("seconds") is None for load in cells):
        return ""
    plan = document["plan"]
    search_s = (plan.get("capacity") or {}).get("max_time_s")
    searches = len({(cell["engine"]["name"], cell["repeat"]) for cell in document["cells"]})
    total_s = sum(float(load["seconds"]) for load in cells)
    more = f", searches for the capacity another {_time(searches * search_s)}" if search_s else ""
    return f"The loads take {_time(total_s)} at most{more}; starts of servers come on top."


def _time(value_s: float) -> str:
    return scaled(value_s, TIME, lambda value: trimmed(value, 2))
