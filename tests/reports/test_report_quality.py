"""Quality in a report: figures from the rows, the guide beside them, what was not applied, what has none and why."""

import json
import math
from pathlib import Path

import made_runs
import pytest

from reports.content import content
from reports.layout import html, markdown
from reports.report import read_report, write_report
from reports.statements.quality import standing, statement

pytestmark = pytest.mark.slow


def judged(path: Path) -> made_runs.RunFolder:
    run = made_runs.nine_cells(path)
    run.judge("bf16", 0.0)
    run.judge("int8", 0.0)
    run.judge("int4", 0.006)
    return run


def test_the_verdict_says_which_model_each_figure_is_of(tmp_path: Path) -> None:
    text = statement(read_report(judged(tmp_path / "run").write()))
    assert text.startswith(
        "Quality, on 240 held-out tokens of demo-1m (speed and memory are of demo-100m, with made-up weights): "
        "worse than bf16: int4 (ΔNLL +0.0060 ± "
    )
    # Six pieces lose 0.004 a token and six 0.008: √(12/11 · 12 · (20 · 0.002)²) / 240
    assert f"± {math.sqrt(12 / 11 * 12 * 0.04**2) / 240:.4f}, perplexity +0.60 %)" in text
    assert "not applied, because predictions did not change: int8." in text


# With x lost, 1/2·x + 1/10·ln(0.1 ÷ (0.1 + 1/2·(1 − e^−x))): 0.0000237 for x = 0.004, 0.0000932 for x = 0.008. Six
# pieces of each kind: √(12/11 · 12 · (20 · 0.0000347)²) / 240.
KL = "0.00006 ± 0.00001"


def test_the_section_has_every_figure_and_the_guide_beside_it(tmp_path: Path) -> None:
    made = content(read_report(judged(tmp_path / "run").write()))
    section = next(one for one in made.sections if one.id == "quality")
    figures, guide = section.tables
    assert [[entry.text for entry in row] for row in figures.rows] == [
        ["bf16", "demo-1m", "2.00", "–", "–", "–", "–", "–", "baseline"],
        ["int8", "demo-1m", "2.00", "+0.0000 ± 0.0000", "+0.0000 … +0.0000", "+0.00 %", "0", "100.0 %",
         "not applied"],
        ["int4", "demo-1m", "2.01", "+0.0060 ± 0.0006", "+0.0047 … +0.0073", "+0.60 %", KL, "100.0 %",
         "worse"],
    ]  # fmt: skip
    assert figures.rows[1][-1].tone == figures.rows[2][-1].tone == "bad"
    assert "over 12 pieces" in figures.notes[0]
    assert "2 likeliest tokens" in figures.notes[0]
    assert "at least 90 %" in figures.notes[0]
    assert [[entry.text for entry in row][:5] for row in guide.rows] == [
        ["bf16", "FP16 (baseline)", "0 %", "0 % (186 MiB)", "0 %"],
        ["int8", "INT8", "50 %", "46 % (101 MiB)", "< 2 %"],
        ["int4", "INT4", "75 %", "67 % (62.0 MiB)", "2 to 5 %"],
    ]
    assert guide.rows[2][5].text == "+0.60 % (+0.47 to +0.74)"
    assert "tokens/s are of demo-100m, perplexity is of demo-1m" in guide.notes[0]
    (picture,) = section.pictures
    assert "Tokens/s are of demo-100m, ΔNLL is of demo-1m" in picture.caption
    assert "int4: " in picture.description
    assert "ΔNLL +0.0060 ± 0.0006" in picture.description


def test_page_markdown_and_files_have_the_section(tmp_path: Path) -> None:
    folder = judged(tmp_path / "run").write()
    paths = write_report(folder)
    assert folder / "figures" / "quality.svg" in paths.figures
    made = content(read_report(folder))
    assert '<a href="#quality">Quality beside speed</a>' in html(made)
    assert "hollow: not applied" in html(made)
    assert "![" in markdown(made).split("## Quality beside speed")[1].split("##")[0]
    assert [entry["engine"] for entry in made.numbers["quality"]] == ["bf16", "int8", "int4"]


