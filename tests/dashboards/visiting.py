"""The app as a visitor has it: started as a command, opened in Chromium, by tabs that remember what went wrong."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from dashboards.measure import PROBE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


@contextlib.contextmanager
def app(runs: Path, *flags: str) -> Iterator[str]:
    """The running app's address; `flags` are those of `nbridge dashboard`. At its end it has printed no traceback."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "nbridge", "dashboard", "--runs", runs, "--port", port, "--json", *flags]
    started = subprocess.Popen(
        list(map(str, argv)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        url = json.loads(started.stdout.readline())["url"]
        _ready(url, started)
        yield url
    finally:
        started.terminate()
        _, errors = started.communicate(timeout=300)
    assert "Traceback" not in errors, errors[-3000:]


def _ready(url: str, process: subprocess.Popen[str]) -> None:
    def answers() -> bool:
        assert process.poll() is None, "the app ended"
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=60) as answer:
                return answer.status == 200
        except OSError:
            return False

    wait_for(answers)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


class Visit:
    """A tab that remembers what went wrong and who was asked."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address = address
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(300_000)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.tab.on("console", self._said)
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning") and not PROBE.search(message.location.get("url", "")):
            self.problems.append(f"{message.text} ({message.location.get('url')})")

    def _asked(self, request: Any) -> None:
        own = (self.address, self.address.replace("http", "ws", 1), "data:", "blob:")
        if not request.url.startswith(own):
            self.outside.append(request.url)

    def settled(self) -> None:
        """Wait until the page's script has run to its end and nothing is stale."""
        self.tab.wait_for_selector("h1")
        self.tab.wait_for_selector(".nb-end", state="attached")
        self.tab.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")
        self.tab.wait_for_function("!document.querySelector('[data-stale=true]')")

    def go(self, name: str, title: str, head: str) -> None:
        self.tab.get_by_role("link", name=title, exact=True).first.click()
        self.tab.wait_for_selector(f".nb-end[data-page='{'' if name == 'overview' else name}']", state="attached")
        self.tab.wait_for_selector(f"h1:has-text('{head}')")
        self.settled()
