"""What the searches on servers of known capacity came to, as tables. Pure."""

import statistics
from collections.abc import Iterable
from typing import Any

from inputs.quantities import number, share

NEAR = 0.05
Json = dict[str, Any]


def summary(searches: Iterable[Json]) -> list[Json]:
    """For each arrival process and limit: how many searches found a capacity, and how near to the limit.

    `near` counts those within ± 5 % of the limit, of all that were made; `holds` those whose interval holds it.
    """
    groups: dict[tuple[str, float], list[Json]] = {}
    for one in searches:
        groups.setdefault((one["arrival"], one["limit_rps"]), []).append(one)
    found = []
    for (arrival, limit), made in sorted(groups.items()):
        known = [one for one in made if one["value"] is not None]
        verdicts = [point["verdict"] for one in made for point in one["points"]]
        found.append(
            {
                "arrival": arrival,
                "limit_rps": limit,
                "searches": len(made),
                "ended_found": sum(one["ended"] == "found" for one in made),
                "near": sum(abs(one["value"] / limit - 1) <= NEAR for one in known),
                "holds": sum(one["low"] <= limit <= one["high"] for one in known),
                "values_rps": [one["value"] for one in known],
                "median_rps": statistics.median([one["value"] for one in known]) if known else None,
                "took_s": statistics.median(one["took_s"] for one in made),
                "points": len(verdicts),
                "invalid": sum(verdict == "invalid" for verdict in verdicts),
            }
        )
    return found


def page(document: Json) -> str:
    """The page of the study."""
    asked = f'nbridge capacity --slo "{document["slo"]}"'
    lines = [
        "# Searches on servers of known capacity",
        "",
        f"`{asked}` on `nbridge golden {' '.join(document['server'])} --limit-rps …`:",
        "the server takes up at most so many requests a second, whatever else. Equal gaps between arrivals are carried",
        "up to exactly that.",
        "",
        *_heading(
            "arrivals", "limit", "searches", "found", "within ± 5 %", "interval holds the limit", "median", "range",
            "s a search", "points", "of them invalid",
        ),
    ]  # fmt: skip
    for row in summary(document["searches"]):
        values = row["values_rps"]
        spread = f"{number(min(values))} to {number(max(values))}" if values else "–"
        lines.append(
            f"| {row['arrival']} | {row['limit_rps']:g} | {row['searches']} | {row['ended_found']} | {row['near']} | "
            f"{row['holds']} | {number(row['median_rps'])} | {spread} | {row['took_s']:.0f} | {row['points']} | "
            f"{row['invalid']} |"
        )
    if document.get("simulated"):
        lines += ["", *_simulated(document["simulated"])]
    return "\n".join(lines) + "\n"


def _simulated(rows: list[Json]) -> list[str]:
    lines = [
        "## Simulated",
        "",
        "The same search on a simulated server of the same kind, whose points cost nothing. “Half pass” is the rate at",
        "which half of such points meet the SLO, by many points at each rate: what a search estimates.",
        "",
        *_heading(
            "arrivals", "limit", "half pass", "searches", "median", "within ± 5 % of half pass", "interval holds it",
            "within ± 5 % of the limit", "points", "s a search",
        ),
    ]  # fmt: skip
    lines += [
        f"| {row['arrival']} | {row['limit_rps']:g} | {number(row['half_rps'])} | {row['searches']} | "
        f"{number(row['median_rps'])} | {share(row['near_half'])} | {share(row['holds_half'])} | "
        f"{share(row['near_limit'])} | {number(row['points'])} | {row['seconds']:.0f} |"
        for row in rows
    ]
    return lines


def _heading(first: str, *others: str) -> list[str]:
    return [f"| {' | '.join((first, *others))} |", f"|---|{'---:|' * len(others)}"]