def test_engines_without_quality_are_named_with_the_reason_once(tmp_path: Path) -> None:
    run = judged(tmp_path / "run")
    for name in ("fp8", "mxfp4"):
        run.judge(name, None, outcome="unsupported", reason="The engine said: no such kernel.")
    run.judge("gptq", None, outcome="pending")
    report = read_report(run.write())
    assert statement(report).endswith(
        "No quality of fp8, mxfp4 and gptq: the reasons are under “Quality beside speed”."
    )
    figures = next(one for one in content(report).sections if one.id == "quality").tables[0]
    assert [row[-1].text for row in figures.rows][3:] == ["no quality"] * 3
    assert [note for note in figures.notes if note.startswith("No quality")] == [
        "No quality of fp8 and mxfp4: The engine said: no such kernel.",
        "No quality of gptq: it was not measured yet.",
    ]


def test_random_weights_have_no_quality_and_no_number(tmp_path: Path) -> None:
    run = made_runs.nine_cells(tmp_path / "run")
    for name in ("bf16", "int8"):
        run.judge(name, None, outcome="unsupported", reason="No quality: demo-100m has random weights, …")
    report = read_report(run.write())
    assert "no statement about quality can be made" in statement(report)
    (section,) = (one for one in content(report).sections if one.id == "quality")
    assert section.paragraphs == ("No quality: demo-100m has random weights, …",)
    assert (section.tables, section.pictures) == ((), ())


def test_an_engine_of_other_tokens_stands_alone(tmp_path: Path) -> None:
    run = judged(tmp_path / "run")
    run.judge("other", 0.1, tokens_sha256="0" * 64)
    report = read_report(run.write())
    other = report.quality[-1]
    assert standing(other) is None
    assert "not to be held against it: other" in statement(report)
    figures = next(one for one in content(report).sections if one.id == "quality").tables[0]
    assert figures.rows[-1][-1].text == "alone"
    assert any("other: its tokens are not the baseline's" in note for note in figures.notes)


def test_what_run_json_stores_of_quality_is_held_against_the_rows(tmp_path: Path) -> None:
    folder = judged(tmp_path / "run").write()
    document = json.loads((folder / "run.json").read_text())
    document["quality"]["engines"][2]["against"]["delta_nll"] = 0.0
    (folder / "run.json").write_text(json.dumps(document))
    report = read_report(folder)
    assert report.quality[2]["against"]["delta_nll"] == pytest.approx(0.006, abs=1e-6)
    assert "differ from what the records give in the quality of int4" in " ".join(content(report).statements)


def test_rows_that_cannot_be_read_leave_the_engine_without_quality(tmp_path: Path) -> None:
    folder = judged(tmp_path / "run").write()
    (folder / "quality" / "int4.parquet").write_bytes(b"PAR1 no more")
    (folder / "quality" / "int8.parquet").unlink()
    figures = next(one for one in content(read_report(folder)).sections if one.id == "quality").tables[0]
    assert [row[-1].text for row in figures.rows] == ["baseline", "no quality", "no quality"]
    assert any("Its rows are missing" in note for note in figures.notes)
    assert any("int4.parquet: not a readable Parquet file" in note for note in figures.notes)


def test_a_server_that_varies_is_said_to(tmp_path: Path) -> None:
    run = made_runs.nine_cells(tmp_path / "run")
    run.judge("bf16", 0.0, repeat_kl=0.0004)
    run.judge("int8", 0.001)
    report = read_report(run.write())
    figures = next(one for one in content(report).sections if one.id == "quality").tables[0]
    assert any("differed from themselves by a KL of: bf16 0.00040" in note for note in figures.notes)
    assert standing(report.quality[1]) == "not applied"  # less than what asking twice changes


def test_weights_that_were_only_rounded_are_said_to_be(tmp_path: Path) -> None:
    run = made_runs.nine_cells(tmp_path / "run")
    run.judge("bf16", 0.0)
    run.judge("int4", 0.006, rounded=True)
    report = read_report(run.write())
    assert "perplexity +0.60 %, its weights rounded)" in statement(report)
    figures = next(one for one in content(report).sections if one.id == "quality").tables[0]
    assert figures.rows[1][-1].text == "worse (rounded)"
    assert any("no kernel for int4 runs on this machine" in note for note in figures.notes)


def test_without_throughput_there_is_no_figure(tmp_path: Path) -> None:
    run = made_runs.RunFolder(tmp_path / "run")
    for name in ("bf16", "int8"):
        run.add(name, made_runs.closed_load(1), None, outcome="failed", reason="It broke.")
        run.judge(name, 0.0)
    (section,) = (one for one in content(read_report(run.write())).sections if one.id == "quality")
    assert section.pictures == ()
    assert len(section.tables) == 2
