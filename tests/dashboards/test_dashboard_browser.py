"""The app as a visitor has it: real runs, a server's page, and Chromium. One walk over all pages."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import visiting
from made_shelf import add_run, gpu_page, page
from serving import serving
from visiting import Visit

from dashboards import app_pages
from dashboards.measure import WCAG

Open = Callable[..., Visit]
WITHOUT_FIGURE = ("measure", "claims")

pytestmark = [
    visiting.needs_chromium,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),  # one app and one Chromium for all
]


def metrics(_: str) -> tuple[int, str]:
    """The page of a server that answers 50 tokens a second, one request a second, and of an exporter with a GPU."""
    now = time.monotonic()
    return 200, page(tokens=50 * now, requests=int(now), ttft_sum_s=0.2 * int(now)) + gpu_page()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The running app, over three runs and a broken folder, watching one server that answers and one that does not."""
    runs = tmp_path_factory.mktemp("runs")
    add_run(runs, "20260101T000000Z-a-0001", created="2026-01-01T00:00:00+00:00", records=True)
    add_run(runs, "20260201T000000Z-b-0002", created="2026-02-01T00:00:00+00:00", speed=1.5, records=True)
    add_run(runs, "20251201T000000Z-c-0003", created="2025-12-01T00:00:00+00:00")
    (runs / "broken").mkdir()
    with (
        serving(metrics) as watched,
        visiting.app(runs, "--server", watched, "--server", "http://127.0.0.1:9") as url,
    ):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with visiting.chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Open a page in a tab of its own. In none of a test's tabs may anything go wrong or anybody else be asked."""
    visits: list[Visit] = []

    def opened(path: str = "", **context: Any) -> Visit:
        one = Visit(browser, address, **context)
        visits.append(one)
        one.tab.goto(path if path.startswith(address) else f"{address}/{path}")
        one.settled()
        return one

    yield opened
    found = [problem for one in visits for problem in (*one.problems, *one.outside)]
    for one in visits:
        one.context.close()
    assert found == []


def assert_accessible(visit: Visit, name: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(visit.tab, options=WCAG).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], name
    wide = visit.tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is wider than the window"


def test_a_walk_over_all_pages(open_page: Open) -> None:
    visit = open_page()
    for name, title in app_pages.PAGES:
        head = "Neural Bridge" if name == "overview" else title
        visit.go(name, title, head)
        if name not in WITHOUT_FIGURE:
            visit.tab.wait_for_selector("[data-testid=stVegaLiteChart] svg")
        assert_accessible(visit, name)


def test_an_assumption_changes_the_figure_and_stands_in_the_address(open_page: Open) -> None:
    visit = open_page("cost")
    drawn = "[class*='st-key-figure-tornado'] .vega-embed svg"
    visit.tab.wait_for_selector(drawn)
    before = visit.tab.inner_html(drawn)
    visit.tab.get_by_text("All other assumptions").click()
    field = visit.tab.get_by_role("textbox", name="Cost of an hour of that work")
    field.fill("10 / 20 / 30")
    field.press("Enter")
    visit.tab.wait_for_function(
        "([selector, old]) => document.querySelector(selector)?.innerHTML !== old", arg=[drawn, before]
    )
    visit.tab.wait_for_url("**a_wage_usd_per_hour=10*")
    shared = visit.tab.url
    other = open_page(shared)
    other.tab.wait_for_function("[...document.querySelectorAll('input')].some(field => field.value === '10 / 20 / 30')")


def test_live_figures_move_without_a_click(open_page: Open) -> None:
    visit = open_page("live")
    visit.tab.wait_for_selector("text=1 of 2 servers answering")
    visit.tab.wait_for_selector("dd:has-text('50.0')")  # tokens a second, known from the second look on
    assert visit.tab.get_by_text("Does not answer: http://127.0.0.1:9").count() == 1
    visit.tab.get_by_text("0: Example GPU").first.wait_for()


