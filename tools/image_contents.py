"""For the Dockerfile alone: the dependencies in pyproject.toml as a requirements file; what an image need not carry."""

import shutil
import sys
import tomllib
from pathlib import Path

# Only tests, headers, examples and parts that nothing here asks for (Arrow's RPC, its plan format, its S3 client).
NOT_NEEDED = (
    "pyarrow/include",
    "pyarrow/tests",
    "pyarrow/libarrow_flight.so*",
    "pyarrow/libarrow_substrait.so*",
    "pyarrow/libarrow_s3.so*",
    "pyarrow/_flight*.so",
    "pyarrow/_substrait*.so",
    "pyarrow/_s3fs*.so",
    "numpy/_core/include",
    "torch/test",
    "torch/share/cmake",
    "torch/bin/test_*",
    "torch/bin/protoc*",
)
# On the CPU engines run eagerly: nothing is compiled, so no headers are asked for.
NOT_NEEDED_ON_CPU = ("torch/include",)
TESTS = ("pandas", "scipy", "numpy", "matplotlib", "sympy", "networkx", "numba", "sklearn", "psutil", "locust")


def requirements(extra: str | None) -> list[str]:
    """The base's dependencies, and those of an extra."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]


def slim(environment: Path, *, cpu: bool) -> None:
    """Remove what is only there for those who build or test the packages."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    doomed = [found for name in (*NOT_NEEDED, *(NOT_NEEDED_ON_CPU if cpu else ())) for found in packages.glob(name)]
    doomed += [found for name in TESTS for found in (packages / name).rglob("tests") if found.is_dir()]
    for path in doomed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for archive in packages.rglob("*.a"):
        archive.unlink()


if __name__ == "__main__":
    if sys.argv[1].startswith("--slim"):
        slim(Path(sys.argv[2]), cpu=sys.argv[1] == "--slim-cpu")
    else:
        print("\n".join(requirements(None if sys.argv[1] == "none" else sys.argv[1])))
