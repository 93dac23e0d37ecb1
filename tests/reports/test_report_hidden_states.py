"""A report of loads of hidden states: requests/s and E2E, and no word of tokens that there were not."""

from pathlib import Path

import pyarrow as pa
from made_runs import RunFolder, closed_load, closed_requests, valid

from bench.run.records import SCHEMA
from bench.run.stats.summary import summarise
from inputs.quantities import number
from reports.report import read_report, write_report
from reports.statements.verdict import verdict


def in_one_piece(requests: pa.Table) -> pa.Table:
    """The same requests, answered as hidden states are."""
    rows = requests.to_pylist()
    absent = dict.fromkeys(("first_token_s", "last_token_s", "chunk_tokens", "output_tokens", "cached_tokens"))
    return pa.Table.from_pylist([{**row, **absent, "chunk_s": [], "reads": 1} for row in rows], schema=SCHEMA)


def run_of(path: Path, *, beside: bool) -> Path:
    run = RunFolder(path)
    requests = closed_requests(users=4, count=40, ttft_s=0.02, token_s=0.001)
    if beside:
        run.add("bf16", closed_load(4, name="one-token", scenario="completion"), requests, repeat=2)
    load = closed_load(4, name="states", scenario="hidden_states", output_tokens=None)
    cell = run.add("bf16", load, in_one_piece(requests), outcome="skipped")
    cell |= {"outcome": "ok", "metrics": summarise(in_one_piece(requests), load), "validity": valid()}
    return run.write()


def test_the_verdict_has_requests_and_end_to_end_times_and_no_throughput_of_tokens(tmp_path: Path) -> None:
    report = read_report(run_of(tmp_path, beside=False))
    (cell,) = report.measured
    text = " ".join(verdict(report))
    assert f"answered by bf16 up to {number(cell.value('request_throughput_rps'))} requests/s" in text
    assert "has an E2E latency, but no TTFT, ITL or output tokens" in text
    assert "tokens/s" not in text
    assert "TTFT was" not in text


def test_the_whole_report_is_written_with_and_without_ordinary_loads_beside(tmp_path: Path) -> None:
    for name, beside in (("alone", False), ("beside", True)):
        folder = run_of(tmp_path / name, beside=beside)
        paths = write_report(folder)
        page = paths.markdown.read_text(encoding="utf-8")
        assert "Requests for hidden states were answered by" in page
        assert ("output tokens/s" in page.partition("## ")[0]) == beside
        assert "0.0 tok/s" not in page
        assert "nan" not in page.lower().replace("finance", "")


def test_nothing_is_said_of_hidden_states_where_none_were_asked_for(nine) -> None:
    assert "hidden states" not in " ".join(verdict(nine))
