import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shelf import add_run

from bench.errors import RunFolderError
from bench.run.records import SCHEMA
from bench.run.store import newest_run, open_run
from dashboards import library
from dashboards.library import Broken, Entry
from reports.measured.reading import read, stored


def test_the_newest_run_comes_first_and_broken_folders_are_named(tmp_path: Path) -> None:
    add_run(tmp_path, "old", created="2026-01-01T10:00:00+00:00")
    add_run(tmp_path, "new", created="2026-03-01T10:00:00+00:00")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"format": 1, "cells": [', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text('{"format": 1, "cells": [{"id": 3}]}', encoding="utf-8")
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "run.json").write_text(
        '{"format": 1, "environment": 7, "cells": [{"id": "a", "engine": {}, '
        '"load": {"kind": "closed", "concurrency": 1}}]}',
        encoding="utf-8",
    )
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a-file").write_text("", encoding="utf-8")
    found = library.shelf(tmp_path, {})
    assert [entry.id for entry in found.runs] == ["new", "old"]
    assert {entry.path.name for entry in found.broken} == {"torn", "empty", "odd", "kinds"}
    assert all(str(tmp_path) in entry.reason for entry in found.broken)


def test_no_run_takes_the_list_down(tmp_path: Path) -> None:
    good = add_run(tmp_path, "good", created="2026-01-01T10:00:00+00:00")
    whole = (good / "run.json").read_text(encoding="utf-8")
    document = json.loads(whole)
    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"a": deep}

    def changed(**more: object) -> str:
        return json.dumps({**document, **more})

    hostile = {
        "nested": "[" * 100_000,
        "nested-well-formed": json.dumps({"format": 1, "cells": [], "more": deep}),
        "nested-in-a-cell": changed(cells=[{**document["cells"][0], "more": deep}]),
        "outside": changed(cells=[{**document["cells"][0], "id": "../../x"}]),
        "twice": changed(cells=[document["cells"][0]] * 2),
        "number": changed(cells=[{**document["cells"][0], "load": {"kind": "open", "rate_rps": 10**400}}]),
        "digits": '{"format": 1, "cells": [' + "9" * 100_000 + "]}",
        "bytes": "\ud800",
    }
    for name, text in hostile.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "run.json").symlink_to("/dev/zero")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.json")
    for name, created in (
        ("year-1", "0001-01-01T00:00:00"),
        ("number-for-date", 7),
        ("odd-date", "9999-12-31T23:59:59-23:59"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(changed(created=created), encoding="utf-8")
    found = library.shelf(tmp_path, {})
    assert {entry.id for entry in found.runs} == {"good", "year-1", "number-for-date", "odd-date"}
    assert {entry.path.name for entry in found.broken} == {*hostile, "device", "pipe"}


def test_the_newest_run_is_one_that_recorded_something(tmp_path: Path) -> None:
    add_run(tmp_path, "old", created="2026-01-01T10:00:00+00:00")
    path = add_run(tmp_path, "ended-early", created="2026-03-01T10:00:00+00:00")
    document = json.loads((path / "run.json").read_text(encoding="utf-8"))
    for cell in document["cells"]:
        cell.update(outcome="pending", metrics=None)
    (path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    found = library.shelf(tmp_path, {})
    assert [entry.id for entry in found.runs] == ["ended-early", "old"]
    assert found.newest is not None and found.newest.id == "old"
    assert newest_run(tmp_path) == tmp_path / "old"
    (tmp_path / "old" / "run.json").unlink()
    found = library.shelf(tmp_path, {})
    assert found.newest is not None and found.newest.id == "ended-early"
    assert newest_run(tmp_path) is None


def test_a_folder_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    found = library.shelf(tmp_path / "nowhere", {})
    assert (found.runs, found.broken) == ((), ())


def test_a_run_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add_run(tmp_path, "one", created="2026-01-01T10:00:00+00:00")
    read_folders: list[str] = []
    real = library.read_entry

    def counted(path: Path, stamp: library.Stamp) -> Entry | Broken:
        read_folders.append(path.name)
        return real(path, stamp)

    monkeypatch.setattr(library, "read_entry", counted)
    known: library.Known = {}
    library.shelf(tmp_path, known)
    library.shelf(tmp_path, known)
    assert read_folders == ["one"]
    os.utime(path / "run.json", ns=(1, 1))
    assert library.shelf(tmp_path, known).runs[0].stamp[0] == 1
    assert read_folders == ["one", "one"]


def test_a_line_of_the_list_says_what_the_run_was() -> None:
    entry = library.sample()
    assert (entry.id, entry.name, entry.models, entry.engines) == (
        "sample",
        "default",
        ("demo-100m",),
        ("bf16", "int8", "int4"),
    )
    assert (entry.cells, entry.measured, entry.requests) == (9, 9, 3 * (20 + 48 + 112))
    assert entry.best_tok_s == pytest.approx(304.42, abs=0.01)
    assert entry.hardware == "AMD EPYC, 2 cores"
    assert entry.finished


def test_hardware_in_a_few_words() -> None:
    gpu = {"name": "Example GPU"}
    assert library.hardware({"gpus": [gpu, gpu]}) == "2 × Example GPU"
    assert library.hardware({"gpus": [gpu]}) == "Example GPU"
    assert library.hardware({"gpus": [], "cpu": {"model": "Example CPU", "cores": 4}}) == "Example CPU, 4 cores"
    assert library.hardware({}) == "not recorded"


def test_the_stored_report_says_the_same_as_the_recomputed_one() -> None:
    run = open_run(library.SAMPLE)
    from_records, from_run_json = read(run), stored(run)
    assert [cell.id for cell in from_run_json.measured] == [cell.id for cell in from_records.measured]
    for one, other in zip(from_run_json.cells, from_records.cells, strict=True):
        for name in ("output_throughput_tok_s", "ttft_s.p50", "e2e_s.p95", "memory.server_peak_bytes"):
            assert one.value(name) == pytest.approx(other.value(name))
        assert one.records == other.records
        assert one.ttft is None


def made_cell(folder: Path) -> None:
    """Four requests: TTFT 0.1, 0.2, 0.3 s, and one that failed; each answered one has tokens 0.05 s apart."""
    rows = []
    for index in range(4):
        row = dict.fromkeys(SCHEMA.names) | {"outcome": "ok", "sent_s": 1.0, "scheduled_s": 1.0, "output_tokens": 3}
        first = 1.1 + 0.1 * index
        row |= {"first_token_s": first, "last_token_s": first + 0.1, "ended_s": first + 0.2}
        row |= {"chunk_s": [first, first + 0.05, first + 0.1], "chunk_tokens": [1, 1, 1]}
        rows.append(row if index < 3 else row | {"outcome": "timeout"})
    path = folder / "cells" / "a" / "requests.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def test_distributions_come_from_the_columns_that_they_need(tmp_path: Path) -> None:
    made_cell(tmp_path)
    assert library.rows(tmp_path, "a") == 4
    found = library.latency_curves(tmp_path, "a")
    ttft, tpot, e2e = found["ttft_s"], found["tpot_s"], found["e2e_s"]
    assert ttft is not None and tpot is not None and e2e is not None
    assert ttft.values_s == pytest.approx((0.1, 0.2, 0.3))
    assert ttft.shares == pytest.approx((1 / 3, 2 / 3, 1))
    assert tpot.values_s == pytest.approx((0.05, 0.05, 0.05))
    assert e2e.quantile(0.5) == pytest.approx(0.4)
    gaps = library.gap_curve(tmp_path, "a")
    assert gaps is not None
    assert (gaps.count, gaps.quantile(1.0)) == (6, pytest.approx(0.05))
    assert library.columns(tmp_path, "a", ["sent_s"]).column_names == ["sent_s"]


def test_a_cell_without_records_has_no_distribution_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    assert library.rows(tmp_path, "none") is None
    assert library.latency_curves(tmp_path, "none") == {"ttft_s": None, "tpot_s": None, "e2e_s": None}
    broken = tmp_path / "cells" / "b" / "requests.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not parquet")
    assert library.rows(tmp_path, "b") is None
    with pytest.raises(RunFolderError, match="Measure the cell again"):
        library.latency_curves(tmp_path, "b")


def test_answers_of_a_search_for_an_engine_without_a_cell_are_a_broken_run(tmp_path: Path) -> None:
    answer = {"engine": "int3", "repeat": 1, "ended": "found"}
    add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00", capacity=[answer])
    (broken,) = library.shelf(tmp_path, {}).broken
    assert "`capacity` has an answer for int3, of which there is no cell" in broken.reason
