"""Loads of conversations, turn by turn: latencies as the prompt grows, and what the server had in its prefix cache."""

from inputs.quantities import MISSING, count, seconds, share
from reports.measured.cells import Report
from reports.tables import Column, Entry, Table, table

_PERCENTILES = ("p50", "p95", "p99")


def turns(report: Report) -> Table | None:
    """One row per cell and turn of its conversations; None without any."""
    found = [(cell.id, one) for cell in report.cells for one in (cell.metrics or {}).get("turns") or ()]
    if not found:
        return None
    columns = [
        Column("Cell", numeric=False),
        Column("Turn"),
        Column("requests"),
        Column("answered"),
        *(Column(name, "TTFT") for name in ("mean", *_PERCENTILES)),
        *(Column(name, "E2E") for name in ("mean", *_PERCENTILES)),
        Column("Prompt tokens (mean)"),
        Column("from the prefix cache"),
    ]
    rows: list[list[str | Entry]] = []
    for cell_id, one in found:
        latencies = [(one[name] or {}).get(part) for name in ("ttft_s", "e2e_s") for part in ("mean", *_PERCENTILES)]
        mean = one["prompt_tokens_mean"]
        rows.append(
            [
                cell_id,
                str(one["turn"]),
                count(one["requests"]),
                count(one["ok"]),
                *(seconds(value) for value in latencies),
                MISSING if mean is None else count(round(mean)),
                share(one["cached_share"]),
            ]
        )
    return table(
        "turns",
        "Conversations, turn by turn",
        columns,
        rows,
        (
            "Every turn carries the server's own answers to the turns before it. The share from the prefix cache is of "
            "the prompt tokens, where the server says it for each answer.",
        ),
    )
