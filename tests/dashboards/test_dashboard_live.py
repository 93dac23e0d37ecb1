"""Live figures from pages with hand-worked numbers, from servers and from a Prometheus."""

import json
from collections.abc import Callable

import pytest
from made_shelf import gpu_page, page
from serving import answering

from dashboards.errors import SourceError
from dashboards.screens.live import alerts, charts, sources
from dashboards.screens.live import view as live
from dashboards.screens.live.sources import Seen, Watch
from dashboards.theme import LIGHT
from monitoring.alerting.thresholds import load as load_thresholds
from monitoring.scrape.metrics import MetricsError, parse
from monitoring.scrape.window import scrape

LIMITS = load_thresholds()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def watching(
    pages: Callable[[str], str], addresses: tuple[str, ...] = ("http://a",), **more: float
) -> tuple[Watch, Clock]:
    clock = Clock()
    return Watch(addresses, history_s=more.get("history_s", 100), every_s=2, fetch=pages, clock=clock), clock


def test_rates_are_taken_over_the_window() -> None:
    state = {"tokens": 0.0, "requests": 0.0, "ttft_sum_s": 0.0}
    watch, clock = watching(lambda _: page(**state))
    watch.look()
    clock.now += 10
    state |= {"tokens": 500.0, "requests": 30.0, "ttft_sum_s": 6.0}
    found = live.server(watch.look()[0], 60, LIMITS)
    facts = {name: (value, remark) for name, value, remark in found.facts}
    assert found.up
    assert found.says == "healthy; serves demo-1m"
    assert facts["Output"] == ("50.0", "tokens/s")
    assert facts["Prompt"] == ("100", "tokens/s")
    assert facts["Requests"] == ("3.00", "ended/s")
    assert facts["Running"][0] == "3"
    assert facts["KV cache"] == ("25 %", "in use")
    assert facts["TTFT, mean"] == ("200 ms", "p95 100 ms to 250 ms")
    assert found.remark == "Over the last 10 s."


def test_a_server_that_is_down_says_so_and_since_when_nothing_is_known() -> None:
    def down(address: str) -> str:
        raise MetricsError(f"{address}/metrics: no connection")

    watch, _ = watching(down)
    found = live.server(watch.look()[0], 60, LIMITS)
    assert not found.up
    assert found.says == "does not answer: http://a/metrics: no connection."
    assert found.facts == ()


