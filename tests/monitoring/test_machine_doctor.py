"""The doctor's verdicts on machines that we make up, and on this one."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from monitoring.doctor import checks
from monitoring.machine import cpu

pytestmark = pytest.mark.slow


def test_the_processor_is_read_from_cpuinfo(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Chip 9\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n")
    facts = cpu(path)
    assert facts["model"] == "Chip 9"
    assert facts["flags"] == ["avx2", "avx512f", "amx_bf16"]
    assert cpu(tmp_path / "nothing")["flags"] == []


@pytest.mark.parametrize(
    ("version", "verdict"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_python_versions(version: tuple[int, int], verdict: str) -> None:
    assert checks.python(version).verdict == verdict


def test_a_base_installation_is_said_to_measure_only() -> None:
    (finding,) = checks.installed({"locust": "2"})
    assert finding.verdict == "warn"
    assert "remote server" in finding.seen


def test_a_broken_library_is_named_with_its_remedy() -> None:
    code = "raise ImportError('libnuma.so.1: cannot open shared object file')"
    finding = checks.engine_import((sys.executable, "-c", code))
    assert (finding.verdict, finding.seen) == ("fail", "ImportError: libnuma.so.1: cannot open shared object file")
    assert "libnuma1" in finding.todo


def test_a_taken_port_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finding = checks.port_free(taken.getsockname()[1])
    assert finding.verdict == "warn"
    assert "taken" in finding.seen


def test_an_unreachable_hub_is_a_warning_with_a_way_out() -> None:
    finding = checks.hub_access("http://127.0.0.1:9")  # the discard port: nobody listens
    assert finding.verdict == "warn"
    assert "HF_ENDPOINT" in finding.todo


def test_little_memory_and_disk_are_warned_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "NEEDED_MEMORY_GIB", psutil.virtual_memory().total / checks.GIB + 1)
    monkeypatch.setattr(checks, "NEEDED_DISK_GIB", 1e9)
    assert checks.memory().verdict == "warn"
    assert checks.disk(tmp_path / "not" / "there" / "yet").verdict == "warn"


def test_the_command_prints_every_check_as_json(nbridge: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = nbridge("doctor", "--json", "--port", "1")
    findings = {finding["check"]: finding for finding in json.loads(answer.stdout)}
    assert set(findings) >= {
        "Python",
        "vLLM package",
        "vLLM import",
        "CPU",
        "GPU",
        "Memory",
        "Disk",
        "Port",
        "Model hub",
    }
    assert findings["vLLM import"]["verdict"] == "ok", findings["vLLM import"]
    assert answer.returncode == (3 if any(f["verdict"] == "fail" for f in findings.values()) else 0)
