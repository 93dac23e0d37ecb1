"""The house as its imports show it: every module of ours, whom it imports, and where it stands."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))


def dotted(path: Path) -> str:
    """bench/run/store.py → "bench.run.store", bench/run/__init__.py → "bench.run"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Every module of ours, and every package of others, that a file imports at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= submodules or {node.module}
    return found


def floor(module: str) -> str:
    """Where a module stands for its neighbours: "bench.run" for all in that sub-room, else itself."""
    return ".".join(module.split(".")[:2])
