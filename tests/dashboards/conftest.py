"""What the tests of the app have in common."""

import pytest
from recordings import RECORDED

from dashboards import library


@pytest.fixture(autouse=True)
def recorded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's sample run is the published one, which is measured anew now and then: here a run that stays."""
    monkeypatch.setattr(library, "SAMPLE", RECORDED)
