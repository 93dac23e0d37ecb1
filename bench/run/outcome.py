"""What became of a run, in one number that a script can act on. docs/measuring.md has the table. Pure."""

from typing import Any

WELL, NEGATIVE, NOTHING = 0, 1, 4


def exit_code(document: dict[str, Any]) -> tuple[int, list[str]]:
    """(exit code, why it is not 0) of a finished run, from its run.json.

    0: every cell is ok, or was known to be impossible before its server was started. 1: something was measured, and a
    cell is invalid, failed, or missed the SLO, or an engine's quality failed or its quantization was not applied. 4:
    nothing was measured.
    """
    cells = document["cells"]
    slo = (document.get("plan") or {}).get("slo") or {}
    tried = [cell for cell in cells if not cell.get("known_beforehand")]
    reasons = []
    for outcome in dict.fromkeys(cell["outcome"] for cell in tried if cell["outcome"] != "ok"):
        reasons.append(_named(outcome, [cell["id"] for cell in tried if cell["outcome"] == outcome]))
    if missed := [cell["id"] for cell in tried if cell["outcome"] == "ok" and _misses(cell, slo.get("share"))]:
        reasons.append(_named("SLO missed", missed))
    reasons += _quality(document)
    if not any(cell["outcome"] in ("ok", "invalid") for cell in cells):
        return NOTHING, reasons or ["no cell could be measured on this machine"]
    return (NEGATIVE, reasons) if reasons else (WELL, [])


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


def _misses(cell: dict[str, Any], least: float | None) -> bool:
    share = (cell.get("metrics") or {}).get("slo_share")
    return share is not None and least is not None and share < least


def _named(what: str, ids: list[str]) -> str:
    shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    return f"{what}: {shown}"
