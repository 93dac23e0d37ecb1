"""The report's table of conversations, turn by turn."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from made_runs import RunFolder, closed_requests

from bench.run.records import SCHEMA
from reports.content import content
from reports.measured.cells import Report
from reports.report import read_report
from reports.sections.turns import turns

LOAD: dict[str, Any] = {
    "name": "talk", "scenario": "conversation", "kind": "closed", "concurrency": 2, "conversations": 6,
    "prompt_tokens": {"kind": "fixed", "mean": 64}, "output_tokens": {"kind": "fixed", "mean": 32},
}  # fmt: skip


def talks() -> pa.Table:
    """Six conversations of three turns, each turn's prompt 64 tokens longer; the server had what came before it."""
    rows = closed_requests(users=2, count=18, ttft_s=0.1, token_s=0.01).to_pylist()
    for i, row in enumerate(rows):
        turn = i // 2 % 3 + 1
        row |= {"conversation": f"{i % 2}-{i // 6}", "turn": turn, "prompt_tokens": 64 * turn}
        row |= {"cached_tokens": 48 * (turn - 1)}
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_every_turn_has_a_row(tmp_path: Path, nine: Report) -> None:
    run = RunFolder(tmp_path / "r")
    run.add("bf16", LOAD, talks())
    report = read_report(run.write())
    found = turns(report)
    assert found is not None and found.caption in [table.caption for table in content(report).cells]
    rows = [[entry.text for entry in row] for row in found.rows]
    assert [row[1:4] for row in rows] == [["1", "6", "6"], ["2", "6", "6"], ["3", "6", "6"]]
    assert [row[-2:] for row in rows] == [["64", "0 %"], ["128", "38 %"], ["192", "50 %"]]
    assert turns(nine) is None
