"""Which engine a contest ended with, in a sentence. Pure."""

from reports.measured.cells import Json, Report


def contest_of(report: Report) -> Json | None:
    """What run.json says of the run's contest; None where it had none."""
    found = report.document.get("adaptive")
    return found if isinstance(found, dict) and isinstance(found.get("said"), str) else None


def contest(report: Report) -> str:
    """The winner, who may be as good, and how much of the grid was measured; "" without a contest."""
    found = contest_of(report)
    if found is None:
        return ""
    said = str(found["said"])
    return f"{said[0].upper()}{said[1:]}."