def test_a_request_is_picked_in_the_figure(open_page: Open) -> None:
    visit = open_page("benchmarks?run=sample&cell=int8-c4-r1")
    visit.tab.wait_for_selector(".st-key-figure-over-time .vega-embed svg .mark-line.role-mark path")
    points = ".st-key-figure-requests .vega-embed svg .mark-symbol.role-mark path"
    visit.tab.wait_for_selector(points)
    visit.tab.locator(points).nth(20).click(force=True)
    visit.tab.wait_for_url("**request=*")
    visit.tab.wait_for_selector(".st-key-figure-request .vega-embed svg .mark-rect.role-mark path")
    visit.settled()
    shared, picked = visit.tab.url, visit.tab.get_by_role("combobox", name="Request, the slowest first").input_value()
    other = open_page(shared)
    other.tab.wait_for_selector(".st-key-figure-request .vega-embed svg .mark-rect.role-mark path")
    assert other.tab.get_by_role("combobox", name="Request, the slowest first").input_value() == picked


def test_a_finished_run_is_played_at_its_own_pace(open_page: Open) -> None:
    visit = open_page("live")
    visit.tab.get_by_text("Replay a finished run").click()
    visit.tab.get_by_role("button", name="Replay it").click()
    visit.tab.wait_for_selector(".nb-verdict:has-text('nothing here is live')")
    visit.tab.wait_for_selector("[class*='st-key-figure-live-running'] .vega-embed svg")
    visit.tab.get_by_role("button", name="Stop the replay").click()
    visit.tab.wait_for_selector("text=1 of 2 servers answering")


def test_the_keyboard_alone_opens_a_page_and_changes_it(open_page: Open) -> None:
    visit = open_page("benchmarks?run=sample")
    visit.tab.wait_for_selector("[class*='st-key-figure-throughput-ttft'] .vega-embed svg")
    for _ in range(80):  # by Tab to the latency, one of a group
        visit.tab.keyboard.press("Tab")
        if visit.tab.evaluate("document.activeElement?.innerText") == "TTFT":
            visit.tab.keyboard.press("ArrowRight")  # where Tab leaves the whole group
        if visit.tab.evaluate("document.activeElement?.innerText") == "TPOT":
            break
    visit.tab.keyboard.press("Space")
    visit.tab.wait_for_selector("[class*='st-key-figure-throughput-tpot'] .vega-embed svg")


def test_figures_and_their_data_can_be_saved(open_page: Open, tmp_path: Path) -> None:
    visit = open_page("benchmarks?run=20260101T000000Z-a-0001", accept_downloads=True)
    visit.tab.wait_for_selector("[class*='st-key-figure-throughput'] .vega-embed svg")
    assert "304 output tokens/s" in visit.tab.inner_text(".nb-verdict")  # the run of the address, not the newest
    saved = {}
    for kind in ("svg", "png", "csv"):
        with visit.tab.expect_download() as waiting:
            if kind == "csv":
                visit.tab.get_by_role("button", name="Data as CSV").first.click()
            else:
                visit.tab.locator(f".nb-save[data-kind={kind}]").first.click()
        saved[kind] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(saved[kind])
    assert saved["svg"].name == "neural-bridge-throughput-ttft.svg"
    drawing = saved["svg"].read_text(encoding="utf-8")
    assert drawing.startswith("<svg")
    assert "<title>Output throughput against median TTFT</title>" in drawing
    assert "int8" in drawing
    assert saved["png"].read_bytes().startswith(b"\x89PNG")
    lines = saved["csv"].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("engine,load,at,line,latency_s,output_tok_s")
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("benchmarks", 390, "light"),
        ("benchmarks", 1280, "dark"),
        ("live", 390, "dark"),
        ("cost", 640, "dark"),
        ("compare", 390, "dark"),
        ("", 390, "light"),
        ("choose", 390, "light"),
        ("measure", 390, "dark"),
        ("capacity", 390, "light"),
        ("claims", 390, "dark"),
    ],
)  # 640: a window of 1,280 at 200 %
def test_narrow_and_dark_pages_are_accessible_too(open_page: Open, name: str, width: int, scheme: str) -> None:
    narrow = {"width": width, "height": 900}
    assert_accessible(open_page(name, color_scheme=scheme, viewport=narrow), name)
