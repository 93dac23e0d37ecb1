"""What the answers say, in sentences: their lengths, who counted them, which figure is absent and why. Pure."""

from bench.run.records import NOTES
from inputs.quantities import plural
from reports.measured.cells import Report
from reports.names import listing

_FIGURES = {
    "output_throughput_tok_s": "output tok/s",
    "prompt_throughput_tok_s": "prompt tok/s",
    "request_throughput_rps": "requests/s",
    "goodput_rps": "goodput",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "output_tokens": "output tokens",
}


def lengths(report: Report) -> str:
    """Whether the compared cells' answers have the lengths asked for; "" when they do, or when nothing says."""
    early = total = 0
    for cell in report.measured:
        ended = (cell.metrics or {}).get("ended_by_model")
        if ended and cell.document["load"].get("ignore_eos"):
            early, total = early + ended, total + (cell.metrics or {})["requests"]["ok"]
    if not early:
        return ""
    return (
        f"Answers have the lengths that the model gave them, not those asked for: {early:,} of {total:,} ended before, "
        "because this server takes no ignore_eos. Throughputs compare only where lengths do."
    )


def counted_by(report: Report) -> str:
    """Who counted the output tokens, when it was not the server."""
    said = {str((cell.metrics or {}).get("tokens_by") or "server") for cell in report.cells} - {"server"}
    return f"Output tokens were counted by the {listing(sorted(said))}, not by the server." if said else ""


def absent(report: Report) -> list[str]:
    """For each reason why figures are absent: which, in which cells."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in report.cells:
        by_reason: dict[str, list[str]] = {}
        for figure, reason in ((cell.metrics or {}).get("absent") or {}).items():
            by_reason.setdefault(reason, []).append(_FIGURES.get(figure, figure))
        for reason, figures in by_reason.items():
            found.setdefault((listing(figures), reason), []).append(cell.id)
    return [f"No {figures} of {listing(cells)}: {reason}." for (figures, reason), cells in found.items()]


def oddities(report: Report) -> list[str]:
    """What the client noted about answers that it took all the same, once each."""
    totals: dict[str, int] = {}
    for cell in report.cells:
        for note, answers in ((cell.metrics or {}).get("notes") or {}).items():
            totals[note] = totals.get(note, 0) + answers
    return [f"{plural(total, 'answer')} {NOTES.get(note, note)}." for note, total in sorted(totals.items())]
