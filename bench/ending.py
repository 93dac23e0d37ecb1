"""How a bench ends: its exit code with reasons, what --json prints, and how to go on."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench import sweep as sweeps
from bench.quality import passes
from bench.run.outcome import NEGATIVE, NOTHING, WELL, exit_code, spoilt
from inputs.quantities import plural

if TYPE_CHECKING:
    from bench.compare.turns import Said


def ended(parts: list[sweeps.Sweep], found: "Said | None") -> tuple[int, list[str]]:
    """(exit code, why it is not 0). Of two sides the new one's counts, and of the old one whether it was measured."""
    code, reasons = exit_code(parts[-1].document)
    if found is None or code == NOTHING:
        return code, reasons
    of_old, why = exit_code(parts[0].document)
    if of_old == NOTHING:
        return NOTHING, [f"baseline: {one}" for one in why]
    reasons += [f"baseline: {one}" for one in spoilt(parts[0].document)]
    reasons += [found.verdict] if found.exit_code else []
    return (NEGATIVE if reasons else WELL), reasons


def document(parts: list[sweeps.Sweep], found: "Said | None", code: int, reasons: list[str]) -> dict[str, Any]:
    """What --json prints: the run, or both runs and what they say about each other."""
    how = {"exit_code": code, "exit_reasons": reasons}
    runs = [{**part.document, "path": str(part.run_dir)} for part in parts]
    if len(runs) == 1:
        return {**runs[0], **how}
    return {"old": runs[0], "new": runs[1], "comparison": found and found.document, **how}


def last_lines(parts: list[sweeps.Sweep], reasons: list[str], *, interrupted: bool) -> Iterator[str]:
    """Why the exit code is what it is, and how to go on."""
    resume_with = f"nbridge bench --resume {shlex.quote(str(parts[-1].run_dir))}"
    where = (parts[-1].document.get("cluster") or {}).get("asked")
    on = f" --on {shlex.quote(where)}" if where else ""
    if interrupted:
        judged = sum(len(part.unjudged) for part in parts)
        left = f"{sum(len(part.pending) for part in parts)} cells"
        left += f" and the quality of {plural(judged, 'engine')}" if judged else ""
        left = f"{left} are left" if not parts[0].tasks else "the search has not ended"
        yield f"interrupted; {left}. Go on with: {resume_with}{on}"
        return
    yield from reasons
    of_all = [one for part in parts for one in (*part.document["cells"], *passes.engines(part.document))]
    if any(one["outcome"] in sweeps.RETRIED for one in of_all):
        yield f"Measure failed cells again with: {resume_with} --retry-failed{on}"
