"""What the exporter's benchmark measures, in small: the document is whole and agrees with itself."""

from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import BenchError
from bench.studies import exporter

pytestmark = pytest.mark.slow


def test_the_document_of_a_short_run(tmp_path: Path) -> None:
    document = exporter.run(tmp_path, seconds=0.2, count=10)
    assert document["gpus"] == 8
    assert document["series"] > 8 * 50
    for times in document["scrape"].values():
        for found in (times, times["empty_page"]):
            assert 0 < found["p50_s"] <= found["p99_s"] <= found["longest_s"]
    worst_s = max(times["p99_s"] for times in document["scrape"].values())
    assert document["goals"]["scrape_p99_s"] == {"at_most": 0.005, "met": worst_s <= 0.005}
    shares = document["cpu_share"]
    assert document["goals"]["cpu_share"]["met"] == (shares["collecting_and_one_scrape_per_second"] < 0.01)
    console = Console(width=120, record=True, file=(tmp_path / "table").open("w"))
    console.print(exporter.table(document))
    assert "scrape p99, one GPU hangs" in console.export_text()


def test_without_the_tests_folder_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "SOURCE", tmp_path / "fake_nvml.c")
    with pytest.raises(BenchError, match="in a checkout of the project") as caught:
        exporter.fake_driver(tmp_path)
    assert caught.value.exit_code == 3
