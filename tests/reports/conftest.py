"""Run folders for the tests of the reports, made once: reading them never changes their records."""

from pathlib import Path

import made_runs
import pytest

from reports.measured.cells import Report
from reports.report import read_report


@pytest.fixture(scope="session")
def nine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_runs.nine_cells(tmp_path_factory.mktemp("runs") / "nine").write()


@pytest.fixture(scope="session")
def failing_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_runs.with_failures(tmp_path_factory.mktemp("runs") / "failing").write()


@pytest.fixture(scope="session")
def repeated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = {"slo": {"ttft_s": 0.5, "tpot_s": 0.06}}
    return made_runs.nine_cells(tmp_path_factory.mktemp("runs") / "repeated", repeats=3, plan=plan).write()


@pytest.fixture(scope="session")
def nine(nine_run: Path) -> Report:
    return read_report(nine_run)


@pytest.fixture(scope="session")
def failing(failing_run: Path) -> Report:
    return read_report(failing_run)


@pytest.fixture(scope="session")
def repeated(repeated_run: Path) -> Report:
    return read_report(repeated_run)
