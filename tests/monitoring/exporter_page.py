"""What a page of the GPU exporter and its log say."""

from collections.abc import Callable

from bench.studies.exporter import Exporter
from monitoring.scrape.metrics import Sample, parse, total

Start = Callable[..., Exporter]
# What is left of a GPU that does not answer: that it is down, and the events that were seen.
WITHOUT_READING = {"nbridge_gpu_up", "nbridge_gpu_xid_errors_total"}


def value(page: str, metric: str, /, **labels: str) -> float:
    (sample,) = samples(page, metric, **labels)
    return sample.value


def samples(page: str, metric: str, /, **labels: str) -> list[Sample]:
    wanted = labels.items()
    return [s for s in parse(page) if s.name == f"nbridge_gpu_{metric}" and wanted <= s.labels.items()]


def names(page: str, **labels: str) -> set[str]:
    return {s.name for s in parse(page) if labels.items() <= s.labels.items()}


def failed(error: str, times: int = 1) -> Callable[[str], bool]:
    """Does a page count at least so many failed collections, or attempts to initialise NVML?"""
    return lambda page: (total(parse(page), "nbridge_gpu_collect_errors_total", error=error) or 0) >= times


def log(running: Exporter) -> list[str]:
    return (running.orders.parent / "exporter.log").read_text().splitlines()
