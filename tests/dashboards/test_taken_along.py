"""What can be taken along from a page: the case of the Cost page as a file, a page as Markdown with its link."""

import tomllib
from datetime import date
from pathlib import Path

import pytest
from recordings import RECORDED

from bench.run.store import open_run
from dashboards import taken
from dashboards.screens.cost.case_file import case_toml
from planning.cost.assumptions import changed, load_case, parse_case
from planning.cost.measured import with_run

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize("path", [None, EXAMPLES / "case.toml"])
def test_the_case_reads_back_as_it_was(path: Path | None) -> None:
    case = changed(load_case(path), {"tokens_per_month": 5e8, "ops_hours_per_month": (1, 2, 40)})
    assert parse_case(tomllib.loads(case_toml(case)), source="case.toml") == case


def test_a_case_with_the_speed_of_a_run_reads_back_too() -> None:
    case = with_run(load_case(), open_run(RECORDED).document, engine="int8")
    found = parse_case(tomllib.loads(case_toml(case)), source="case.toml")
    assert found == case
    assert found.inputs["output_tok_s"].source == case.inputs["output_tok_s"].source
    assert isinstance(found.inputs["output_tok_s"].date, date | None)


def test_texts_with_quotes_and_controls_are_escaped() -> None:
    case = load_case().model_copy(update={"name": 'a "b" \\ \n \x7f ü', "notes": ("x\ty",)})
    assert tomllib.loads(case_toml(case))["name"] == case.name
    assert tomllib.loads(case_toml(case))["notes"] == ["x\ty"]


def test_markdown_takes_no_text_for_markup() -> None:
    assert taken.plain("a|b\n*c* [d](e) <f>") == "a\\|b \\*c\\* \\[d\\](e) \\<f\\>"
