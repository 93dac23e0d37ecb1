"""Every page as Streamlit runs it, without a browser: with runs, without any, and with what cannot be read."""

import os
import shutil
from pathlib import Path

import pytest
import streamlit as st
from made_shelf import add_run
from opened import PAGES, Open, figures, specs, subheadings, text, warnings

from dashboards import app_pages
from dashboards.screens.live import found
from dashboards.settings import VARIABLE

pytestmark = pytest.mark.slow


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


def test_live_says_who_does_not_answer(visit: Open, shelf: Path) -> None:
    said = text(visit("live", shelf))
    assert "0 of 1 server answering" in said
    assert said.count("oes not answer: http://127.0.0.1:9") == 2


def test_nothing_of_the_app_is_left_in_the_environment() -> None:
    assert VARIABLE not in os.environ


def test_the_overview_leads_to_every_other_page() -> None:
    """Itself apart, and Benchmarks, to which the runs that it lists lead."""
    assert set(app_pages.ANSWERS) == {name for name, _ in app_pages.PAGES} - {"overview", "benchmarks"}
