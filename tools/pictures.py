"""The pictures of the app in README and docs, taken anew in Chromium: `python -m tools.pictures` or `make pictures`.

RUNS holds real runs (default: the reference run that comes with Neural Bridge), URL is a server that may be put under
load for Live. `--look FOLDER` takes every page whole instead, light, dark and 390 pixels wide, to be looked at; nothing
of it is kept in the repository.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dashboards.app_pages import PAGES
from dashboards.measure import IDLE, start_app
from dashboards.settings import SAMPLE

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH, NARROW = 1280, 390
# Of each: the page's address after the app's, what is first seen there (a CSS selector), and how high it is.
PICTURES = {
    "dashboard-overview": ("", "h1", 1210),
    "dashboard-live": ("live", "h1", 1185),
    "dashboard-benchmarks": ("benchmarks", "h1", 1180),
    "dashboard-cell": ("benchmarks", "[class*=st-key-figure-over-time]", 1150),
    "dashboard-cost": ("cost?hosting=buy", "h1", 1450),
}
LOAD = """name = "live"
[[loads]]
concurrency = 6
seconds = 150
[defaults.load]
prompt_tokens = 96
output_tokens = 64
"""
WATCHED_S = 75  # of load before Live is taken: its rates are of the last 60 s


def taken(tab: Any, address: str, path: str, selector: str, height: int, wait_s: float = 0) -> bytes:
    """A page from where `selector` begins on, `height` pixels of it."""
    tab.set_viewport_size({"width": WIDTH, "height": 900})
    tab.goto(f"{address}/{path}")
    tab.wait_for_function(IDLE)
    tab.wait_for_timeout(1000 * wait_s)
    whole(tab)
    tab.wait_for_function(IDLE)
    top = 0 if selector == "h1" else tab.locator(selector).first.bounding_box()["y"] - 50  # its heading
    picture: bytes = tab.screenshot(clip={"x": 0, "y": top, "width": WIDTH, "height": height})
    return picture


def whole(tab: Any) -> None:
    """A window as high as the page: Streamlit scrolls inside of it."""
    height = tab.evaluate("document.querySelector('.stMain').scrollHeight")
    tab.set_viewport_size({"width": tab.viewport_size["width"], "height": height})
    tab.wait_for_function(IDLE)
    tab.wait_for_timeout(700)  # figures are drawn anew at another width


def saved(picture: bytes, path: Path) -> None:
    """As a PNG of at most 256 colours, which is half as large and looks the same."""
    path.write_bytes(picture)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


@contextlib.contextmanager
def loaded(server: str | None) -> Iterator[None]:
    """The server under load meanwhile."""
    if server is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "live.toml"
        plan.write_text(LOAD, encoding="utf-8")
        argv = [sys.executable, "-m", "nbridge", "bench", str(plan), "--target", server, "--out", folder]
        bench = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            bench.terminate()
            bench.wait(timeout=60)


def looked_at(browser: Any, address: str, out: Path) -> None:
    """Every page whole, in both colours and narrow."""
    out.mkdir(parents=True, exist_ok=True)
    for scheme, width in (("light", WIDTH), ("dark", WIDTH), ("light", NARROW), ("dark", NARROW)):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab = context.new_page()
        for name, _ in PAGES:
            tab.set_viewport_size({"width": width, "height": 900})
            tab.goto(f"{address}/{'' if name == 'overview' else name}")
            tab.wait_for_function(IDLE)
            whole(tab)
            tab.screenshot(path=out / f"{name}-{scheme}-{width}.png")
        context.close()


@contextlib.contextmanager
def shown(runs: Path | None) -> Iterator[Path]:
    """The folder of runs, of the reference run alone where none is named."""
    if runs is not None:
        yield runs
        return
    with tempfile.TemporaryDirectory() as folder:
        run_id = str(json.loads((SAMPLE / "run.json").read_text(encoding="utf-8"))["run_id"])
        shutil.copytree(SAMPLE, Path(folder) / "runs" / run_id)
        yield Path(folder) / "runs"


def report(browser: Any, page: Path) -> None:
    """The beginning of a run's report."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": 1460})
    tab.goto(page.resolve().as_uri())
    saved(tab.screenshot(), IMAGES / "report.png")
    tab.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, help="a folder of real runs")
    parser.add_argument("--server", help="a server to watch and to put under load for Live")
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), help="take these alone")
    parser.add_argument("--run", help="the run of theirs that Benchmarks shows (default: the newest)")
    parser.add_argument("--report", type=Path, help="a report.html whose beginning is taken, too")
    parser.add_argument("--look", type=Path, help="take every page whole into this folder instead")
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    with shown(chosen.runs) as runs:
        # Started beside the runs: a page names their folder from there.
        watched = ["--server", chosen.server] if chosen.server else []
        app, address = start_app(runs, *watched, within=runs.resolve().parent)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
                )
                if chosen.look:
                    looked_at(browser, address, chosen.look)
                else:
                    kept(browser, address, chosen)
        finally:
            app.terminate()
            app.wait(timeout=30)


def kept(browser: Any, address: str, chosen: argparse.Namespace) -> None:
    """The pictures that stand in README and docs."""
    tab = browser.new_page()
    for name in chosen.only or PICTURES:
        path, selector, height = PICTURES[name]
        query = f"run={chosen.run}" if chosen.run and path == "benchmarks" else ""
        with loaded(chosen.server if path == "live" else None):
            wait_s = WATCHED_S if path == "live" and chosen.server else 0
            picture = taken(tab, address, f"{path}?{query}" if query else path, selector, height, wait_s)
        saved(picture, IMAGES / f"{name}.png")
    if chosen.report:
        report(browser, chosen.report)


if __name__ == "__main__":
    main()
