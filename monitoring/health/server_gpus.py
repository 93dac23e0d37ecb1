"""The GPUs beside a server: from an exporter's page, or by NVML when the server runs on this machine."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from monitoring.health.figures import GPU_FIELDS, Gpu
from monitoring.scrape.window import Labels, Scrape, Window

PREFIX = "nbridge_gpu_"
Readings = Iterable[tuple[str, dict[str, str], float]]


def of_page(scrapes: Sequence[Scrape]) -> list[Gpu]:
    """The whole GPUs (not their MIG slices) on the last of an exporter's pages; the throttled share needs two."""
    if not scrapes:
        return []
    window = Window(scrapes)
    found = []
    for labels, up in sorted(window.last.series.get(f"{PREFIX}up", {}).items(), key=lambda item: sorted(item[0])):
        known = dict(labels)
        if known.get("mig"):
            continue
        readings = {name: value for name in GPU_FIELDS if (value := _value(window.last, name, labels)) is not None}
        gpu = known.get("gpu", "0")
        found.append(Gpu(gpu, known.get("name"), up > 0, readings, _throttled(window, gpu)))
    return found


def of_readings(readings: Readings) -> list[Gpu]:
    """The GPUs in what NVML reads now."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in readings:
        if name in GPU_FIELDS:
            found.setdefault(labels.get("gpu", "0"), {})[name] = value
    return [Gpu(gpu, readings=values) for gpu, values in sorted(found.items())]


def within(deadline_s: float, read: Callable[[], Any]) -> Any:
    """What `read` returns. Raises TimeoutError when it takes longer: a call into a sick driver may never return."""
    results: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(read())
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name="nvml", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"NVML did not answer within {deadline_s:g} s; the driver may hang")
    return results[0]


def _value(page: Scrape, name: str, labels: Labels) -> float | None:
    return page.series.get(PREFIX + name, {}).get(labels)


def _throttled(window: Window, gpu: str) -> float | None:
    """The share of the window in which heat slowed a GPU down, by the reason that did so longest."""
    name = f"{PREFIX}throttle_seconds_total"
    reasons = {dict(labels).get("reason", "") for labels in window.last.series.get(name, {})}
    rates = [window.rate(name, gpu=gpu, mig="", reason=reason) for reason in reasons if "thermal" in reason]
    known = [rate for rate in rates if rate is not None]
    return min(1.0, max(known)) if known else None
