"""Live beyond servers: what listens on this machine, a gateway's page, a run's samples played again."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shelf import gpu_page, page
from recordings import RECORDED
from serving import listening

from bench.errors import RunFolderError
from dashboards.screens.live import charts, found, gateway, replay
from dashboards.screens.live import view as live
from dashboards.screens.live.sources import Seen, Watch
from dashboards.theme import LIGHT
from monitoring.alerting.thresholds import load as load_thresholds
from monitoring.scrape.metrics import MetricsError, parse
from monitoring.scrape.window import scrape

LIMITS = load_thresholds()
GATEWAY = (Path(__file__).parent / "data" / "gateway.prom").read_text(encoding="utf-8")


def test_servers_exporters_and_gateways_are_told_by_their_own_pages() -> None:
    models = json.dumps({"data": [{"id": "demo-1m"}, {"id": 7}, "torn"]})
    with (
        listening({"/metrics": page(), "/v1/models": models}) as engine,
        listening({"/metrics": gpu_page()}) as exporter,
        listening({"/metrics": GATEWAY}) as door,
        listening({"/v1/models": models}) as other,
        listening({"/": "<html>"}) as website,
    ):
        seen = found.look([engine, exporter, door, other, website, "http://127.0.0.1:9"])
        addresses = found.listening()
    assert [(one.address, one.kind, one.models) for one in seen] == [
        (engine, found.SERVER, ("demo-1m",)), (exporter, found.EXPORTER, ()), (door, found.GATEWAY, ()),
        (other, found.OTHER, ("demo-1m",)),
    ]  # fmt: skip
    assert [one.can_be_watched for one in seen] == [True, True, True, False]
    assert found.rows(seen)[0] == {"At": engine, "Is a": "vLLM server", "Serves": "demo-1m"}
    assert {engine, exporter, door, other, website} <= set(addresses)
    assert found.look([]) == []


def test_what_answers_with_anything_else_is_passed_over() -> None:
    def torn(address: str) -> str:
        raise MetricsError("no page")

    for document in (None, [], {"data": 3}, {"data": [{"id": None}]}, "text"):
        assert found.look(["http://a"], page=torn, models=lambda _, told=document: told) == []


def later(text: str) -> str:
    """The gateway's page ten seconds on: ten more answers of a, of which one failed."""
    old = 'nbridge_gateway_requests_total{code="2xx",kind="local",model="llama-3.1-8b",server="a"} 1423.0'
    worse = 'nbridge_gateway_requests_total{code="5xx",kind="local",model="llama-3.1-8b",server="a"} 12.0'
    assert old in text and worse in text
    return text.replace(old, old.replace("1423", "1432")).replace(worse, worse.replace("12.0", "13.0"))


def test_a_gateways_page_tells_its_servers_models_and_budgets() -> None:
    pages = iter([GATEWAY, later(GATEWAY)])
    clock = iter([0.0, 0.0, 0.0, 10.0, 10.0, 10.0])
    watch = Watch(("http://door",), history_s=60, every_s=2, fetch=lambda _: next(pages), clock=lambda: next(clock))
    watch.look()
    (seen,) = watch.look()
    assert seen.has_gateway and not seen.has_engine and not seen.has_gpus
    first = gateway.backends(seen.scrapes)[2]
    assert first == {
        "Server": "a", "Model": "llama-3.1-8b", "Kind": "local", "State": "takes requests", "Running": "4",
        "Requests/s": "1.00", "HTTP 5xx": "10 %", "Ejections": "2",
    }  # fmt: skip
    assert [row["State"] for row in gateway.backends(seen.scrapes) if row["Kind"] == "cloud"] == ["out", "out"]
    routes = {row["Model"]: row for row in gateway.routes(seen.scrapes)}
    assert routes["llama-3.1-8b"]["Servers up"] == "2 of 2" and routes["gpt-4o"]["Servers up"] == "0 of 1"
    day, month = gateway.budgets(seen.scrapes[-1], 0.8)
    assert (day["Each"], day["Spent"], day["Limit"], day["State"]) == ("day", "$0.753", "$0.750", "spent")
    assert (month["Used"], month["State"]) == ("13 %", "ok")
    assert "would have cost $0.0599 at gpt-4o-mini" in gateway.remark(seen.scrapes)


def test_a_gateway_without_clouds_has_no_budget() -> None:
    text = "\n".join(line for line in GATEWAY.splitlines() if "cloud" not in line and "usd" not in line)
    seen = scrape(0.0, parse(text + "\n"))
    assert gateway.budgets(seen, 0.8) == []
    assert gateway.remark((seen,)) == ""
    assert gateway.remark((scrape(0.0, parse("nbridge_gateway_retries_allowed 0.0\n")),)).startswith("Failed requests")


