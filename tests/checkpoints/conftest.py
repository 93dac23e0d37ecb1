import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own; nothing is read from or left in the user's."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NBRIDGE_CACHE", str(path))
    return path
