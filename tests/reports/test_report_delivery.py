"""The report's table of open loads: what was offered, what was delivered, and of what kind the gaps were."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made_runs import RunFolder, closed_requests

from bench.plans.arrivals import schedule
from bench.run.stats.latencies import ok_only
from bench.run.stats.summary import summarise
from bench.run.validity import validity
from reports.content import content
from reports.report import read_report
from reports.sections.delivery import delivery

LOAD: dict[str, Any] = {
    "name": "r20", "scenario": "fixed", "kind": "open", "rate_rps": 20.0, "arrival": "poisson", "requests": 400,
    "prompt_tokens": {"kind": "fixed", "mean": 64}, "output_tokens": {"kind": "fixed", "mean": 32}, "max_in_flight": 64,
}  # fmt: skip


def arriving(due_s: Any) -> pa.Table:
    """Records of requests that left 1 ms after they were due, the last one 5 ms after."""
    due = np.asarray(due_s)
    rows = closed_requests(users=1, count=len(due), ttft_s=0.02, token_s=0.001, tokens=4).to_pylist()
    for i, (row, at) in enumerate(zip(rows, due, strict=True)):
        moved = float(at) - row["sent_s"]
        for name in ("sent_s", "headers_s", "first_token_s", "last_token_s", "ended_s"):
            row[name] += moved + (0.005 if i == len(due) - 1 else 0.001)
        row["chunk_s"] = [t + moved + 0.001 for t in row["chunk_s"]]
        row["scheduled_s"] = float(at)
    return pa.Table.from_pylist(rows, schema=ok_only(closed_requests(
        users=1, count=1, ttft_s=0.1, token_s=0.1)).schema)  # fmt: skip


def cell(run: RunFolder, table: pa.Table, repeat: int) -> None:
    verdict = validity(table, LOAD, summarise(table, LOAD), {"exact": None})
    run.add("bf16", LOAD, table, repeat=repeat, validity=verdict, outcome="ok" if verdict["valid"] else "invalid")


def test_every_open_cell_shows_what_was_delivered(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    due = schedule("poisson", 20.0, seconds=None, requests=400, seed=2)
    cell(run, arriving(due), 1)
    workers = np.sort(np.concatenate([np.cumsum(np.diff(due, prepend=0)[::10] * 10) + 0.001 * w for w in range(10)]))
    cell(run, arriving(workers), 2)
    report = read_report(run.write())
    found = delivery(report)
    assert found is not None
    assert [column.name for column in found.columns[:5]] == ["Cell", "Arrivals", "offered", "delivered", "Delivered"]
    good, bad = ([entry.text for entry in row] for row in found.rows)
    assert good[1] == "poisson" and good[4] == "100 %"
    assert good[6] == "1.00 ± 0.16" and good[8] == "0.00 ± 0.16"  # 399 gaps
    assert good[9:] == ["1.00 ms", "1.00 ms", "–", "5.00 ms"]
    assert found.rows[1][5].tone == "bad" and found.rows[0][5].tone == ""
    assert any("not the poisson process" in said for said in run.cells[1]["validity"]["reasons"])
    assert found.caption in [table.caption for table in content(report).trust]
    assert float(bad[5]) > 2


def test_a_closed_run_has_no_such_table(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r")
    table = closed_requests(users=1, count=9, ttft_s=0.1, token_s=0.01)
    run.add("bf16", {"name": "c1", "scenario": "fixed", "kind": "closed", "concurrency": 1, "requests": 9}, table)
    assert delivery(read_report(run.write())) is None
