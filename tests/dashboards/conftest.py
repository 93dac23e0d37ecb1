"""What several files of tests show: pages opened without a browser, runs to open them on, the reference run."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_shelf import add_run
from recordings import RECORDED

from bench.run.store import open_run
from dashboards import app_pages, library
from dashboards.settings import VARIABLE
from reports.measured.cells import Report
from reports.measured.reading import stored


@pytest.fixture(autouse=True)
def recorded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's sample run is the published one, which is measured anew now and then: here a run that stays."""
    monkeypatch.setattr(library, "SAMPLE", RECORDED)


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a page of the app with `runs` as its folder and nobody to answer."""
    import streamlit as st  # a second or two, which only those pay who open a page
    from streamlit.testing.v1 import AppTest

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


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good runs, one of them with records and twice as fast, and a broken folder; nobody changes them."""
    folder = tmp_path_factory.mktemp("runs")
    add_run(folder, "20260101T000000Z-a-0001", created="2026-01-01T00:00:00+00:00")
    add_run(folder, "20260201T000000Z-b-0002", created="2026-02-01T00:00:00+00:00", speed=2.0, records=True)
    add_run(folder, "20251201T000000Z-c-0003", created="2025-12-01T00:00:00+00:00", finished=None)
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def reference() -> Report:
    return stored(open_run(RECORDED))
