import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import RunFolder, closed_load, closed_requests

from bench.errors import RunFolderError
from bench.run.records import SCHEMA
from reports.errors import ReportError, ReportWriteError
from reports.measured.curves import POINTS
from reports.report import read_report, write_report

pytestmark = pytest.mark.slow


def test_a_rebuild_gives_the_same_bytes_in_another_process(nine_run: Path) -> None:
    paths = write_report(nine_run)
    files = [paths.html, paths.markdown, *paths.figures]
    first = {path: path.read_bytes() for path in files}
    code = "import sys, pathlib; from reports.report import write_report; write_report(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(nine_run)],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert {path: path.read_bytes() for path in files} == first
    assert not list(nine_run.glob(".*"))


def test_figures_are_small_well_formed_and_linked(failing_run: Path) -> None:
    paths = write_report(failing_run)
    markdown = paths.markdown.read_text(encoding="utf-8")
    assert [path.name for path in paths.figures] == [
        "throughput-ttft.svg",
        "throughput-e2e.svg",
        "distribution-ttft.svg",
        "distribution-itl.svg",
        "memory.svg",
    ]
    for path in paths.figures:
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.get("role") == "img"
        assert list(root.iter("{http://www.w3.org/2000/svg}text"))  # text stays text
        assert path.stat().st_size < 120_000
        assert f"(figures/{path.name})" in markdown


def test_engines_differ_by_more_than_colour(nine_run: Path) -> None:
    source = write_report(nine_run).figures[2].read_text(encoding="utf-8")
    assert source.count("stroke-dasharray") >= 2


def test_markdown_says_the_same(failing_run: Path) -> None:
    markdown = write_report(failing_run).markdown.read_text(encoding="utf-8")
    assert markdown.startswith("# Benchmark report: default\n")
    assert "four of 11 cells gave a valid measurement" in markdown
    assert "### fp8: unsupported by the engine" in markdown
    assert "| bf16-closed-c16-r1 | 16 concurrent requests | out of memory | – | – |" in markdown
    assert "    nbridge bench\n    nbridge report runs/20261122T101500Z-default-3f2a\n" in markdown
    assert "**Goodput**" in markdown


def test_stale_figures_go(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02)
    run.add("a", closed_load(4), requests)
    assert len(write_report(run.write()).figures) == 5
    run.cells[0] |= {"outcome": "failed", "startup": None, "metrics": None}
    assert write_report(run.write()).figures == ()
    assert list((tmp_path / "figures").iterdir()) == []


def test_metrics_come_from_the_records_even_without_stored_ones(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02)
    cell = run.add("a", closed_load(4), requests)
    stored, cell["metrics"] = cell["metrics"], None
    found = read_report(run.write()).cells[0]
    assert found.value("ttft_s.p50") == stored["ttft_s"]["p50"]
    assert found.value("memory.server_peak_bytes") is None
    assert found.differences == ()


def test_memory_peaks_are_recomputed_from_the_samples(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    cell = run.add("a", closed_load(4), closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02))
    samples = {
        "t_s": [0.0, 1.0, 2.0, 1.0, 1.0],
        "source": ["process", "process", "process", "gpu", "gpu"],
        "name": ["memory_bytes", "memory_bytes", "memory_bytes", "memory_used_bytes", "memory_used_bytes"],
        "labels": ["{}", "{}", "{}", '{"gpu": "0"}', '{"gpu": "1"}'],
        "value": [5.0, 9.0, 7.0, 30.0, 40.0],
    }
    pq.write_table(pa.table(samples), tmp_path / "cells" / cell["id"] / "samples.parquet")
    found = read_report(run.write()).cells[0]
    assert found.value("memory.server_peak_bytes") == 9
    assert found.value("memory.gpu_used_peak_bytes") == 70
    assert {d.name for d in found.differences} == {"memory.server_peak_bytes", "memory.gpu_used_peak_bytes"}