def test_a_server_that_went_down_keeps_its_history() -> None:
    answers = iter([page(tokens=1), page(tokens=2)])

    def fetch(_: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise MetricsError("gone") from None

    watch, clock = watching(fetch)
    for _ in range(3):
        seen = watch.look()
        clock.now += 2
    assert len(seen[0].scrapes) == 2
    assert "It last answered at" in live.server(seen[0], 60, LIMITS).says
    assert live.gpus(seen) == []


def test_pages_are_fetched_at_most_once_per_refresh_and_forgotten_after_the_history() -> None:
    calls: list[str] = []

    def fetch(address: str) -> str:
        calls.append(address)
        return page(tokens=len(calls))

    watch, clock = watching(fetch, history_s=10)
    watch.look()
    clock.now += 0.5
    watch.look()
    assert len(calls) == 1
    for _ in range(20):
        clock.now += 2
        seen = watch.look()
    assert len(seen[0].scrapes) == 6  # 10 s of history, one page every 2 s


def test_a_restart_and_other_pages_are_told() -> None:
    pages = iter([page(tokens=900, requests=9), page(tokens=40, requests=1)])
    watch, clock = watching(lambda _: next(pages))
    watch.look()
    clock.now += 4
    found = live.server(watch.look()[0], 60, LIMITS)
    assert {name: value for name, value, _ in found.facts}["Output"] == "10.0"  # 40 tokens since the new start
    assert "started anew" in found.remark
    other, _ = watching(lambda _: "# TYPE up gauge\nup 1.0\n")
    assert "no vLLM metrics" in live.server(other.look()[0], 60, LIMITS).says


def test_a_line_over_time_has_no_rate_across_a_gap() -> None:
    instants = (0, 2, 4, 60, 62)
    scrapes = tuple(scrape(at, parse(page(tokens=10.0 * at)), at) for at in instants)
    rows = live.course([Seen("http://a", scrapes)], "output")
    assert [row["value"] for row in rows] == pytest.approx([10, 10, 10])
    assert [row["at"][17:19] for row in rows] == ["02", "04", "02"]
    assert [row["part"] for row in rows] == ["http://a 0", "http://a 0", "http://a 1"]
    assert [row["value"] for row in live.course([Seen("http://a", scrapes)], "running")] == [3] * 5
    assert [row["value"] for row in live.course([Seen("http://a", scrapes)], "kv")] == [0.25] * 5


def test_the_axis_goes_on_where_a_server_stopped_answering() -> None:
    gone = Seen("http://a", tuple(scrape(at, parse(page(tokens=10.0 * at)), at) for at in (0, 2, 4)), "no connection")
    (down,) = live.outages([gone], 304.0)
    assert (down["from"], down["to"]) == (live.instant(4), live.instant(304))
    rows = live.course([gone], "output")
    drawn = charts.over_time(
        rows, LIGHT, title="tokens/s", series=["http://a"], until=live.instant(304), down=[down], limit=5.0
    ).to_dict()
    band, lines = drawn["layer"][:2]
    assert band["mark"]["type"] == "rect"
    assert lines["encoding"]["x"]["scale"]["domain"][1] == live.instant(304)
    assert "limit 5" in json.dumps(drawn)
    far = charts.over_time(rows, LIGHT, title="tokens/s", series=["http://a"], until=live.instant(304), limit=500.0)
    assert "limit" not in json.dumps(far.to_dict())


def test_a_server_that_stands_still_with_work_is_unhealthy() -> None:
    still = page(tokens=100) + 'vllm:iteration_tokens_total_count{engine="0",model_name="demo-1m"} 7\n'
    scrapes = tuple(scrape(at, parse(still), at) for at in range(0, 61, 5))
    found = live.server(Seen("http://a", scrapes), 20, LIMITS)
    assert found.health == "unhealthy" and found.says.startswith("unhealthy; serves")
    assert "hangs" in found.reasons[0]


def test_servers_typed_in_are_checked_one_by_one() -> None:
    found, problems = live.addresses("127.0.0.1:8000, http://127.0.0.1:8000/; http://u:p@h  http://b/v1")
    assert found == ("http://127.0.0.1:8000", "http://b")
    assert len(problems) == 1 and "user or password" in problems[0] and "u:p" not in problems[0]


FIRING = [
    {"labels": {"alertname": "GpuHot", "severity": "warning", "gpu": "0"}, "startsAt": "2026-11-26T10:00:00.000Z",
     "annotations": {"summary": "93 °C", "runbook_url": "http://127.0.0.1:9400/runbooks#gpu-hot"}},
    {"labels": {"alertname": "ServerDown", "severity": "critical", "instance": "a:8000"}, "startsAt": "2026-11-26",
     "annotations": {"summary": "down", "runbook_url": "docs/runbooks.md#server-down"}},
    "torn",
]  # fmt: skip


def test_firing_alerts_come_with_a_runbook_that_opens() -> None:
    with answering(200, json.dumps(FIRING)) as address:
        found = alerts.ask(address)
    assert [(one.name, one.about) for one in found] == [("ServerDown", "a:8000"), ("GpuHot", "0")]
    assert [row["What to do"] for row in live.alert_rows(found)] == [None, "http://127.0.0.1:9400/runbooks#gpu-hot"]
    of_prometheus = {"data": {"alerts": [{**FIRING[0], "state": "firing"}, {**FIRING[1], "state": "pending"}]}}  # type: ignore[dict-item]
    with answering(200, json.dumps(of_prometheus)) as address:
        assert [one.name for one in alerts.ask_prometheus(address)] == ["GpuHot"]


@pytest.mark.parametrize(
    ("status", "body", "said"), [(200, "<html>", "not with JSON"), (200, "{}", "not as an Al"), (503, "", "HTTP 503")]
)
def test_what_is_no_alertmanager_is_said(status: int, body: str, said: str) -> None:
    with answering(status, body) as address, pytest.raises(SourceError, match=said):
        alerts.ask(address)


def test_long_histories_are_thinned_and_keep_their_end() -> None:
    scrapes = tuple(scrape(at, [], at) for at in range(1000))
    thin = live.thinned(scrapes)
    assert len(thin) <= 120
    assert thin[-1].at_s == 999


def test_gpus_come_from_the_exporters_page() -> None:
    watch, _ = watching(lambda _: gpu_page(celsius=83))
    first, second = live.gpus(watch.look())
    assert (first["GPU"], first["Temperature"], first["Memory"]) == ("0: Example GPU", "83 °C", "8.00 GiB of 24.0 GiB")
    assert (first["Busy"], first["Power"], first["State"]) == ("50 %", "250 W", "answers")
    assert (second["State"], second["Temperature"]) == ("lost or not answering", "–")


def test_percentiles_of_buckets_are_told_as_bounds() -> None:
    assert live.bound_words({"p95_more_than_s": 0.1, "p95_at_most_s": 0.25}) == "p95 100 ms to 250 ms"
    assert live.bound_words({"p95_more_than_s": 2560.0}) == "p95 above 2,560 s"
    assert live.bound_words({"p95_more_than_s": 0.0, "p95_at_most_s": 0.1}) == "p95 at most 100 ms"
    assert live.bound_words({"count": 3}) == "too few for a p95"


def matrix() -> str:
    def series(name: str, values: list[tuple[float, str]], **labels: str) -> dict[str, object]:
        return {"metric": {"__name__": name, "job": "vllm", **labels}, "values": values}

    common = {"instance": "a:8000", "engine": "0", "model_name": "demo-1m"}
    result = [
        series("up", [(10.0, "1"), (20.0, "1")], instance="a:8000"),
        series("up", [(10.0, "1"), (20.0, "0")], instance="b:8000"),
        series("vllm:num_requests_running", [(10.0, "1"), (20.0, "4")], **common),
        series("vllm:generation_tokens_total", [(10.0, "100"), (20.0, "400")], **common),
        series("vllm:num_requests_running", [(10.0, "2")], instance="b:8000", engine="0"),
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def test_prometheus_gives_the_same_figures_from_what_it_stored() -> None:
    with answering(200, matrix()) as address:
        first, second = sources.ask_prometheus(address, history_s=60, now_s=20)
    facts = {name: value for name, value, _ in live.server(first, 60, LIMITS).facts}
    assert first.address == "a:8000"
    assert (facts["Output"], facts["Running"]) == ("30.0", "4")  # 300 tokens in 10 s
    assert live.server(second, 60, LIMITS).says.startswith("does not answer: Prometheus cannot scrape it")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>", "not as a Prometheus does"),
        (400, '{"status": "error", "error": "parse error"}', "refused the query: parse error"),
        (404, "{}", "refused the query: HTTP 404"),
    ],
)
def test_what_is_no_prometheus_is_said(status: int, body: str, said: str) -> None:
    with answering(status, body) as address, pytest.raises(SourceError, match=said):
        sources.ask_prometheus(address, history_s=60, now_s=20)


def test_a_prometheus_that_is_down_is_said() -> None:
    with answering(200, "") as address:
        pass
    with pytest.raises(SourceError, match="does not answer"):
        sources.ask_prometheus(address, history_s=60, now_s=20, timeout_s=2)
