"""The golden servers that tests share which leave them as they were; once a worker, however many files ask them."""

from collections.abc import Iterator

import pytest
from golden import Golden, golden
from locust_runs import KEY


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    """One that asks for no key."""
    with golden(tmp_path_factory.mktemp("golden")) as running:
        yield running


@pytest.fixture(scope="session")
def server_with_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    """One that asks for `KEY`, for whole Locust runs."""
    with golden(tmp_path_factory.mktemp("golden"), api_key=KEY) as running:
        yield running