def test_the_objective_is_drawn_and_counted() -> None:
    assert (live.slo("ttft", LIMITS), live.slo("waiting", LIMITS)) == (1.0, None)
    at = [scrape(t, parse(page(tokens=t, requests=t, ttft_sum_s=0.2 * t)), t) for t in (0.0, 10.0)]
    facts = {name: value for name, value, _ in live.server(Seen("http://a", tuple(at)), 60, LIMITS).facts}
    assert "TTFT ≤ 1.00 s" not in facts  # its buckets do not have that bound
    more = 'vllm:time_to_first_token_seconds_bucket{{le="1.0",engine="0",model_name="demo-1m"}} {}\n'
    pages = [
        scrape(t, parse(page(requests=n, ttft_sum_s=0.2 * n) + more.format(n)), t) for t, n in ((0.0, 0), (10.0, 20))
    ]
    facts = {name: value for name, value, _ in live.server(Seen("http://a", tuple(pages)), 60, LIMITS).facts}
    assert facts["TTFT ≤ 1.00 s"] == "100 %"
    rows = [{"at": live.instant(t), "series": "a", "value": 0.9, "part": "a 0"} for t in (0, 2)]
    near = charts.over_time(rows, LIGHT, title="s", series=["a"], until=live.instant(2), slo=1.0).to_dict()
    assert near["layer"][0]["encoding"]["y2"]["field"] == "high" and "SLO ≤ 1 s" in json.dumps(near, ensure_ascii=False)
    far = charts.over_time(rows, LIGHT, title="s", series=["a"], until=live.instant(2), slo=100.0).to_dict()
    assert "all of this" in json.dumps(far)


def test_gpus_over_time_and_their_memory_as_a_share() -> None:
    pages = tuple(scrape(t, parse(gpu_page(celsius=60 + t)), t) for t in (0.0, 2.0))
    seen = [Seen("http://gpu", pages)]
    assert [row["value"] for row in live.gpu_course(seen, "temperature_celsius")] == [60, 62]
    assert [row["value"] for row in live.gpu_course(seen, "memory_used_bytes")] == pytest.approx([1 / 3] * 2)
    assert live.limit("temperature_celsius", LIMITS) == 85


def samples(**changes: list[object]) -> pa.Table:
    """Two rounds of one server and one GPU."""
    gpu, labels = '{"gpu": "0", "name": "Example GPU"}', '{"engine": "0", "model_name": "demo-1m"}'
    columns = {
        "t_s": [0.0, 0.1, 0.1, 1.0, 1.1, 1.1, 0.0],
        "source": ["gpu", "server", "server", "gpu", "server", "server", "process"],
        "name": ["power_watts", "vllm:num_requests_running", "vllm:generation_tokens_total"] * 2 + ["memory_bytes"],
        "labels": [gpu, labels, labels, gpu, labels, labels, "{}"],
        "value": [250.0, 3.0, 100.0, 260.0, 4.0, 150.0, 1e9],
    }
    return pa.table({**columns, **changes})


def test_a_runs_samples_are_pages_in_their_own_pace() -> None:
    played = replay.recording(samples(), "run, cell", "2026-01-01T00:00:00+00:00")
    assert (len(played.pages), played.length_s) == (2, pytest.approx(1.0))
    assert len(played.at(0.5).scrapes) == 1 and len(played.at(60).scrapes) == 2
    seen = played.at(1.0)
    assert seen.has_engine and seen.has_gpus and seen.problem is None
    facts = {name: value for name, value, _ in live.server(seen, 60, LIMITS).facts}
    assert (facts["Output"], facts["Running"]) == ("50.0", "4")  # 50 tokens in a second
    assert live.gpus([seen])[0]["Power"] == "260 W"
    assert live.instant(played.now_s(1.0)) == "2026-01-01T00:00:01.100000+00:00"
    assert replay.words(5.0, played) == "1 of 1 s"


def test_the_reference_run_can_be_played() -> None:
    table = pq.read_table(RECORDED / "cells" / "int8-c16-r1" / "samples.parquet")
    played = replay.recording(table, "sample", None)
    assert len(played.pages) > 5 and played.began_s == 0.0
    running = [row["value"] for row in live.course([played.at(played.length_s)], "running")]
    assert max(running) == 16


def test_samples_that_are_none_are_said() -> None:
    with pytest.raises(RunFolderError, match="not what a bench writes"):
        replay.recording(pa.table({"x": [1]}), "run", None)
    with pytest.raises(RunFolderError, match="not what a bench writes"):
        replay.recording(samples(labels=["{"] * 7), "run", None)
    assert replay.recording(samples().slice(0, 0), "run", None).length_s == 0
