"""A path may lead to anything; what is read of it is bounded, and what is not read has a reason."""

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment import prompts
from bench.plans import plan
from bench.run import store
from checkpoints.finetuning import corpus
from checkpoints.tensors import headers
from inputs import files
from monitoring.alerting import prometheus, receivers, thresholds
from planning import catalogs
from planning.claims import claimfile
from planning.cost import assumptions

Nbridge = Callable[..., subprocess.CompletedProcess[str]]


def test_a_file_and_a_pipe_with_a_writer_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes('\ufeffname = "über"\r\n'.encode())
    assert files.read_toml(path) == {"name": "über"}  # with the mark that some editors put in front
    read, write = os.pipe()  # what a shell makes of <(…)
    os.write(write, b"name = 1")
    os.close(write)
    assert files.read_text(Path(f"/dev/fd/{read}")) == "name = 1"
    os.close(read)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null", "/dev/urandom"])
def test_a_device_is_no_file(device: str) -> None:
    with pytest.raises(files.NotReadable, match="it is a device, not a file"):
        files.read_text(Path(device))


def test_a_pipe_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert files.read_bytes(tmp_path / "pipe") == b""


def test_a_file_beyond_its_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as out:
        out.truncate(1 << 40)  # a terabyte, of which the disk holds nothing
    with pytest.raises(files.NotReadable, match="larger than 16 MiB"):
        files.read_bytes(path)
    path.write_bytes(b"1234")
    assert files.read_bytes(path, limit_bytes=4) == b"1234"


def test_values_nested_without_end_are_an_error_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(tomllib.TOMLDecodeError, match="nested too deeply"):
        files.read_toml(path)
    path.write_text("[" * 100_000)
    with pytest.raises(json.JSONDecodeError, match="nested too deeply"):
        files.read_json(path)


def receiver(path: Path) -> object:
    return receivers.secret(receivers.Chat(name="team", kind="chat", url_file=str(path)), "url", {})


@pytest.mark.parametrize(
    ("read", "suffix"),
    [
        (plan.load_plan, ".toml"),
        (claimfile.load_claims, ".toml"),
        (assumptions.load_case, ".toml"),
        (lambda path: catalogs.load(own=path), ".toml"),
        (thresholds.load, ".toml"),
        (prometheus.read_targets, ".json"),
        (prometheus.read_targets, ".yml"),
        (receiver, ""),
        (prompts.read_prompts, ".jsonl"),
        (corpus.read, ".txt"),
        (headers.read_json, ".json"),
        (store.open_run, "/run.json"),
    ],
)
@pytest.mark.parametrize("device", ["/dev/zero", "endless", "/dev/tty0"])
def test_nothing_that_is_named_hangs_or_fills_the_machine(
    tmp_path: Path, read: Callable[[Path], object], suffix: str, device: str
) -> None:
    named = tmp_path / f"named{suffix}"
    named.parent.mkdir(exist_ok=True)
    if device == "endless":
        with named.open("wb") as out:
            out.truncate(1 << 40)
    else:
        named.symlink_to(device)
    with pytest.raises(Exception, match=r"device|larger than") as refused:
        read(named.parent if named.name == "run.json" else named)
    assert getattr(refused.value, "exit_code", None) == 2


def test_the_command_says_so(nbridge: Nbridge) -> None:
    answer = nbridge("bench", "/dev/zero")
    assert answer.returncode == 2
    assert "/dev/zero: not readable as TOML (it is a device, not a file)" in " ".join(answer.stderr.split())
