"""Somebody who sees the app for the first time: opens it, understands, measures a real server, decides. In Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import visiting
from visiting import Visit

from serve.engine.server import Server

pytestmark = [visiting.needs_chromium, pytest.mark.engine, pytest.mark.slow]


class Hand:
    """Clicks, and counts them."""

    def __init__(self, visit: Visit) -> None:
        self.tab, self.clicks = visit.tab, 0

    def click(self, found: Any) -> None:
        found.click()
        self.clicks += 1


@pytest.fixture
def visit(tmp_path: Path, engine_server: Server) -> Iterator[Visit]:
    """A tab on the app of a machine without runs, which watches a real vLLM server."""
    with visiting.app(tmp_path / "runs", "--server", engine_server.base_url) as url, visiting.chromium() as browser:
        yield Visit(browser, url)


def test_a_newcomer_opens_understands_measures_and_decides(visit: Visit, tmp_path: Path, engine_server: Server) -> None:
    tab, hand = visit.tab, Hand(visit)
    tab.goto(visit.address)
    visit.settled()
    assert "Should you run an open LLM on your own hardware" in tab.inner_text("body")  # what it is for
    assert "int8 has the highest goodput" in tab.inner_text(".nb-verdict")  # what an answer looks like

    hand.click(tab.get_by_role("link", name="Measure", exact=True))
    server = tab.get_by_role("textbox", name="A server that already runs")
    hand.click(server)
    tab.keyboard.type(engine_server.base_url)
    tab.keyboard.press("Tab")
    tab.get_by_text("One server that runs").wait_for()
    hand.click(tab.get_by_role("button", name="Start", exact=True))
    tab.get_by_role("heading", name="At work: default on").wait_for()
    assert hand.clicks <= 3
    tab.get_by_text("Cell 2 of").wait_for()  # the first is measured: that is enough to see what becomes of it
    hand.click(tab.get_by_role("button", name="Cancel"))
    tab.get_by_role("heading", name="Ended: default on").wait_for()

    hand.click(tab.get_by_role("link", name="All its figures"))
    tab.wait_for_selector("h1:has-text('Benchmarks')")
    visit.settled()
    (run,) = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    assert f"run={run.name}" in tab.url
    assert "demo-1m" in tab.inner_text(".nb-verdict")
    tab.wait_for_selector(".st-key-figure-over-time .vega-embed svg")  # its metrics were sampled beside the load

    visit.go("cost", "Cost", "Cost")
    hand.click(tab.get_by_role("combobox", name="Speed of a replica"))
    hand.click(tab.get_by_role("option", name=run.name[-4:]))
    tab.wait_for_url(f"**speed_from={run.name}*")
    visit.settled()
    assert "own hardware" in tab.inner_text(".nb-verdict")
    assert (visit.problems, visit.outside) == ([], [])
