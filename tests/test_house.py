"""The house's rules that a machine can check: who imports whom, what is heavy, what a module may be called."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# CONTRIBUTING.md explains this table. A package's cli.py is a door: it may call any room, and nothing imports it but
# nbridge.py.
MAY_IMPORT = {
    "checkpoints": set(),
    "monitoring": set(),
    "serve": {"monitoring"},
    "bench": {"serve", "checkpoints", "monitoring"},
    "planning": {"checkpoints"},
    "reports": {"bench", "planning"},
    "alignment": {"serve"},
    "dashboards": {"reports", "bench", "planning", "monitoring"},
}
# Of a room with work and facts in it, others may use only these modules.
MAY_USE = {
    ("reports", "bench"): {"bench.records", "bench.store", "bench.stats", "bench.errors"},
    ("dashboards", "bench"): {"bench.records", "bench.store", "bench.stats", "bench.errors"},
    ("alignment", "serve"): {"serve.client", "serve.errors"},
    ("planning", "checkpoints"): {
        "checkpoints.architecture",
        "checkpoints.catalog",
        "checkpoints.headers",
        "checkpoints.schemes",
        "checkpoints.errors",
    },
}
MONKEY_PATCHING = {"locust", "gevent"}
MAY_MONKEY_PATCH = {"bench/locustfile.py"}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "base", "misc"}


def modules() -> list[Path]:
    return [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth, with the names taken from it: {"bench.store", …}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_call_only_whom_they_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported(path)
    rooms = {name.partition(".")[0] for name in names} & set(MAY_IMPORT)
    if path.name != "cli.py":
        assert rooms - {room} <= MAY_IMPORT[room]
        for (caller, called), allowed in MAY_USE.items():
            if room == caller:
                assert {".".join(name.split(".")[:2]) for name in names if name.startswith(f"{called}.")} <= allowed
    doors = {f"{room}.cli" for room in MAY_IMPORT}
    assert not {".".join(name.split(".")[:2]) for name in names} & doors, "nobody but nbridge.py uses a door"
    if str(path.relative_to(ROOT)) not in MAY_MONKEY_PATCH:
        assert not {name.partition(".")[0] for name in names} & MONKEY_PATCHING


def test_no_room_is_a_lumber_room() -> None:
    assert not {path.stem for path in modules()} & FORBIDDEN_NAMES


def test_every_room_is_packaged() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


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