def test_chunk_gaps_stand_in_when_tokens_per_chunk_are_unknown(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02)
    unknown = requests.set_column(
        SCHEMA.get_field_index("chunk_tokens"), SCHEMA.field("chunk_tokens"), pa.nulls(24, pa.list_(pa.int32()))
    )
    run.add("a", closed_load(4), requests)
    run.add("b", closed_load(4), unknown)
    paths = write_report(run.write())
    assert paths.figures[3].name == "distribution-chunk-gap.svg"
    assert "the ITL is not known" in paths.markdown.read_text(encoding="utf-8")


def test_unknown_memory_is_said_not_drawn_as_zero(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02)
    run.add("a", closed_load(4), requests)
    run.add("b", closed_load(4), requests)["startup"] = None
    run.add("c", closed_load(4), None, outcome="oom", reason="no room")
    run.cells[0]["metrics"]["memory"]["server_peak_bytes"] = 500 * 1024**2
    markdown = write_report(run.write()).markdown.read_text(encoding="utf-8")
    assert "Not known and therefore not drawn: b (weights and KV cache) and c." in markdown
    assert "The largest sample of a is below weights and KV cache together" in markdown


def test_one_million_requests(tmp_path: Path) -> None:
    n, chunks = 1_000_000, 4
    rng = np.random.default_rng(0)
    sent = np.sort(rng.uniform(0, 3600, n))
    instants = (sent + rng.lognormal(-1, 0.4, n))[:, None] + np.arange(chunks) * 0.02
    columns = {
        "scheduled_s": sent,
        "sent_s": sent,
        "first_token_s": instants[:, 0],
        "last_token_s": instants[:, -1],
        "ended_s": instants[:, -1] + 0.001,
        "chunk_s": pa.ListArray.from_arrays(np.arange(0, n * chunks + 1, chunks, dtype=np.int32), instants.ravel()),
        "chunk_tokens": pa.ListArray.from_arrays(
            np.arange(0, n * chunks + 1, chunks, dtype=np.int32), np.ones(n * chunks, np.int32)
        ),
        "prompt_tokens": np.full(n, 64, np.int32),
        "output_tokens": np.full(n, chunks, np.int32),
        "outcome": pa.array(["ok"]).take(pa.array(np.zeros(n, np.int32))),
    }
    arrays = [
        pa.nulls(n, entry.type)
        if entry.name not in columns
        else pa.array(np.ascontiguousarray(columns[entry.name]))
        if isinstance(columns[entry.name], np.ndarray)
        else columns[entry.name]
        for entry in SCHEMA
    ]
    run = RunFolder(tmp_path)
    load = {"name": "q", "kind": "open", "rate_rps": 277.0, "arrival": "poisson", "seconds": 3600.0}
    run.add("a", load, pa.Table.from_arrays(arrays, schema=SCHEMA))
    path = run.write()
    cell = read_report(path).cells[0]
    assert cell.ttft is not None
    assert cell.ttft.count == n
    assert len(cell.ttft.values_s) <= POINTS
    assert cell.ttft.values_s[-1] == pytest.approx(cell.value("ttft_s.max"))
    assert write_report(path).html.stat().st_size < 200_000


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        write_report(tmp_path)


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.add("a", closed_load(4), None, outcome="pending")
    del run.cells[0]["load"]["concurrency"]
    with pytest.raises(ReportError, match=r"cell 1 of 1 has no usable `load.concurrency`"):
        write_report(run.write())


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).write()
    (path / "figures").write_text("in the way")
    with pytest.raises(ReportWriteError, match="the report cannot be written"):
        write_report(path)


def test_run_json_may_be_named_directly(tmp_path: Path) -> None:
    paths = write_report(RunFolder(tmp_path).write() / "run.json")
    assert paths.html == tmp_path / "report.html"
    assert json.loads((tmp_path / "run.json").read_text())["cells"] == []
