"""What each server can carry, from a measured run: the weights by which requests are shared out. Pure."""

from collections.abc import Mapping
from typing import Any

from gateway.errors import SettingsError
from gateway.settings import Settings, parse


def measured(document: Mapping[str, Any]) -> dict[str, float]:
    """Engine → the most output tokens per second that a valid cell of the run delivered; of repeats the slowest."""
    slowest: dict[tuple[str, str], float] = {}
    for cell in document.get("cells") or []:
        metrics, validity = cell.get("metrics") or {}, cell.get("validity")
        rate = metrics.get("output_throughput_tok_s")
        if cell.get("outcome") != "ok" or rate is None or (validity and not validity["valid"]):
            continue
        key = (cell["engine"]["name"], cell["load"]["name"])
        slowest[key] = min(slowest.get(key, rate), rate)
    best: dict[str, float] = {}
    for (engine, _), rate in slowest.items():
        best[engine] = max(best.get(engine, 0.0), rate)
    return best


def with_capacities(settings: Settings, document: Mapping[str, Any]) -> Settings:
    """The settings with each server's capacity as its engine was measured; one set by hand stays.

    A server's engine is the one that it names, else the run's only one. Raises SettingsError when there is none.
    """
    rates = measured(document)
    run = document.get("run_id", "the run")
    values = settings.model_dump()
    for one in values["server"]:
        if one["capacity"] is not None:
            continue
        engine = one["engine"] or (next(iter(rates)) if len(rates) == 1 else None)
        if engine not in rates:
            named = f"engine = {engine!r}" if engine else "no engine is named"
            raise SettingsError(
                f"server {one['name']}: {named}, and {run} has valid cells of {', '.join(sorted(rates)) or 'none'}; "
                "set engine to one of them, or capacity by hand."
            )
        one["capacity"] = rates[engine]
    return parse(values, f"the settings with the capacities of {run}")
