"""How fast the app is in a browser, and what is wrong with its pages: `python -m dashboards.measure [--out FILE]`.

Makes 200 runs, one of them with a million requests, starts the app on them, and measures in Chromium, page by page:

  first paint    from the start of navigation to the browser's first contentful paint
  shown          from the start of navigation until the page's script has run to its end and its figures are drawn
  interaction    from a choice or an edit until what depends on it has changed, the median of several
  faults         of each page, light and dark: what axe finds against WCAG 2.1 A and AA, requests to elsewhere, errors
                 and warnings in the browser's console

The medians go to a JSON file with the machine, its load, and every single value. Needs Chromium and playwright; nothing
of it is asserted in tests.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.run.records import SCHEMA
from bench.run.stats.distributions import distribution
from bench.run.stats.latencies import latencies
from dashboards.app_pages import PAGES
from dashboards.settings import SAMPLE

ROOT = Path(__file__).parent.parent
RUNS = 200
REQUESTS = 1_000_000
TOKENS = 16  # of each answer: 15 million gaps
VISITS = 5
LARGE = "20990101T000000Z-million-0000"
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# Streamlit looks for its server below the page's own path first; on a page opened by its address that is a 404 each.
PROBE = re.compile(r"/_stcore/(health|host-config)$")
IDLE = (
    "!!document.querySelector('.nb-end') && "
    "!document.querySelector('[data-testid=stStatusWidget]') && !document.querySelector('[data-stale=true]') && "
    "!!document.querySelector('h1') && [...document.querySelectorAll('[data-testid=stVegaLiteChart]')].every("
    "chart => chart.querySelector('svg'))"
)


def make_runs(folder: Path, *, runs: int = RUNS, requests: int = REQUESTS) -> None:
    """Copies of the reference run, its records included, and a run of one cell with `requests` records."""
    document = json.loads((SAMPLE / "run.json").read_text(encoding="utf-8"))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for index in range(runs - 1):
        created = start + timedelta(hours=index)
        run_id = f"{created:%Y%m%dT%H%M%SZ}-default-{index:04x}"
        path = folder / run_id
        shutil.copytree(SAMPLE, path)
        changed = {**document, "run_id": run_id, "created": created.isoformat()}
        (path / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    _large(folder / LARGE, document, requests)


def _large(path: Path, document: dict[str, Any], requests: int) -> None:
    cell = {**document["cells"][2], "id": "bf16-c16-r1"}
    records = path / "cells" / cell["id"] / "requests.parquet"
    records.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(records, SCHEMA, compression="zstd") as writer:
        for first in range(0, requests, 100_000):
            writer.write_table(_records(rng, first, min(100_000, requests - first)))
    table = pq.read_table(records, columns=[n for n in SCHEMA.names if n not in ("chunk_s", "chunk_tokens")])
    values = latencies(table)
    metrics = cell["metrics"] | {
        "requests": {"total": requests, "ok": requests, "failed": 0, "dropped": 0, "by_outcome": {"ok": requests}},
        "output_tokens": requests * TOKENS,
        **{name: distribution(values[name]) for name in ("ttft_s", "tpot_s", "e2e_s")},
    }
    alone = {name: value for name, value in document.items() if name not in ("capacity", "quality")}
    whole = {
        **alone,
        "run_id": LARGE,
        "created": "2099-01-01T00:00:00+00:00",
        "cells": [{**cell, "metrics": metrics}],
    }
    (path / "run.json").write_text(json.dumps(whole), encoding="utf-8")


def _records(rng: np.random.Generator, first: int, count: int) -> pa.Table:
    sent = (first + np.arange(count)) / 100.0
    gaps = np.concatenate([rng.lognormal(-1.2, 0.3, (count, 1)), rng.lognormal(-3.5, 0.3, (count, TOKENS - 1))], axis=1)
    chunks = sent[:, None] + np.cumsum(gaps, axis=1)
    offsets = pa.array(np.arange(0, (count + 1) * TOKENS, TOKENS, dtype=np.int32))
    columns: dict[str, Any] = {
        "request_id": pa.array([f"r{first + index}" for index in range(count)]),
        "scenario": pa.array(["completion"] * count),
        "scheduled_s": sent,
        "sent_s": sent,
        "headers_s": sent + 0.001,
        "first_token_s": chunks[:, 0],
        "last_token_s": chunks[:, -1],
        "ended_s": chunks[:, -1] + 0.001,
        "chunk_s": pa.ListArray.from_arrays(offsets, pa.array(chunks.reshape(-1))),
        "chunk_tokens": pa.ListArray.from_arrays(offsets, pa.array(np.ones(count * TOKENS, dtype=np.int32))),
        "outcome": pa.array(["ok"] * count),
        "output_tokens": np.full(count, TOKENS, dtype=np.int32),
        "prompt_tokens": np.full(count, 64, dtype=np.int32),
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def start_app(runs: Path, *flags: str, within: Path = ROOT) -> tuple[subprocess.Popen[bytes], str]:
    """The app on a free port, answering, started in the folder `within`; `flags` are more of `nbridge dashboard`."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "nbridge", "dashboard", "--runs", str(runs.resolve()), "--port", str(port), *flags]
    app = subprocess.Popen(argv, cwd=within, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return app, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    app.terminate()
    raise SystemExit("the app did not answer within a minute")


def visit(browser: Any, address: str) -> dict[str, float]:
    """One visit in a fresh tab of a fresh context: nothing is cached in the browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_function(IDLE, polling=20)
    shown_s = tab.evaluate("performance.now()") / 1000
    paint_s = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000")
    context.close()
    return {"first_paint_s": paint_s, "shown_s": shown_s}


def faults(browser: Any, address: str, scheme: str) -> dict[str, list[str]]:
    """What is wrong with a page: rules of axe that it breaks, addresses elsewhere that it asks, its console's words."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("console", lambda message: said.append(message.text) if _is_fault(message) else None)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.wait_for_function(IDLE, polling=20)
    broken = [one["id"] for one in Axe().run(tab, options=WCAG).response["violations"]]
    context.close()
    host = address.split("/")[2]
    own = (f"http://{host}", f"ws://{host}", "data:", "blob:")
    return {"axe": broken, "outside": [url for url in asked if not url.startswith(own)], "console": said}


def _is_fault(message: Any) -> bool:
    return message.type in ("error", "warning") and not PROBE.search(message.location.get("url", ""))


def interaction(tab: Any, act: Callable[[], None], watched: str) -> float:
    """Seconds from `act` until what the script `watched` returns has changed and the page is idle."""
    before = tab.evaluate(watched)
    tab.evaluate("window.measuredFrom = performance.now()")
    act()
    tab.wait_for_function(f"(before => ({watched}) !== before && {IDLE})", arg=before, polling=10)
    return float(tab.evaluate("performance.now() - window.measuredFrom") / 1000)


def html_of(name: str) -> str:
    return f"document.querySelector('.st-key-figure-{name} .vega-embed')?.innerHTML"


def interactions(browser: Any, address: str) -> dict[str, list[float]]:
    """What visitors do most: another latency, another load, another run, an assumption, a model's quantization."""
    from playwright.sync_api import TimeoutError

    found: dict[str, list[float]] = {}
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()

    def opened(path: str) -> None:
        tab.goto(f"{address}/{path}")
        tab.wait_for_function(IDLE, polling=20)

    def pressed(name: str) -> None:
        tab.get_by_role("radio", name=name, exact=True).first.click()  # further down, single requests go by one, too

    def picked(label: str, option: str, watched: str) -> float:
        choice = tab.get_by_role("option", name=option).first
        for _ in range(5):  # a list that opens while the page still settles closes again
            tab.get_by_role("combobox", name=label).first.click()
            with contextlib.suppress(TimeoutError):
                choice.wait_for(timeout=2000)
                break
        return interaction(tab, choice.click, watched)

    charts = "[...document.querySelectorAll('.vega-embed')].map(e => e.innerHTML).join()"
    for run, key in (("sample", "sample run"), (LARGE, "run of a million requests")):
        opened(f"benchmarks?run={run}")
        found[f"benchmarks: another latency, {key}"] = [
            interaction(tab, partial(pressed, name), charts) for name in ("E2E latency", "TPOT", "TTFT", "TPOT")
        ]
        options = ("whole answer", "time per output token", "time to first token")
        found[f"benchmarks: another distribution, {key}"] = [
            picked("Distribution of", name, charts) for name in options
        ]
    opened("benchmarks?run=sample")
    found["benchmarks: another cell"] = [
        picked("Cell", name, html_of("over-time")) for name in ("bf16-c1-r1", "int8-c4-r1", "int4-c4-r1")
    ]
    opened("cost")
    tab.get_by_text("All other assumptions").click()
    field = tab.get_by_role("textbox", name="Cost of an hour of that work")

    def edited(value: int) -> None:
        field.fill(f"{value} / {2 * value} / {3 * value}")
        field.press("Enter")

    found["cost: an assumption edited"] = [
        interaction(tab, partial(edited, value), html_of("tornado")) for value in (10, 20, 30, 40, 50)
    ]
    opened("capacity")
    found["capacity: another quantization"] = [
        picked("Quantization", name, html_of("vram")) for name in ("int8", "int4", "none")
    ]
    context.close()
    return found


def measure(folder: Path) -> dict[str, Any]:
    """The document with all values."""
    from playwright.sync_api import sync_playwright

    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if chromium is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    app, address = start_app(folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            browser.new_page().goto(address)
            pages: dict[str, list[dict[str, float]]] = {}
            paths = {title: "" if name == "overview" else name for name, title in PAGES}
            for title, path in {**paths, "Benchmarks, a million requests": f"benchmarks?run={LARGE}"}.items():
                pages[title] = [visit(browser, f"{address}/{path}") for _ in range(VISITS)]
            wrong = {
                f"{title}, {scheme}": faults(browser, f"{address}/{path}", scheme)
                for title, path in paths.items()
                for scheme in ("light", "dark")
            }
            acts = interactions(browser, address)
            version = browser.version
            browser.close()
    finally:
        app.terminate()
        app.wait(timeout=30)
    return {
        "runs": RUNS,
        "requests_of_the_largest_run": REQUESTS,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "chromium": version,
        },
        "pages": {
            title: {name: round(statistics.median(one[name] for one in visits), 3) for name in visits[0]}
            for title, visits in pages.items()
        },
        "interactions_s": {name: round(statistics.median(values), 3) for name, values in acts.items()},
        "faults": {kind: sum(len(one[kind]) for one in wrong.values()) for kind in ("axe", "outside", "console")},
        "every_value": {"pages": pages, "interactions_s": acts, "faults": wrong},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("reports/published/dashboard.json"))
    parser.add_argument("--runs", type=Path, help="a folder of runs made by an earlier call; made anew when not given")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.runs or Path(temporary)
        if not (folder / LARGE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_runs(folder)
        document = measure(folder)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    chosen.out.write_text(f"{text}\n", encoding="utf-8")
    sys.stdout.write(
        json.dumps({key: document[key] for key in ("machine", "pages", "interactions_s", "faults")}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
