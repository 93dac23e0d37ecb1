"""An engine without a name is called by what it is, in runs of earlier versions, too."""

import json
from pathlib import Path
from typing import Any

from recordings import RECORDED

from bench.compare.sides import Side, sort_in
from bench.run.store import engine_word, engines_called, open_run
from reports.measured.reading import read, stored
from reports.statements.headline import headline

RUN = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))


def earlier(folder: Path, names: dict[str, str]) -> Path:
    """The reference run as an earlier version would have named its engines, without records."""
    document: dict[str, Any] = json.loads(json.dumps(RUN))
    document["cells"] = [cell for cell in document["cells"] if cell["engine"]["name"] in names]
    for cell in document["cells"]:
        cell["engine"]["name"] = names[cell["engine"]["name"]]
    document["plan"]["engines"] = [
        {**engine, "name": names[engine["name"]]} for engine in document["plan"]["engines"] if engine["name"] in names
    ]
    document["quality"] = {"baseline": "none", "engines": [{"engine": "none", "figures": None, "outcome": "failed"}]}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_what_an_engine_without_a_name_is_called() -> None:
    assert engine_word({"model": "meta-llama/Llama-3.1-8B"}) == "Llama-3.1-8B"
    assert engine_word({"model": "/models/mine/", "quantization": "none"}) == "mine"
    assert engine_word({"model": "m", "quantization": "int8"}) == "int8"
    assert engine_word({"model": "m"}, beside_others=True) == "unquantized"
    assert engine_word({}) == "engine"


def test_a_run_of_an_earlier_version_reads_well(tmp_path: Path) -> None:
    alone = stored(open_run(earlier(tmp_path / "alone", {"bf16": "none"})))
    assert alone.engines == ("demo-100m",)
    assert " ".join(headline(alone)).startswith("demo-100m delivered up to 190 output tokens/s")
    assert alone.cells[0].id == "bf16-c1-r1"  # a folder
    assert alone.document["quality"]["baseline"] == "demo-100m"
    assert [entry["engine"] for entry in alone.quality] == ["demo-100m"]
    beside = read(open_run(earlier(tmp_path / "beside", {"bf16": "none", "int8": "int8"})))
    assert beside.engines == ("unquantized", "int8")
    assert [entry["engine"] for entry in beside.quality] == ["unquantized"]


def test_an_earlier_run_is_compared_by_the_name_of_today(tmp_path: Path) -> None:
    side = Side("old", [open_run(earlier(tmp_path / "old", {"bf16": "none-max_num_seqs-8", "int8": "int8"}))])
    sort_in(side)
    assert {engine for engine, _ in side.cells} == {"unquantized-max_num_seqs-8", "int8"}


def test_a_name_that_somebody_gave_stays() -> None:
    named = {"cells": [{"engine": {"name": "none", "quantization": "int8"}}, {"engine": {"name": "nonesuch"}}, "torn"]}
    assert engines_called(named) is named
    taken = {"cells": [{"engine": {"name": "none", "model": "a"}}, {"engine": {"name": "unquantized", "model": "a"}}]}
    assert engines_called(taken) is taken
