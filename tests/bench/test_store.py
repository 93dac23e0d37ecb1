"""The run folder survives what happens to files: torn lines, damage, newer versions, full disks, hostile names."""

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.errors import NewerFormatError, RunFolderError, StorageError
from bench.run import records, store


def record(**values: object) -> str:
    return json.dumps({"request_id": "a", "outcome": "ok", "warmup": False, **values})


def test_records_become_rows_from_the_cells_zero(tmp_path: Path) -> None:
    source = tmp_path / "requests.jsonl"
    source.write_text(
        record(warmup=True, sent=1.0) + "\n"
        + record(scheduled=100, sent=100.5, first_token=101, ended=103, chunk_s=[101, 103], chunk_tokens=[1, 2])
        + "\n" + record(outcome="timeout", sent=104.0, ended=109.0, error="no answer") + "\n"
        + '{"request_id": "torn'
    )  # fmt: skip
    (tmp_path / "cells" / "c").mkdir(parents=True)
    target = tmp_path / "cells" / "c" / "requests.parquet"
    assert records.write_parquet([source], target, zero_s=100.0) == 2
    run = store.Run(tmp_path, {"format": 1, "cells": []})
    first, second = run.requests("c").to_pylist()
    assert (first["scheduled_s"], first["sent_s"], first["first_token_s"], first["ended_s"]) == (0.0, 0.5, 1.0, 3.0)
    assert (first["chunk_s"], first["chunk_tokens"]) == ([1.0, 3.0], [1, 2])
    assert (second["outcome"], second["first_token_s"], second["error"]) == ("timeout", None, "no answer")


def test_write_json_replaces_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        store.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")])
def test_a_refusal_to_write_says_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StorageError, match=words), store.explained(tmp_path):
        raise OSError(number, "no")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, RunFolderError, "no run.json here"),
        ("{", RunFolderError, "cannot be read"),
        ("[]", RunFolderError, "not a Neural Bridge run"),
        ('{"format": 1}', RunFolderError, "not a Neural Bridge run"),
        ('{"format": 2, "cells": []}', NewerFormatError, "format 2 by a newer Neural Bridge"),
    ],
)
def test_unreadable_run_folders_are_explained(
    tmp_path: Path, content: str | None, error: type[Exception], words: str
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(error, match=words):
        store.open_run(tmp_path)


def test_a_damaged_parquet_file_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "c"
    folder.mkdir(parents=True)
    (folder / "requests.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RunFolderError, match="not a readable Parquet file"):
        store.Run(tmp_path, {}).requests("c")


@pytest.mark.parametrize("cell_id", ["../x", "a/b", "", ".hidden", "a\0b"])
def test_no_cell_id_leaves_the_run_folder(tmp_path: Path, cell_id: str) -> None:
    with pytest.raises(RunFolderError):
        store.cell_dir(tmp_path, cell_id)


def test_run_ids_sort_by_time() -> None:
    early = store.new_run_id("b", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    late = store.new_run_id("a/../a", datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC))
    assert early.startswith("20260102T030405Z-b-")
    assert early < late
    assert "/" not in late
