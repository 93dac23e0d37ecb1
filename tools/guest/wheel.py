"""Makes `nbridge_vllm`, the wheel for a vLLM of your own, of the project's own files.

    python -m tools.guest.wheel [FOLDER]

It holds what its entry point reaches and nothing else: by imports, by strings that are the dotted name of something in
a module of ours (as `--worker-cls` takes one), and by files that the code finds beside itself. All of it moves under
one import name, and with it every mention: in imports, in strings, in comments.
"""

import argparse
import ast
import io
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections.abc import Collection, Iterator
from itertools import accumulate
from pathlib import Path

from tools.imports import MODULES, ROOT, imported

PACKAGE = "nbridge_vllm"
ENTRY = "serve.plugin.guest"
HERE = Path(__file__).parent
_NAME = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
# Text that names modules for people and for importlib. Python 3.12 and later cut f-strings up.
_TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


class CannotBuild(Exception):
    """Something in a file that would go wrong under another name, or that this script cannot follow."""


def reached(entry: str = ENTRY) -> set[str]:
    """The modules of ours that `entry` needs to run: itself, what it names, and every package on the way."""
    found: set[str] = set()
    waiting = {entry}
    while waiting:
        module = waiting.pop()
        found.add(module)
        path = MODULES[module]
        texts = {node.value for node in _nodes(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        named = {_module_in(text, MODULES) for text in texts if _NAME.fullmatch(text)}
        waiting |= ((imported(path) | named | {module.rpartition(".")[0]}) & set(MODULES)) - found
    return found


def files_beside(module: str) -> set[Path]:
    """The files that a module finds by its own `__file__`; of a folder, all that are no code. Raises CannotBuild."""
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = list(_places(tree, path))
    mentions = sum("__file__" in (getattr(node, "id", ""), getattr(node, "attr", "")) for node in ast.walk(tree))
    if mentions != len(places) or {"importlib.resources", "pkgutil"} & imported(path):
        raise CannotBuild("it reads files in a way that cannot be followed; write Path(__file__).parents[…] / name.")
    found: set[Path] = set()
    for place in places:
        if not place.exists() or not place.relative_to(ROOT).parts:
            raise CannotBuild(f"it reads {place}, which {'is no room' if place.exists() else 'does not exist'}.")
        found |= {place} if place.is_file() else {one for one in place.rglob("*") if one.is_file()}
    return {one for one in found if one.suffix not in (".py", ".pyc")}


def renamed(source: str, moved: Collection[str]) -> str:
    """A module's source with the `moved` modules under PACKAGE wherever it imports or names one. Raises CannotBuild."""
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    places = set(_import_places(source, starts, moved))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _TEXT:
            begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
            places |= {name.start() for name in _NAME.finditer(source, begin, end) if _module_in(name[0], moved)}
    for place in sorted(places, reverse=True):
        source = f"{source[:place]}{PACKAGE}.{source[place:]}"
    return source


def lay_out(folder: Path) -> None:
    """Write the wheel's source tree: its own pyproject.toml, README, licence, and the code under PACKAGE."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(HERE / name, folder / name)
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    package = folder / PACKAGE
    modules = reached()
    for module in sorted(modules):
        path = MODULES[module]
        place = package / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.write_text(renamed(path.read_text(encoding="utf-8"), modules), encoding="utf-8")
            beside = files_beside(module)
        except CannotBuild as error:
            raise CannotBuild(f"{path.relative_to(ROOT)}: {error}") from None
        for data in beside:
            (package / data.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data, package / data.relative_to(ROOT))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    words = "The part of Neural Bridge that runs inside a vLLM server; made of the project's files by tools/guest."
    (package / "__init__.py").write_text(f'"""{words}"""\n\n__version__ = "{version}"\n', encoding="utf-8")


def build(out: Path) -> Path:
    """Make the wheel in `out` and return its path. Raises CannotBuild."""
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as wheels:
        lay_out(Path(made))
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--no-build-isolation", "--no-index", "--wheel-dir", wheels, made]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise CannotBuild(f"pip made no wheel: {(ended.stderr or ended.stdout).strip()}")
        wheel = next(Path(wheels).glob("*.whl"))
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out / wheel.name))


def _module_in(name: str, modules: Collection[str]) -> str:
    """The longest beginning of a dotted name that is one of `modules` below a room; an empty text when none is."""
    while "." in name and name not in modules:
        name = name.rpartition(".")[0]
    return name if "." in name else ""


def _import_places(source: str, starts: list[int], moved: Collection[str]) -> Iterator[int]:
    lines = source.splitlines(keepends=True)

    def place(node: ast.stmt | ast.alias) -> int:
        line = lines[node.lineno - 1].encode()  # ast counts bytes
        return starts[node.lineno - 1] + len(line[: node.col_offset].decode())

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module and node.module in moved:
            begin = place(node)
            yield begin + source[begin:].index(node.module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in moved and not alias.asname:
                    raise CannotBuild(f"line {node.lineno}: write `from … import …` instead of `import {alias.name}`.")
                if alias.name in moved:
                    yield place(alias)


def _places(node: ast.AST, path: Path) -> Iterator[Path]:
    """The path of every whole expression over `Path(__file__)` in and below `node`."""
    if place := _place(node, path):
        yield place
    else:
        for child in ast.iter_child_nodes(node):
            yield from _places(child, path)


def _place(node: ast.AST, path: Path) -> Path | None:  # noqa: PLR0911 - one return a form of expression
    """The path that an expression over `Path(__file__)` gives in the module at `path`, None for any other."""
    match node:
        case ast.Call(func=ast.Name("Path"), args=[ast.Name("__file__")]):
            return path
        case ast.Call(func=ast.Attribute(value=inner, attr="resolve" | "absolute"), args=[]):
            return _place(inner, path)
        case ast.Call(func=ast.Attribute(value=inner, attr="with_name"), args=[ast.Constant(str(name))]):
            return below.with_name(name) if (below := _place(inner, path)) else None
        case ast.Attribute(value=inner, attr="parent"):
            return below.parent if (below := _place(inner, path)) else None
        case ast.Subscript(value=ast.Attribute(value=inner, attr="parents"), slice=ast.Constant(int(number))):
            return below.parents[number] if (below := _place(inner, path)) else None
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(str(name))):
            return below / name if (below := _place(left, path)) else None
    return None


def _nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def main() -> int:
    """Build the wheel, print its path."""
    parser = argparse.ArgumentParser(
        "python -m tools.guest.wheel", description="Make nbridge_vllm, the wheel for a vLLM of your own."
    )
    parser.add_argument("folder", nargs="?", default="dist", type=Path, help="where to put it (dist)")
    try:
        print(build(parser.parse_args().folder))
    except CannotBuild as error:
        print(f"No wheel was made. {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
