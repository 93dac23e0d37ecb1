"""For the Dockerfile alone: the dependencies in pyproject.toml as a requirements file; what an image need not carry."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

# Of the base, what the gateway image's commands import, even if only for one option.
GATEWAY = (
    "genai-prices",
    "httptools",
    "httpx",
    "huggingface-hub",
    "markdown-it-py",
    "numpy",
    "nvidia-ml-py",
    "prometheus-client",
    "psutil",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
)
# Only tests, headers, examples and parts that nothing here asks for (Arrow's RPC and its S3 client;
# pydeck's part for notebooks; OpenMP's offloading to GPUs and SYCL's loader, which come with the one library in use).
NOT_NEEDED = (
    "pyarrow/include",
    "pyarrow/tests",
    "pyarrow/libarrow_flight.so*",
    "pyarrow/libarrow_s3.so*",
    "pyarrow/_flight*.so",
    "pyarrow/_substrait*.so",
    "pyarrow/_s3fs*.so",
    "numpy/_core/include",
    "pydeck/nbextension",
    "torch/test",
    "torch/share/cmake",
    "torch/bin/test_*",
    "torch/bin/protoc*",
)
NOT_NEEDED_BESIDE = ("share/jupyter", "lib/libomptarget*", "lib/libiomp5.dbg", "lib/libur_*", "lib/libpi_*")
# On the CPU engines run eagerly: nothing is compiled, so no headers are asked for.
NOT_NEEDED_ON_CPU = ("torch/include",)
TESTS = ("pandas", "scipy", "numpy", "matplotlib", "sympy", "networkx", "numba", "sklearn", "psutil", "locust")
# Shipped with their symbol tables, which only a debugger reads. Others are left alone: strip breaks some that were
# patched when their wheels were made (numpy's and scipy's OpenBLAS).
STRIPPED = (
    "vllm/_C*.so",
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libtorch_python.so",
    "llvmlite/binding/libllvmlite.so",
    "pyarrow/libarrow*.so.*",
    "uvloop/loop.*.so",
)


def requirements(image: str) -> list[str]:
    """An image's dependencies, from pyproject.toml in this folder."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    base: list[str] = project["dependencies"]
    if image == "gateway":
        by_name = {re.split(r"[^\w.-]", one, maxsplit=1)[0]: one for one in base}
        return [by_name[name] for name in GATEWAY]
    return base if image == "tools" else [*base, *project["optional-dependencies"][image]]


def slim(environment: Path, *, cpu: bool) -> None:
    """Remove what is only there for those who build, test or debug the packages."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    doomed = [found for name in (*NOT_NEEDED, *(NOT_NEEDED_ON_CPU if cpu else ())) for found in packages.glob(name)]
    doomed += [found for name in NOT_NEEDED_BESIDE for found in environment.glob(name)]
    doomed += [found for name in TESTS for found in (packages / name).rglob("tests") if found.is_dir()]
    for path in doomed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for archive in environment.rglob("*.a"):
        archive.unlink()


def strip(environment: Path) -> None:
    """Take the symbol tables out of the libraries that are known to bear it."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    for path in (found for name in STRIPPED for found in packages.glob(name) if not found.is_symlink()):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


if __name__ == "__main__":
    if sys.argv[1].startswith("--slim"):
        slim(Path(sys.argv[2]), cpu=sys.argv[1] == "--slim-cpu")
        # CUDA's libraries were not tried without their tables.
        if sys.argv[1] != "--slim-cuda":
            strip(Path(sys.argv[2]))
    else:
        print("\n".join(requirements(sys.argv[1])))
