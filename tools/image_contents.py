"""For the Dockerfile alone: the dependencies in pyproject.toml as a requirements file; what an image need not carry."""

import shutil
import sys
import tomllib
from pathlib import Path

# Only tests, headers and archives for linking against: nothing that runs imports them.
NOT_NEEDED = ("pyarrow/include", "pyarrow/tests", "numpy/_core/include", "torch/include", "torch/share/cmake")
TESTS = ("pandas", "scipy", "numpy", "matplotlib", "sympy", "networkx", "numba", "sklearn", "psutil", "locust")


def requirements(extra: str | None) -> list[str]:
    """The base's dependencies, and those of an extra."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]


def slim(environment: Path) -> None:
    """Remove what is only there for those who build or test the packages."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    doomed = [packages / name for name in NOT_NEEDED]
    doomed += [found for name in TESTS for found in (packages / name).rglob("tests") if found.is_dir()]
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)
    for archive in packages.rglob("*.a"):
        archive.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--slim"]:
        slim(Path(sys.argv[2]))
    else:
        print("\n".join(requirements(sys.argv[1] if len(sys.argv) > 1 else None)))
