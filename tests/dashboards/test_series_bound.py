"""How many series one server and one GPU cost Prometheus. docs/grafana.md states the bounds; here they are held.

What makes series multiply is a label whose values come from outside. So the labels are a closed list, and nothing that
a client can send may add a value to one.
"""

import re
from collections import Counter
from pathlib import Path

import httpx
import pytest
from grafana_pages import DATA

from monitoring.alerting.prometheus import SAMPLES_PER_SCRAPE_MAX
from monitoring.gpu.nvml import MOST_PROCESSES
from monitoring.scrape.metrics import Sample, fetch, parse
from serve.engine.server import Server

PER_ENGINE = (
    450  # a longer context has more buckets of lengths: 323 at 1,024 tokens, 368 at a million; then LoRA, drafts
)
PER_ROUTE = 13  # of those that were used; all unknown paths are one route
FIXED = 80
PER_GPU = 80  # and the processes on it
LABELS_OF_A_SERVER = {
    *("engine", "model_name", "le", "finished_reason", "reason", "source", "sleep_state"),
    *("handler", "method", "status", "pooling", "outcome"),
}
DESCRIBING = {"vllm:cache_config_info", "python_info", "python_gc_objects_collected_total"}  # one series each, or few
DESCRIBING |= {"python_gc_objects_uncollectable_total", "python_gc_collections_total"}
DOCS = Path(__file__).parent.parent.parent / "docs" / "grafana.md"


def kept(page: str) -> list[Sample]:
    """The samples that Prometheus stores: the stack's configuration drops the times of creation."""
    return [sample for sample in parse(page) if not sample.name.endswith("_created")]


def within_bounds(samples: list[Sample]) -> None:
    """One engine's page keeps to the bounds, and to the labels that are known."""
    engine = sum("engine" in sample.labels for sample in samples)
    routes = Counter(sample.labels["handler"] for sample in samples if "handler" in sample.labels)
    assert engine <= PER_ENGINE
    assert max(routes.values(), default=0) <= PER_ROUTE
    assert len(samples) - engine - routes.total() <= FIXED
    labels = {label for s in samples if s.name not in DESCRIBING for label in s.labels}
    assert labels <= LABELS_OF_A_SERVER


def test_a_server_keeps_to_its_bound() -> None:
    samples = kept((DATA / "hooked-server.prom").read_text(encoding="utf-8"))
    within_bounds(samples)
    assert len(samples) > 400  # the page is a whole one


def test_a_gpu_keeps_to_its_bound() -> None:
    samples = kept((DATA / "exporter.prom").read_text(encoding="utf-8"))
    devices = Counter(
        sample.labels["gpu"] for sample in samples if "gpu" in sample.labels and "pid" not in sample.labels
    )
    assert set(devices) == {"0", "1"}
    assert max(devices.values()) <= PER_GPU
    # A machine with eight GPUs, each with as many processes as are told, fits into one scrape.
    assert 8 * (PER_GPU + MOST_PROCESSES) < SAMPLES_PER_SCRAPE_MAX


def test_the_documentation_states_these_bounds() -> None:
    text = DOCS.read_text(encoding="utf-8")
    stated = [int(number.replace(",", "")) for number in re.findall(r"at most ([\d,]+) series", text)]
    assert stated == [PER_ENGINE, PER_ROUTE, FIXED, PER_GPU, MOST_PROCESSES]
    usual = PER_ENGINE + 20 * PER_ROUTE + FIXED
    assert f"{usual} series" in text
    assert usual < SAMPLES_PER_SCRAPE_MAX


@pytest.mark.engine
def test_nothing_that_a_client_sends_makes_a_series(engine_server: Server) -> None:
    """After one odd request of each kind, more of them with other words add nothing."""

    def odd(word: str) -> None:
        with httpx.Client(base_url=engine_server.base_url, timeout=300, trust_env=False) as client:
            client.get(f"/{word}/{word}", params={word: word})
            client.request(word.upper(), "/v1/models")
            client.post("/v1/completions", json={"model": word, "prompt": word, "user": word})
            client.post("/v1/chat/completions", json={"model": word, "messages": [{"role": word, "content": word}]})
            client.post("/v1/hidden_states", json={"prompts": word, "pooling": word, "layer": word, "model": word})
            client.get("/v1/models", headers={"User-Agent": word, "X-Request-Id": word})

    odd("first")
    before = {(s.name, tuple(sorted(s.labels.items()))) for s in kept(fetch(engine_server.base_url))}
    for word in ("second", "third", "fourth", "fifth"):
        odd(word)
    after = kept(fetch(engine_server.base_url))
    assert {(s.name, tuple(sorted(s.labels.items()))) for s in after} == before
    within_bounds(after)
