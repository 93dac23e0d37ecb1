"""The house's rules that a machine can check: who imports whom, what is heavy, what a module may be called."""

import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.imports import MODULES, ROOT, floor, imported

# CONTRIBUTING.md explains this table. A package's cli.py is a door: it may call any room, and nothing imports it but
# nbridge.py.
MAY_IMPORT = {
    "inputs": set(),
    "checkpoints": {"inputs"},
    "monitoring": {"inputs"},
    "serve": {"inputs", "monitoring"},
    "bench": {"inputs", "serve", "checkpoints", "monitoring"},
    "planning": {"inputs", "checkpoints"},
    "reports": {"inputs", "bench", "planning"},
    "alignment": {"inputs", "serve"},
    "dashboards": {"inputs", "reports", "bench", "planning", "monitoring"},
    "gateway": {"inputs", "serve", "planning", "monitoring"},
    "deploy": {"inputs", "bench", "checkpoints", "monitoring", "gateway", "serve"},
}
# Of a room with work and facts in it, others may use only these modules.
MAY_USE = {
    ("reports", "bench"): {
        "bench.capacity",
        "bench.run.records",
        "bench.run.store",
        "bench.run.stats",
        "bench.run.quality",
        "bench.errors",
    },
    ("dashboards", "bench"): {
        "bench.run.records",
        "bench.run.store",
        "bench.run.stats",
        "bench.compare",
        "bench.plans",
        "bench.errors",
    },
    ("deploy", "bench"): {"bench.run.store", "bench.errors"},
    ("deploy", "checkpoints"): {"checkpoints.cache", "checkpoints.errors", "checkpoints.prepare"},
    ("deploy", "serve"): {"serve.engine", "serve.errors", "serve.plugin.first_chunk", "serve.processes"},
    ("alignment", "serve"): {"serve.client", "serve.errors"},
    ("gateway", "serve"): {"serve.client", "serve.errors", "serve.processes"},
    ("planning", "checkpoints"): {
        "checkpoints.tensors",
        "checkpoints.tensors.architecture",
        "checkpoints.tensors.gguf_header",
        "checkpoints.tensors.headers",
        "checkpoints.tensors.entries",
        "checkpoints.tensors.layer_kinds",
        "checkpoints.tensors.layers",
        "checkpoints.tensors.meta",
        "checkpoints.tensors.prequantized",
        "checkpoints.tensors.schemes",
        "checkpoints.cache",
        "checkpoints.catalog",
        "checkpoints.errors",
        "checkpoints.hub_headers",
    },
}
MONKEY_PATCHING = {"locust", "gevent"}
MAY_MONKEY_PATCH = {
    "bench/load/locustfile.py",
    "bench/load/conductor.py",
    "bench/load/hub.py",
    "bench/studies/clients/fasthttp.py",
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "base", "misc"}


# The limit of one floor: above it a room gets rooms inside.
MODULES_A_FLOOR = 13
# The limit of one module, and of one file of tests: above it there is a seam, and two names that say more than one.
LINES_A_MODULE = 350


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_call_only_whom_they_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported(path)
    if path.name != "cli.py":
        assert {name.partition(".")[0] for name in names} & set(MAY_IMPORT) - {room} <= MAY_IMPORT[room]
        for (caller, called), allowed in MAY_USE.items():
            if room == caller:
                assert all(name.startswith(tuple(allowed)) for name in names if name.partition(".")[0] == called)
    doors = {name for name in MODULES if name.endswith(".cli")}
    assert not names & doors, "nobody but nbridge.py uses a door"
    if str(path.relative_to(ROOT)) not in MAY_MONKEY_PATCH:
        assert not {name.partition(".")[0] for name in names} & MONKEY_PATCHING


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_inside_a_room_go_one_way(room: str) -> None:
    above: dict[str, set[str]] = {}  # sub-room or top-floor module → those it imports
    for name, path in MODULES.items():
        if name.startswith(f"{room}.") and path.name not in {"__init__.py", "cli.py"}:
            others = {floor(one) for one in imported(path) if one.startswith(f"{room}.")} - {floor(name)}
            above.setdefault(floor(name), set()).update(others)
    try:
        graphlib.TopologicalSorter(above).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


def test_no_floor_is_crowded() -> None:
    floors = Counter(path.parent for name, path in MODULES.items() if path.name not in {"__init__.py", "cli.py"})
    assert {str(path.relative_to(ROOT)): n for path, n in floors.items() if n > MODULES_A_FLOOR} == {}


def test_no_module_is_long() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > LINES_A_MODULE} == {}


def test_no_file_of_tests_is_long() -> None:
    files = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in files.items() if n > LINES_A_MODULE} == {}


def test_no_room_is_a_lumber_room() -> None:
    assert not {path.stem for path in MODULES.values()} & FORBIDDEN_NAMES


def test_every_room_is_packaged() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)
    rooms = {path.parent for path in MODULES.values()}
    assert not [path for path in rooms if not (path / "__init__.py").exists()]


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, nbridge; sys.argv = ['nbridge', '--help']\ntry: nbridge.main()\nexcept SystemExit: pass\n"
    code += (
        "print(*sorted(set(sys.modules) & {'torch', 'vllm', 'numpy', 'pyarrow', 'pydantic', 'locust', 'matplotlib'}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.splitlines()[-1].strip() == ""
    assert "bench" in answer.stdout
