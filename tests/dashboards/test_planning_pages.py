"""Capacity, Cost, Choose, Claims and Measure, as Streamlit runs them without a browser."""

import os
from pathlib import Path

import pytest
from opened import Open, figures, specs, text, warnings

from dashboards.screens.measure import jobs

pytestmark = pytest.mark.slow


def test_an_assumption_that_is_none_is_said(visit: Open, shelf: Path) -> None:
    page = visit("cost", shelf, tokens_per_month="abc")
    assert "asks for tokens_per_month = “abc”" in warnings(page)
    assert "Shown is: " in warnings(page)
    assert warnings(visit("cost", shelf, hosting="buy", exact="true")) == ""


def test_capacity_follows_what_is_chosen(visit: Open, shelf: Path) -> None:
    page = visit("capacity", shelf)
    assert "It does not fit." in text(page)
    page.selectbox(key="quantization").set_value("int4").run()
    assert "It fits." in text(page)
    page.number_input(key="context").set_value(1_000_000).run()
    assert "made for at most 131,072 tokens" in text(page)
    assert not page.exception


def test_an_unknown_model_is_answered_with_the_nearest(visit: Open, shelf: Path) -> None:
    page = visit("capacity", shelf, model="llama-3.1-8c")
    assert any("llama-3.1-8b" in error.value for error in page.error)
    assert not page.exception


def test_an_edited_assumption_moves_the_figures(visit: Open, shelf: Path) -> None:
    page = visit("cost", shelf)
    before, said = specs(page), text(page)
    page.text_input(key="a_wage_usd_per_hour").set_value("10 / 20 / 30").run()
    assert specs(page) != before
    assert text(page) != said
    page.select_slider(key="tokens_per_month").set_value(1e11).run()
    assert not page.exception


def test_an_impossible_assumption_is_said_and_the_rest_stays(visit: Open, shelf: Path) -> None:
    page = visit("cost", shelf)
    page.text_input(key="a_wage_usd_per_hour").set_value("-5").run()
    assert any("wage_usd_per_hour = -5" in error.value for error in page.error)
    assert figures(page) == 3


def test_cost_takes_the_speed_of_a_run(visit: Open, shelf: Path) -> None:
    page = visit("cost", shelf)
    page.selectbox(key="speed_from").set_value("sample").run()
    assert page.selectbox(key="engine").value == "bf16"
    assert not page.exception
    assert figures(page) == 3


def test_measure_checks_the_plan_and_offers_what_was_cut_off(visit: Open, shelf: Path) -> None:
    page = visit("measure", shelf)
    assert "3 engines × 3 loads × 1 repeat: 9 cells, 828 requests" in text(page)
    assert not page.button(key="start").disabled
    assert "c-0003: 9 of 9 cells valid, 0 to be measured" in text(page)
    page.text_area(key="text_default").set_value("[[loads]]\nconcurrency = 0\n").run()
    assert any(error.value.startswith("Line 2: ") for error in page.error)
    assert page.button(key="start").disabled
    page.text_area(key="text_default").set_value("name = 'x'\n[[loads]]\nconcurrency = 2\nrequests = 9\n")
    page.text_input(key="target").set_value("http://u:p@h").run()
    assert any("user or password" in error.value for error in page.error)
    assert page.button(key="start").disabled
    page.text_input(key="target").set_value("http://127.0.0.1:9").run()
    assert not page.error and not page.button(key="start").disabled
    assert not page.exception


def test_a_start_on_a_page_that_is_out_of_date_starts_nothing(visit: Open, shelf: Path, monkeypatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(jobs, "start", lambda runs, what, **_: started.append(what))
    page = visit("measure", shelf)
    other = jobs.Job("x", os.getpid(), "1", "2026-01-01T00:00:00+00:00", "another visitor's", (), str(shelf))
    monkeypatch.setattr(jobs, "at_work", lambda runs: other)
    monkeypatch.setattr(jobs, "jobs", lambda runs: [other])
    monkeypatch.setattr(jobs, "is_alive", lambda job: True)
    page.button(key="start").click().run()
    assert started == []
    assert "At work: another visitor's" in page.subheader[0].value
    assert "Not started: another measurement is at work" in text(page) and not page.exception


def test_choose_says_why_not_the_others(visit: Open, shelf: Path) -> None:
    page = visit("choose", shelf)
    page.number_input(key="max_tpot_ms").set_value(20)
    page.multiselect(key="languages").set_value(["zh"]).run()
    said = text(page)
    assert not page.exception
    assert "Take qwen2.5-7b w4a16 on 1 × rtx-4090: it meets the requirements, by bounds only: measure it" in said
    assert "does not claim the language zh" in said and "above the limit of 20" in said
    assert "the same model by API" in said and "What would change it" in said.replace("**", "")
    assert figures(page) == 2
    page.multiselect(key="languages").set_value([])
    page.number_input(key="max_tpot_ms").set_value(1)
    page.number_input(key="max_usd_per_hour").set_value(0.25).run()
    assert "None meets the requirements" in text(page)
    assert not page.exception


def test_choose_takes_runs_as_measured_and_any_model(visit: Open, shelf: Path) -> None:
    page = visit("choose", shelf, measured="20260201T000000Z-b-0002")
    assert "measured" in text(page)
    page.multiselect(key="models").set_value(["no-such-model"]).run()
    assert any("no-such-model" in error.value for error in page.error)
    assert not page.exception


def test_claims_may_be_written_and_taken_along_as_markdown(visit: Open, shelf: Path) -> None:
    page = visit("claims", shelf, of="a blog's break-even")
    assert "of 4 claims, 1 is wrong" in text(page)
    mine = """title = "Mine"
[[claims]]
id = "a"
where = "here"
text = "10 M tokens cost $400"
claimed = 400
unit = "USD/month"
formula = "tokens / 1e6 * price"
inputs.tokens = { value = 10e6, unit = "tokens/month" }
inputs.price = { value = 2.5, unit = "USD/M tokens" }
"""
    page.text_area(key="claims_text").set_value(mine).run()
    assert "Mine: of 1 claim, 1 is wrong or inconsistent" in text(page)
    (reply,) = [code.value for code in page.code]
    assert "- here: “10 M tokens cost $400”" in reply and "holds: **$25/month**" in reply
    page.text_area(key="claims_text").set_value(mine.replace("1e6 * price", "1e6 *")).run()
    assert any("claim 'a': The formula" in error.value for error in page.error)
    assert not any("/tmp" in error.value for error in page.error)
    assert not page.exception


def test_claims_lists_what_is_wrong_and_why(visit: Open, shelf: Path) -> None:
    page = visit("claims", shelf)
    said = text(page)
    assert "are wrong or inconsistent" in said
    assert "UNITS_10X" in said
    choices = page.selectbox(key="claim").options
    assert len(choices) >= 20
