"""What several files ask: the GPU exporter as a process per case, as the library has global state; a bad server."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from misbehaving import FakeServer

from bench.studies.exporter import Exporter, exporter, fake_driver


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For LD_LIBRARY_PATH: the folder with `fake_nvml.c`, compiled. FAKE_NVML names the file with its orders."""
    return fake_driver(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def start_exporter(fake_nvml: Path, tmp_path: Path) -> Iterator[Callable[..., Exporter]]:
    """Start `nbridge exporter`, collecting all the time; `orders` are in force from its first call of NVML on."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, orders: tuple[str, ...] = (), driver: Path = fake_nvml) -> Exporter:
            (tmp_path / "orders").write_text("".join(f"{line}\n" for line in orders))
            # Of an option that is given twice the last one counts.
            quick = ("--interval", "0.1", "--deadline", "2", "--retry", "0.1")
            return stack.enter_context(exporter(driver, tmp_path, *quick, *options))

        yield start


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()
