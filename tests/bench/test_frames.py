"""Runs as DataFrames, and as files for other programs."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import RunFolderError
from bench.run import load
from bench.run.records import SCHEMA
from bench.run.stats.summary import summarise


def request(at_s: float, *, tokens: int | None = 3, outcome: str = "ok") -> dict[str, object]:
    """Sent at `at_s`, first token 0.2 s later, then one every 0.1 s; scheduled 0.05 s before it was sent."""
    row = dict.fromkeys(SCHEMA.names)
    row |= {
        "request_id": f"r{at_s}",
        "scenario": "chat",
        "outcome": outcome,
        "sent_s": at_s,
        "scheduled_s": at_s - 0.05,
    }
    if outcome == "ok":
        chunks = [at_s + 0.2, at_s + 0.3, at_s + 0.4]
        row |= {"first_token_s": chunks[0], "last_token_s": chunks[-1], "ended_s": at_s + 0.5, "chunk_s": chunks}
        row |= {"chunk_tokens": [1, 1, 1] if tokens else None, "output_tokens": tokens, "prompt_tokens": 7}
    return row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two cells, one closed and one open; the second also has a failed request and one without a token count."""
    rows = {
        "a-c1-r1": [request(float(at)) for at in range(5)],
        "a-r2-r1": [request(float(at)) for at in range(4)]
        + [request(4.0, tokens=None), request(5.0, outcome="timeout")],
    }
    cells = []
    for cell_id, made in rows.items():
        folder = tmp_path / "run" / "cells" / cell_id
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist(made, schema=SCHEMA)
        pq.write_table(table, folder / "requests.parquet")
        kind = "open" if "-r2-" in cell_id else "closed"
        plan = {
            "name": cell_id.split("-")[1],
            "kind": kind,
            "concurrency": 1,
            "seconds": 6.0 if kind == "open" else None,
        }
        plan |= {"requests": None if kind == "open" else 5}
        cells.append(
            {
                "id": cell_id,
                "engine": {"name": "a", "model": "m", "quantization": "int8"},
                "load": plan,
                "repeat": 1,
                "outcome": "ok",
                "reason": None,
                "startup": {"weights_bytes": 12},
                "metrics": summarise(table, plan),
                "validity": {"valid": kind == "closed"},
            }
        )
    samples = pa.table({"t_s": [0.5], "source": ["server"], "name": ["waiting"], "labels": ["{}"], "value": [2.0]})
    pq.write_table(samples, tmp_path / "run" / "cells" / "a-c1-r1" / "samples.parquet")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format": 1, "run_id": "20261126T0-x", "cells": cells}))
    return tmp_path / "run"


def test_cells_carry_what_was_set_and_what_was_found(run):
    cells = load(run).cells.set_index("cell_id")
    assert cells.loc["a-c1-r1", "ttft_s_p50"] == pytest.approx(0.2)
    assert list(cells.engine_quantization) == ["int8", "int8"]
    assert list(cells.load_kind) == ["closed", "open"]
    assert list(cells.startup_weights_bytes) == [12, 12]
    assert list(cells.valid) == [True, False]


def test_requests_have_latencies_as_the_report_computes_them(run):
    frames = load(run)
    requests = frames.requests
    assert len(requests) == 11
    assert list(requests.columns[:5]) == ["run_id", "cell_id", "engine", "load", "repeat"]
    medians = requests.groupby("cell_id", observed=True)[["ttft_s", "tpot_s", "e2e_s"]].median()
    for name in ("ttft_s", "e2e_s"):
        stored = frames.cells.set_index("cell_id").loc["a-c1-r1", f"{name}_p50"]
        assert medians.loc["a-c1-r1", name] == pytest.approx(stored)
    assert medians.loc["a-c1-r1", "tpot_s"] == pytest.approx(0.1)
    closed, opened = requests[requests.load == "c1"], requests[requests.load == "r2"]
    assert closed.ttft_from_schedule_s.isna().all()
    assert opened.ttft_from_schedule_s.dropna().tolist() == pytest.approx([0.25] * 5)


def test_what_is_absent_is_missing_and_never_zero(run):
    opened = load(run).requests.query("load == 'r2'").set_index("request_id")
    assert pd.isna(opened.loc["r4.0", "output_tokens"])
    assert pd.isna(opened.loc["r4.0", "tpot_s"])
    assert opened.loc["r4.0", "ttft_s"] == pytest.approx(0.2)
    assert opened.loc["r5.0", ["ttft_s", "e2e_s", "tpot_s"]].isna().all()


def test_chunks_only_when_asked_and_samples_beside(run):
    assert "chunk_s" not in load(run).requests
    frames = load(run, chunks=True)
    assert frames.requests.chunk_s.iloc[0].tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert frames.samples.to_dict("records")[0] | {"repeat": 1} == {
        "run_id": "20261126T0-x",
        "cell_id": "a-c1-r1",
        "engine": "a",
        "load": "c1",
        "repeat": 1,
        "t_s": 0.5,
        "source": "server",
        "name": "waiting",
        "labels": "{}",
        "value": 2.0,
    }


def test_several_runs_in_one_table(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text((run / "run.json").read_text().replace("20261126T0-x", "20261127T0-y"))
    frames = load(run, other)
    assert frames.cells.run_id.tolist() == ["20261126T0-x"] * 2 + ["20261127T0-y"] * 2
    assert frames.requests.run_id.unique().tolist() == ["20261126T0-x"]


def test_no_run_and_the_same_run_twice_are_refused(run, tmp_path):
    with pytest.raises(RunFolderError, match="at least one run folder"):
        load()
    with pytest.raises(RunFolderError, match="given twice"):
        load(run, run / "run.json")
    with pytest.raises(RunFolderError, match=r"no run\.json"):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "suffix"), [("csv", "csv"), ("parquet", "parquet"), ("json", "jsonl")])
def test_export_writes_what_other_programs_read(run, tmp_path, nbridge, to, suffix):
    out = tmp_path / "out"
    answer = nbridge("export", run, "--to", to, "--out", out, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[str(out / f"requests.{suffix}")] == 11
    path = out / f"requests.{suffix}"
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True)}[suffix](
        path
    )
    assert read.e2e_s.dropna().tolist() == pytest.approx([0.5] * 10)
    assert read.e2e_s.isna().sum() == 1
    again = nbridge("export", run, "--to", to, "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr
