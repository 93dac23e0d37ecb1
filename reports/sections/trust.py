"""Whether the numbers can be trusted: validity checks, client against server, stored against recomputed. Pure."""

from typing import Any

from inputs.quantities import MISSING, count, in_unit, number, seconds, share
from reports.measured.cells import Report
from reports.tables import Column, Entry, Table, table


def checks(report: Report) -> Table | None:
    """One row per cell, one column per validity check: its value, and the limit it is held against."""
    cells = [cell for cell in report.every if (cell.document.get("validity") or {}).get("checks")]
    by_cell = [{str(c["name"]): c for c in cell.document["validity"]["checks"]} for cell in cells]
    names = list(dict.fromkeys(name for found in by_cell for name in found))
    if not names:
        return None
    limits = {name: {_limit(found[name]) for found in by_cell if name in found} for name in names}
    columns = [Column("Cell", numeric=False), Column("Verdict", numeric=False)]
    for name in names:
        common = next(iter(limits[name])) if len(limits[name]) == 1 else ""
        columns.append(Column(_spoken(name) + (f" ({common})" if common else "")))
    rows: list[list[str | Entry]] = []
    for cell, found in zip(cells, by_cell, strict=True):
        verdict = Entry("valid") if cell.valid else Entry("INVALID", "bad")
        row: list[str | Entry] = [cell.id, verdict]
        for name in names:
            row.append(_check(found.get(name), own_limit=len(limits[name]) > 1))
        rows.append(row)
    note = (
        "The limit is in brackets. “fails” marks a check that was not passed, “not checked” one that could not be made."
    )
    return table("validity", "Validity checks", columns, rows, (note,))


def _limit(check: dict[str, Any]) -> str:
    limit = check.get("limit")
    if not isinstance(limit, int | float):
        return str(limit or "")
    return f"{'≥' if check.get('at_least') else '≤'} {in_unit(limit, check.get('unit'))}"


def _check(check: dict[str, Any] | None, *, own_limit: bool) -> Entry:
    if check is None:
        return Entry(MISSING)
    value = check.get("value")
    text = in_unit(value, check.get("unit")) if isinstance(value, int | float) else str(value or "")
    if own_limit and _limit(check):
        text += f" ({_limit(check)})"
    match check.get("ok"):
        case True:
            return Entry(text or "ok")
        case False:
            return Entry(f"fails: {text}" if text else "fails", "bad")
        case _:
            return Entry(f"not checked{': ' + text if text and text != MISSING else ''}")


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def arrivals(report: Report) -> Table | None:
    """One row per cell: by whose clock chunks arrived, how late the client read them, and which came together.

    None when no cell says (runs from before this was recorded).
    """
    found = [(cell.id, cell.metrics["reads"]) for cell in report.every if cell.metrics and _clocked(cell.metrics)]
    if not found:
        return None
    columns = [
        Column("Cell", numeric=False),
        Column("Kernel's clock"),
        *(Column(name, "Read later than it came by") for name in ("p50", "p99", "max")),
        *(Column(name, "Reads with several chunks") for name in ("sent together", "read late", "not known which")),
    ]
    rows: list[list[str | Entry]] = []
    for cell_id, said in found:
        late_s = said["late_s"] or {}
        rows.append(
            [
                cell_id,
                share(said["kernel_share"]),
                *(seconds(late_s.get(name)) for name in ("p50", "p99", "max")),
                *(share(said[name]) for name in ("together_share", "late_share", "unknown_share")),
            ]
        )
    return table(
        "arrivals",
        "When chunks arrived, and by whose clock",
        columns,
        rows,
        (
            "The kernel's clock says when bytes came, however late they were read; where it says nothing (TLS, other "
            "systems) the read's own time is taken, and how late that was is not known. Chunks that the server or a "
            "proxy sent together came together for every user; of those that a late client found together only the "
            "last one's arrival is known.",
        ),
    )


def _clocked(metrics: dict[str, Any]) -> bool:
    return (metrics.get("reads") or {}).get("kernel_share") is not None


def reconciliation(report: Report) -> Table | None:
    """One row per cell: what the client counted beside what the server counted."""
    cells = [cell for cell in report.every if cell.document.get("reconciliation")]
    if not cells:
        return None
    columns = [
        Column("Cell", numeric=False),
        *(Column(name, "Client = server") for name in ("output tokens", "prompt tokens", "requests")),
        *(Column(part, f"Mean {name}") for name in ("TTFT", "E2E") for part in ("client", "server", "unexplained")),
        Column("preemptions", "Server"),
        Column("queue (mean)", "Server"),
        Column("prefix cache hits", "Server"),
    ]
    rows: list[list[str | Entry]] = []
    for cell in cells:
        found = cell.document["reconciliation"]
        rows.append(
            [
                cell.id,
                *(_counts(found.get(name)) for name in ("output_tokens", "prompt_tokens", "requests")),
                *(entry for name in ("ttft_mean_s", "e2e_mean_s") for entry in _means(found.get(name))),
                count(found.get("preemptions")),
                seconds(found.get("server_queue_mean_s")),
                share(found.get("prefix_cache_hit_share")),
            ]
        )
    notes = {f"{cell.id}: {note}" for cell in cells for note in cell.document["reconciliation"].get("notes") or ()}
    return table(
        "reconciliation",
        "Reconciliation: the client's figures beside the server's own",
        columns,
        rows,
        (
            "“≠” marks counts or means that do not agree. Unexplained is what the client's mean differs from the "
            "server's beyond the time to the response head: until then the server's own clock may not be running.",
            *sorted(notes),
        ),
    )


def _counts(found: dict[str, Any] | None) -> Entry:
    if not found or found.get("server") is None or found.get("client") is None:
        return Entry(MISSING)
    client, server = count(found.get("client")), count(found["server"])
    return Entry(f"{client} = {server}") if found.get("equal") else Entry(f"{client} ≠ {server}", "bad")


def _means(found: dict[str, Any] | None) -> list[Entry]:
    if not found:
        return [Entry(MISSING)] * 3
    apart = found.get("agree") is False
    server = ("≠ " if apart else "") + seconds(found.get("server"))
    return [
        Entry(seconds(found.get("client"))),
        Entry(server, "bad" if apart else ""),
        Entry(seconds(found.get("unexplained"))),
    ]


def changed(report: Report) -> Table | None:
    """The numbers of run.json that its records do not give; None when there are none."""
    rows: list[list[str | Entry]] = [
        [cell.id, difference.name, _plain(difference.stored), _plain(difference.recomputed)]
        for cell in report.every
        for difference in cell.differences
    ]
    if not rows:
        return None
    columns = [
        Column("Cell", numeric=False),
        Column("Number", numeric=False),
        Column("stored in run.json"),
        Column("recomputed"),
    ]
    more = len(rows) - 40
    notes = (f"{more} more differences are not listed.",) if more > 0 else ()
    return table("changed", "Stored numbers that the records do not give", columns, rows[:40], notes)


def _plain(value: Any) -> str:
    return MISSING if value is None else number(value, 6) if isinstance(value, int | float) else str(value)
