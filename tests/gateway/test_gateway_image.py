"""What the gateway's image must run does so with the packages that it holds, and with no others.

No container is needed for that: every other installed package is refused to the processes as if it were not there.
"""

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from doors import ROOT, gateway, needs_haproxy, replicas, settings_file
from packaging.requirements import Requirement
from waiting import wait_for

pytestmark = pytest.mark.slow

# With `nbridge` in front, in the image nbridge-gateway; the container test asks the same of the real one.
COMMANDS = ("gateway", "swap", "exporter", "health", "doctor", "golden")
REFUSES = """import sys
REFUSED = frozenset({refused!r})
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(one) for one in sys.meta_path]
"""


def held(requirements: list[str]) -> set[str]:
    """The distributions that pip would install for these requirements, by name in lower case with dashes."""
    found, todo = set(), [Requirement(one) for one in requirements]
    while todo:
        one = todo.pop()
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(one.name) or ():
            needed = Requirement(text)
            extras = ("", *one.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """For processes that find of all installed packages only those of the gateway's image."""
    listed = subprocess.run(
        [sys.executable, "tools/image_contents.py", "gateway"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    there = held(listed.stdout.splitlines()) | {"neural-bridge"}
    refused = {
        package
        for package, names in metadata.packages_distributions().items()
        if not there & {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    }
    assert {"torch", "vllm", "streamlit", "pandas", "locust"} <= refused and not {"httpx", "numpy"} & refused
    folder = tmp_path_factory.mktemp("image")
    (folder / "sitecustomize.py").write_text(REFUSES.format(refused=sorted(refused)), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def nbridge(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nbridge", *words]
    return subprocess.run(
        argv, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_load(environment, command):
    done = nbridge(environment, command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


def test_doctor_and_exporter_answer(environment):
    doctor = nbridge(environment, "doctor", "--json")
    assert doctor.returncode in (0, 1) and '"check"' in doctor.stdout, doctor.stderr
    once = nbridge(environment, "exporter", "--once")
    assert once.returncode == 0 and "nbridge_" in once.stdout, once.stderr


@needs_haproxy
def test_the_gateway_answers_and_counts_money_and_health_tells_of_a_server(environment, tmp_path):
    cloud = '[[cloud]]\nname = "c"\nurl = "http://127.0.0.1:1"\nmodels = {x = "x"}\napi_key_env = "CLOUD_KEY"\n'
    cloud += "usd_per_day = 1.0\nprices = {x = {input = 1.0, output = 1.0}}\n"
    with replicas(tmp_path, "a") as (server,):
        file = settings_file(tmp_path, [server])
        file.write_text(file.read_text(encoding="utf-8") + cloud, encoding="utf-8")
        with gateway(file, {**environment, "CLOUD_KEY": "k"}) as door:
            wait_for(lambda: door.state("a") == "in", 60)
            assert door.ask().status_code == 200
            # The door to clouds, a process of its own, runs: it found no provider on that port.
            assert door.ask(model="x").status_code in (502, 503, 504)
        asked = nbridge(environment, "health", server.url, "--no-canary", "--window", "1", "--json")
        assert asked.returncode in (0, 1) and '"' in asked.stdout, asked.stderr


def test_what_it_does_not_hold_is_said(environment, tmp_path):
    for words in (("bench", "--help"), ("report", str(tmp_path)), ("export", str(tmp_path))):
        done = nbridge(environment, *words)
        if done.returncode == 3:
            assert "nbridge-tools" in done.stderr and "not installed here" in done.stderr
        else:  # it gets by without, or its folder is refused first
            assert done.returncode in (0, 2), done.stderr
    done = nbridge(environment, "history", str(ROOT / "reports" / "published"))
    assert done.returncode == 3 and "the Python package" in done.stderr, done.stderr
