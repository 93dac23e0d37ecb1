"""What tests of several packages share: one real vLLM server, and the command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import forks
import pytest
from hypothesis import settings as hypothesis_settings

from bench.golden import running
from checkpoints.prepare import prepare
from serve.engine.server import Server, start
from serve.engine.settings import parse
from serve.processes import process

ROOT = Path(__file__).parent.parent
# For every process that the tests start, and this one. On two cores vLLM gives a spawned worker one thread and leaves
# the other core to the server's other processes; a forked one would have its parent's two.
os.environ["OMP_NUM_THREADS"] = "1"
# For every process that the tests start: a server whose vLLM forks its workers is up in half the time (see there).
FORKED = ROOT / "tests" / "forked"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FORKED), os.environ.get("PYTHONPATH"))))
# By itself an example that takes 0.2 s fails: on a busy machine any does.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")
# A shell starts what it runs in the background with Ctrl-C ignored, nohup with the end of the terminal, and so would be
# what the tests interrupt.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)
forks.begin()
process.subprocess = SimpleNamespace(Popen=forks.start, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]
running.subprocess = SimpleNamespace(Popen=forks.Popen, PIPE=subprocess.PIPE)  # type: ignore[assignment]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first test that may start Locust, or vLLM: import it, once for all (see tests/forked)."""
    if _place(item)[0] < 3:
        forks.import_once(forks.VLLM)
    if item.get_closest_marker("slow") or item.get_closest_marker("engine"):
        forks.import_once("locust")


def _place(item: pytest.Item) -> tuple[int, int]:
    within = 0 if item.get_closest_marker("server_first") else 2 if item.get_closest_marker("server_last") else 1
    names = getattr(item, "fixturenames", ())
    if "engine_server" in names:
        return 0, within
    if "keyed_server" in names:
        return 2, within
    return (1 if item.get_closest_marker("engine") else 3), 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together, and in which order, when several run at a time (`--dist loadgroup`).

    Those with vLLM come first and are one group: a server takes all cores, so there is one at a time, and what runs
    beside it takes what its start and its waits leave. Of the ones with the shared server `server_first` marks those
    that want it fresh and `server_last` the one that ends it. A file that is marked as a group itself makes something
    once that takes long.
    """

    items.sort(key=_place)
    for item in items:
        if "nbridge" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)  # a process and its imports, a second each time
        if _place(item)[0] < 3:
            item.add_marker(pytest.mark.xdist_group("engine"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail at once where groups are asked for and not made: pytest 9.2 ignores what pytest-xdist 3.8 makes them by."""
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in grouped):
        raise pytest.UsageError("this pytest-xdist forms no groups under this pytest: install by constraints.txt")


@pytest.fixture(scope="session")
def engine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real vLLM server with the trained demo model, shared by all tests that leave it as it was."""
    checkpoint = prepare("demo-1m")
    settings = parse(
        {"model": checkpoint.path, "served_model_name": "demo-1m", "port": 0, "max_num_seqs": 16}, "the tests"
    )
    with start(settings, log_path=tmp_path_factory.mktemp("engine") / "server.log") as server:
        yield server


@pytest.fixture
def nbridge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user does; nothing is raised for a bad exit code."""

    def run(*words: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return forks.run([sys.executable, "-m", "nbridge", *map(str, words)], cwd=ROOT, timeout_s=timeout_s)

    return run
