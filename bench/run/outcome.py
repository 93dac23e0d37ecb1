"""What became of a run, in one number that a script can act on. docs/measuring.md has the table. Pure."""

from typing import Any

from bench.run import slo as objectives

WELL, NEGATIVE, NOTHING = 0, 1, 4
# How a search for the capacity ended without one.
_WITHOUT = {
    "nothing": "no load meets the SLO",
    "floor": "no load meets the SLO",
    "server": "the search was cut short by the server",
    "invalid": "the search was ended by measurements that cannot be believed",
}


def exit_code(document: dict[str, Any]) -> tuple[int, list[str]]:
    """(exit code, why it is not 0) of a finished run, from its run.json.

    0: every cell is ok, or was known to be impossible before its server was started. 1: something was measured, and a
    cell is invalid, failed, or missed the SLO, or a search found no load that meets it, or an engine's quality failed
    or its quantization was not applied. 4: nothing was measured. A point of a search may miss the SLO, or be invalid:
    what became of the search is what counts.
    """
    cells = document["cells"]
    slo = (document.get("plan") or {}).get("slo") or {}
    reasons, tried = spoilt(document), _tried(document)
    if missed := [cell["id"] for cell in tried if cell["outcome"] == "ok" and _misses(cell, slo)]:
        reasons.append(_named("SLO missed", missed))
    searches = document.get("capacity") or []
    for ended, words in _WITHOUT.items():
        if found := [f"{one['engine']}-r{one['repeat']}" for one in searches if one["ended"] == ended]:
            reasons.append(_named(words, found))
    reasons += _quality(document)
    if not any(cell["outcome"] in ("ok", "invalid") for cell in cells):
        return NOTHING, reasons or ["no cell could be measured on this machine"]
    return (NEGATIVE, reasons) if reasons else (WELL, [])


def spoilt(document: dict[str, Any]) -> list[str]:
    """The outcomes other than ok of a run's cells, each with their names; points of a search do not count."""
    tried = _tried(document)
    outcomes = dict.fromkeys(cell["outcome"] for cell in tried if cell["outcome"] != "ok")
    return [_named(outcome, [cell["id"] for cell in tried if cell["outcome"] == outcome]) for outcome in outcomes]


def _tried(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The plan's cells that were to be measured: not what was known to be impossible, or dropped by a contest."""
    cells = (cell for cell in document["cells"] if not cell.get("known_beforehand") and not cell.get("point"))
    return [cell for cell in cells if cell["outcome"] != "dropped"]


def _quality(document: dict[str, Any]) -> list[str]:
    engines = (document.get("quality") or {}).get("engines") or []
    tried = [entry for entry in engines if not entry["known_beforehand"]]
    reasons = [
        _named(f"quality {outcome}", [entry["engine"] for entry in tried if entry["outcome"] == outcome])
        for outcome in dict.fromkeys(entry["outcome"] for entry in tried if entry["outcome"] != "ok")
    ]
    if idle := [entry["engine"] for entry in tried if entry["applied"] is False]:
        reasons.append(_named("quantization not applied", idle))
    return reasons


def _misses(cell: dict[str, Any], slo: dict[str, Any]) -> bool:
    metrics = cell.get("metrics") or {}
    if line := slo.get("conditions"):
        from_schedule = cell["load"]["kind"] == "open"
        values = [(one, one.value(metrics, from_schedule=from_schedule)) for one in objectives.parse(line, "slo")]
        if any(value is not None and not one.met(value) for one, value in values):
            return True
        if not any(slo.get(name) for name in ("ttft_s", "tpot_s", "e2e_s")):
            return False
    share, least = metrics.get("slo_share"), slo.get("share")
    return share is not None and least is not None and share < least


def _named(what: str, ids: list[str]) -> str:
    shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    return f"{what}: {shown}"
